"""The benchmark: its figures, its contestants, and a whole run on a tiny model, with a llama-server that is a fake."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import textwrap
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from edgespec.backend import LlamaContext, LlamaSampler
from edgespec.bench import metrics, run
from edgespec.bench.contestants import PLAIN, Contestants, in_lockstep
from edgespec.bench.divergence import divergence
from edgespec.bench.measurements import Answer
from edgespec.bench.memory import peak_of, peak_so_far
from edgespec.bench.peers import LlamaServer, PeerSpec, ProgramPeer, parse_peer, start_peer
from edgespec.bench.plots import draw
from edgespec.bench.report import markdown, summary_lines
from edgespec.bench.results import code_digest, origin, without_folders
from edgespec.bench.settings import Settings
from edgespec.bench.statistics import summary, surely_below
from edgespec.bench.versions import versions
from edgespec.cli import main
from edgespec.core import Draft, Evaluation, TokenSequence
from edgespec.decode.options import GenerationOptions
from edgespec.decode.sampling import SamplingParams
from edgespec.decode.session import Session
from edgespec.doctor import measure
from edgespec.drafters import make_drafter
from edgespec.engine import Engine, load
from edgespec.errors import EvaluationError, InvalidRequest
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import MAX_DRAFT, AdaptivePolicy
from edgespec.system.prompts import identified, read_prompts, spread, subtask
from edgespec.testing import FixedPolicy, KeyedSampler, TableModel
from tests.gguf_files import tiny_model
from tests.present import present
from tests.rounding import assert_same_answer
from tests.vocabtrim.test_pipeline import TEMPLATE

DRAFT = ("--spec-type", "draft-simple", "-md")
CATEGORIES = ("writing", "math", "rag", "qa")
SERVER = """
    import json, os, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer

    arguments = sys.argv[1:]
    if "--version" in arguments:
        sys.exit("a line before\\nversion: 5.4 (of a fake)\\nbuilt with care")
    if "--list-devices" in arguments:
        sys.exit("Available devices:\\n  FAKE0: A card (9 MiB, 8 MiB free)")
    if "--die" in arguments:
        sys.exit("error: no such drafter")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"status": "ok"})

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert asked["samplers"] == (["temperature"] if asked["temperature"] else ["top_k"])
            if "--picky" in arguments and len(asked["prompt"]) > 20:
                return self.reply({"error": "too long for me"}, 400)
            if "--frail" in arguments and len(asked["prompt"]) > 20:
                os._exit(7)
            tokens = [7] * asked["n_predict"]
            self.reply({"tokens": tokens, "timings": {
                "predicted_ms": 100.0, "prompt_ms": 50.0, "draft_n": 10, "draft_n_accepted": 4}})

        def reply(self, body, status=200):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    HTTPServer(("127.0.0.1", int(arguments[arguments.index("--port") + 1])), Handler).serve_forever()
"""


@given(st.lists(st.sampled_from(CATEGORIES), max_size=40), st.integers(1, 9))
def test_prompts_are_spread_evenly(categories: list[str], wanted: int) -> None:
    prompts = identified([{"turns": ["a"], "category": category} for category in categories])
    chosen = spread(prompts, wanted)
    there, taken = (Counter(subtask(one["category"]) for one in group) for group in (prompts, chosen))
    assert taken == Counter({name: min(wanted, count) for name, count in there.items()})
    assert len({one["question_id"] for one in chosen}) == len(chosen)
    for name in there:  # in the order of the file, and not all from its beginning
        numbers = [one["question_id"] for one in chosen if subtask(one["category"]) == name]
        assert numbers == sorted(numbers)
    seen: Counter[str] = Counter()
    for one in chosen:  # a run that was stopped has seen as many of each, as far as there are so many
        seen[subtask(one["category"])] += 1
        most = max(seen.values())
        assert all(seen[name] >= min(most - 1, taken[name]) for name in there)


def test_prompts_without_a_number_get_one() -> None:
    first, second = identified([{"turns": ["a"]}, {"turns": ["b"], "question_id": "x", "category": "rag"}])
    assert (first["question_id"], first["category"]) == (1, "all")
    assert (second["question_id"], second["category"]) == ("x", "rag")


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"turns": []}', '{"turns": [1]}', "[" * 100_000, r'{"turns": ["\ud83d"]}']
)
def test_what_is_no_prompt(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.jsonl").write_text('{"turns": ["a"]}\n\n' + line + "\n")
    with pytest.raises(InvalidRequest, match="line 3"):
        read_prompts(tmp_path / "p.jsonl")
    with pytest.raises(InvalidRequest, match="cannot read"):
        read_prompts(tmp_path / "missing")


@given(st.lists(st.lists(st.floats(0.1, 10), min_size=3, max_size=9), min_size=1, max_size=9))
def test_the_interval_holds_the_median(prompts: list[list[float]]) -> None:
    found = summary(prompts)
    low, high = found["interval"]
    assert found["median"] == statistics.median(map(statistics.median, prompts))
    assert min(map(min, prompts)) <= low <= found["median"] <= high <= max(map(max, prompts))


def test_a_prompt_with_more_rounds_counts_no_more() -> None:
    assert summary([[2.0] * 5, [1.0] * 20])["median"] == 1.5
    assert summary([[2.0] * 5, [1.0] * 20])["interval"] == [1.0, 2.0]
    assert summary([[1.0, 1.0, 1.0]] * 8)["interval"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("ratios", "below"),
    [
        ([0.90, 0.95, 0.92, 0.97, 0.93], True),
        ([0.90, 0.95, 0.92, 0.99, 0.93], False),  # of 5 rounds, one that was fast enough is enough
        ([0.90, 0.95, 0.92, 0.99, 0.93] * 9, True),  # of 45, it is not
        ([0.97, 0.981, 0.981, 0.981, 0.981], False),
    ],
)
def test_one_slow_prompt(ratios: list[float], below: bool) -> None:
    assert surely_below(ratios, 0.98) is below
    fast = [[1.1, 1.2, 1.1, 1.2, 1.1]] * 3
    assert summary([ratios, *fast])["interval"][1] > 1.0  # over prompts, it does not show
    rows = [
        {
            "answers": {
                PLAIN: [counted(11, 1.0)] * len(one),
                "auto": [counted(11, 1.0 / ratio) for ratio in one],
            }
        }
        for one in (ratios, *fast)
    ]
    ratio, count = present(metrics.slowest_prompt(rows, "auto"))
    assert ratio == pytest.approx(statistics.median(ratios)) and count == int(below)


@pytest.mark.parametrize(
    ("word", "left"),
    [("../a/m.gguf", "m.gguf"), ("/a/m.gguf", "m.gguf"), ("auto+/a/m.gguf,suffix", "auto+m.gguf,suffix"),
     ("benchmarks/r.json", "benchmarks/r.json"), ("name=-md /x/y.gguf --n 3", "name=-md y.gguf --n 3"),
     ("name=-md '/x z/y.gguf' --n 3", "name=-md y.gguf --n 3"), ("/home/me/my models/m.gguf", "m.gguf"),
     ("name=-md '/x/my y.gguf'", "name=-md 'my y.gguf'"),
     ("--peer=name=-md /x/y.gguf --n 3", "--peer=name=-md y.gguf --n 3"),
     ("--json=/a/my dir/r.json", "--json=r.json"), ("--prompts=/home/o'brien/p.jsonl", "--prompts=p.jsonl"),
     ("--per-subtask=4", "--per-subtask=4"), ("auto,auto+../my models/m.gguf", "auto,auto+m.gguf")],
)  # fmt: skip
def test_folders_stay_out_of_results(word: str, left: str) -> None:
    assert without_folders(word) == left


def counted(tokens: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {"tokens": tokens, "seconds": seconds, "blocks": tokens - 1, **more}


RESULT: dict[str, Any] = {
    "what": run.SUBJECT, "command": "edgespec bench", "date": "2000-01-01", "models": [{"file": "m.gguf", "bytes": 1}],
    "machine": {"cpu": "a CPU", "cores": 2}, "versions": {"edgespec": "0", "llama.cpp": "b1; x"},
    "settings": {
        "drafters": ["auto"], "peers": {"other": ""}, "temperature": 0.0, "tokens": 21, "rounds": 2, "peer_rounds": 1,
    },
    "shares": {"auto": {"x": 0.25, "y": 0.5}, PLAIN: {}},
    "memory": {PLAIN: 10_000_000, "auto": 12_000_000, "other": None},
    "curve": {"context": 256, "busy": False, "ms": {"1": 10.0, "2": 12.0, "4": 16.0, "8": 40.0}},
    "skipped": [{"question_id": 9, "category": "rag", "reason": "too long"}],
    "prompts": [
        {
            "question_id": 1, "category": "math", "prompt_tokens": 5,
            "first_token_seconds": {PLAIN: 1.0, "auto": 1.5, "other": 2.0},
            "answers": {
                PLAIN: [counted(11, 1.0), counted(11, 2.0)],
                "auto": [
                    counted(11, 0.5, blocks=5, drafted=8, accepted=5, guesses={"x": 10, "y": 5},
                         judged_at={"x": [12, 3]}, accepted_at={"x": [9, 1]}),
                    counted(11, 2.0, blocks=9, drafted=2, accepted=1, judged_at={"x": [2]},
                         accepted_at={"x": [1]}),
                ],
                "other": [counted(11, 4.0)],
            },
            "partings": {"other": {"position": 3, "plain": 1, "drafted": 2, "margin": 0.25}},
        },
        {
            "question_id": 2, "category": "qa", "prompt_tokens": 5,
            "first_token_seconds": {PLAIN: 1.0, "auto": 1.0, "other": 1.0},
            "answers": {PLAIN: [counted(21, 2.0)], "auto": [counted(21, 2.0)], "other": [counted(21, 1.0)]},
            "partings": {},
        },
    ],
}  # fmt: skip


class TestFigures:
    rows: list[dict[str, Any]] = RESULT["prompts"]

    def test_speeds(self) -> None:
        assert metrics.ratios(self.rows[0], "auto", PLAIN) == [2.0, 1.0]
        assert metrics.ratios(self.rows[0], "other", PLAIN) == [0.25]  # it sat the second round out
        assert metrics.mean_ratio(self.rows, "auto", PLAIN) == pytest.approx((1.5 + 1.0) / 2)
        assert present(metrics.median_ratio(self.rows[:1], "auto", PLAIN))["median"] == 1.5
        # the peer answered in the first round only, and is compared with that one
        assert metrics.total_ratio(self.rows[:1], "auto", "other") == pytest.approx(20 / 2.5)
        assert metrics.total_ratio(self.rows, "auto", PLAIN) == pytest.approx(
            (11 / 7.5 + 21 / 10) / (11 / 12.5 + 21 / 10)
        )
        assert metrics.whole_ratio(self.rows, "auto", PLAIN) == pytest.approx(
            (1.0 + 10 / 7.5 + 1.0 + 20 / 10) / (1.5 + 10 / 12.5 + 1.0 + 20 / 10)
        )
        # 11 tokens at the median of 10 and 5 tokens/s, and 21 tokens at 10
        assert metrics.total_speed(self.rows, PLAIN) == pytest.approx(32 / (11 / 7.5 + 21 / 10))

    def test_blocks_and_acceptance(self) -> None:
        assert metrics.block_length(self.rows, PLAIN) == 1.0
        assert metrics.block_length(self.rows[:1], "auto") == pytest.approx(20 / 14)
        assert metrics.acceptance(self.rows, "auto") == pytest.approx(6 / 10)
        assert metrics.acceptance(self.rows, PLAIN) is None
        assert metrics.acceptance_by_position(self.rows, "auto") == {"x": [(10, 14), (1, 3)]}
        # 20 tokens in 14 evaluations, 10 guesses of a quarter of the bytes and 5 of half of them
        assert metrics.memory_bound(self.rows[:1], "auto", RESULT["shares"]["auto"]) == pytest.approx(20 / 19)

    def test_a_short_answer_with_more_rounds_counts_no_more(self) -> None:
        short, long = counted(11, 1.0), counted(21, 2.0, blocks=10, drafted=10, accepted=10)
        rows = [{"answers": {"auto": [short] * rounds}} for rounds in (1, 20)] + [{"answers": {"auto": [long]}}]
        assert metrics.block_length(rows[::2], "auto") == metrics.block_length(rows[1:], "auto") == 30 / 20
        assert metrics.total_count(rows[1:], "auto", "drafted") == 10

    def test_a_first_block_of_several_tokens_is_paid_for_once(self) -> None:
        """transformers' first block has drafted tokens too: they come with the first token."""
        plain, assisted = (
            counted(11, 1.0),
            counted(11, 1.0, blocks=3, accepted=3),
        )  # 5 tokens at first, and 6 later
        row = {"answers": {PLAIN: [plain], "t": [assisted]}, "first_token_seconds": {PLAIN: 1.0, "t": 1.0}}
        assert metrics.block_length([row], "t") == 2.0
        assert metrics.whole_ratio([row], "t", PLAIN) == pytest.approx(2.0 / 1.6)

    def test_what_to_keep_in_mind_is_said(self) -> None:
        text = markdown(RESULT, {})
        assert "1 of 2 answers were cut at 21 tokens" in text
        assert "took part in the first round of 2, and their ratios are of that;" in text
        # 0.25 times plain decoding's 7.5 in the first prompt's shared round, twice its speed in the other
        speed = metrics.total_ratio(self.rows, "other", PLAIN) * metrics.total_speed(self.rows, PLAIN)
        assert f"| `other` | {speed:.2f} |" in text

    def test_the_report_of_a_run_that_was_stopped(self, tmp_path: Path) -> None:
        stopped = {key: value for key, value in RESULT.items() if key not in ("curve", "memory", "shares")}
        text = markdown(stopped, draw(stopped, tmp_path, "r"))
        assert "| multi-turn (1) | 7.50 |" in text and "T(n)" not in text
        assert sorted(path.name for path in tmp_path.iterdir()) == ["r-acceptance.png", "r-speed-up.png"]

    def test_an_answer_of_one_token_has_no_speed(self) -> None:
        row = {
            **self.rows[0],
            "answers": {**self.rows[0]["answers"], "other": [{"tokens": 1, "seconds": 0.0, "blocks": 0}]},
        }
        result = {**RESULT, "prompts": [row]}
        assert (
            metrics.median_ratio([row], "other", PLAIN) is None and metrics.total_ratio([row], "auto", "other") == 0.0
        )
        assert "`other`" in markdown(result, {})
        assert any(line.startswith("other: 0.00") for line in summary_lines(result))

    def test_texts_drawn_by_other_programs_are_not_compared(self) -> None:
        assert "| 2 of 2 |" in markdown(RESULT, {}) and "| 1 of 2 |" in markdown(RESULT, {})
        sampled = {**RESULT, "settings": {**RESULT["settings"], "temperature": 0.7}}
        assert "| 1 of 2 |" not in markdown(sampled, {})

    def test_who_drafted_nothing(self) -> None:
        drafted = {**self.rows[0], "answers": {**self.rows[0]["answers"], "other": [counted(11, 4.0, drafted=2)]}}
        accepted = {**self.rows[0], "answers": {**self.rows[0]["answers"], "other": [counted(11, 4.0, accepted=2)]}}
        assert not metrics.drafts(self.rows, "other") and metrics.drafts(self.rows, "auto")
        assert "by subtask:" in markdown(RESULT, {})
        assert "by subtask:" not in markdown({**RESULT, "prompts": self.rows[1:]}, {})  # where nobody drafted
        assert metrics.drafts([drafted], "other") and metrics.drafts([accepted], "other")
        text = markdown({**RESULT, "prompts": [drafted, self.rows[1]]}, {})
        assert "| multi-turn | 8.00; 8.00 |" in text and "| qa | 0.50; 0.50 (no drafts) |" in text

    def test_the_best_possible(self) -> None:
        ratio, length = metrics.best_possible(RESULT["curve"])
        assert ratio == pytest.approx(2.5) and length == 4
        drafted, too_long = str(MAX_DRAFT + 1), str(MAX_DRAFT + 2)
        assert metrics.best_possible({"ms": {"1": 1.0, drafted: 10.0, too_long: 1.0}}) == (4.9, 49)

    def test_same_text(self) -> None:
        assert metrics.same_text(self.rows, "other") == "1 of 2" and metrics.same_text(self.rows, "auto") == "2 of 2"

    def test_a_peer_that_failed_on_a_prompt(self) -> None:
        row = {
            **self.rows[1], "answers": {**self.rows[1]["answers"], "other": []}, "failed": {"other": "it fell over"},
            "first_token_seconds": {PLAIN: 1.0, "auto": 1.0},
        }  # fmt: skip
        rows = [self.rows[0], row]
        assert metrics.same_text(rows, "other") == "0 of 1"
        assert present(metrics.first_token(rows, "other"))["median"] == 2.0
        assert metrics.first_token([row], "other") is None
        for key in ("total_ratio", "whole_ratio", "mean_ratio"):
            figure = getattr(metrics, key)
            assert (
                figure(rows, "other", PLAIN) == figure(rows[:1], "other", PLAIN) and figure([row], "other", PLAIN) == 0
            )
        result = {**RESULT, "prompts": rows}
        assert "No answer: other to qa 2, it fell over." in markdown(result, {})
        assert "no answer: other to qa 2, it fell over" in list(summary_lines(result))
        assert "`other`" in markdown({**result, "prompts": [row]}, {})

    def test_the_groups(self) -> None:
        assert {name: len(group) for name, group in metrics.groups(self.rows).items()} == {
            "multi-turn": 1, "qa": 1, "overall": 2
        }  # fmt: skip

    def test_the_report(self) -> None:
        text = markdown(RESULT, {"A picture": "p.png"})
        for expected in ("| multi-turn (1) | 7.50 | 1.50", "| multi-turn (1) | 1.500; 0 |", "always in the same order",
                         "| overall (2) | 1.000; 0 |", "| multi-turn | 8.00; 8.00 (no drafts) |",
                         "| 1.00 s |", "| 1.25 [1.00, 1.50] |", "| 1.50 [1.00, 2.00] |", "| multi-turn | 1.43; 60% |",
                         "60% of 5", "Left out: rag 9", "![A picture](p.png)",
                         "math 1", "0.2500", "| 71% |  |", "2.50 times as fast (4 tokens"):  # fmt: skip
            assert expected in text, expected


class TestPeers:
    @pytest.mark.parametrize(
        ("text", "spec"),
        [
            ("llama-cpp-python", ("llama-cpp-python", None)),
            ("prompt-lookup", ("prompt-lookup 2", None, 2)),
            ("prompt-lookup=10", ("prompt-lookup 10", None, 10)),
            (f"transformers={__file__}", ("transformers float32", None, 0, Path(__file__), "float32")),
            (f"transformers:bfloat16={__file__}", ("transformers bfloat16", None, 0, Path(__file__), "bfloat16")),
            ("llama-server", ("llama-server", ())),
            ("ngram-mod", ("ngram-mod", ("--spec-type", "ngram-mod"))),
            ("mine=-md 'a b.gguf' -x", ("mine", ("-md", "a b.gguf", "-x"))),
            (f"draft-simple={__file__}", ("draft-simple 3 test_run", (*DRAFT, __file__, "--spec-draft-n-max", "3"))),
            (
                f"draft-simple:6={__file__}",
                ("draft-simple 6 test_run", (*DRAFT, __file__, "--spec-draft-n-max", "6")),
            ),
        ],
    )
    def test_by_name(self, text: str, spec: tuple[Any, ...]) -> None:
        assert parse_peer(text) == PeerSpec(*spec)

    @pytest.mark.parametrize(
        "text",
        ["", "nobody", "prompt-lookup=0", "prompt-lookup=x", "mine='", "transformers", "transformers=no.gguf",
         f"transformers:int3={__file__}",
         "draft-simple", "draft-simple:0=x", "draft-simple:2=no.gguf"],
    )  # fmt: skip
    def test_unknown(self, text: str) -> None:
        with pytest.raises(InvalidRequest):
            parse_peer(text)


def test_versions_are_kept_of_what_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgespec.bench.versions.version", lambda package: {"torch": "2.0"}.get(package) or version(package)
    )
    specs = [parse_peer("prompt-lookup"), parse_peer(f"transformers={__file__}")]
    assert dict(versions(specs[:1], None)) == {}
    assert dict(versions(specs, None))["torch"] == "2.0"
    monkeypatch.setattr("edgespec.bench.versions.version", lambda package: version("no-such-package"))
    assert dict(versions(specs, None)) == {}


@pytest.mark.model
def test_peers_in_python_say_what_plain_decoding_says(smollm2: Path, tmp_path: Path) -> None:
    with load(smollm2, drafter="none", n_ctx=128, cache_dir=tmp_path) as engine:
        text = "One, two, three, four, five, six,"
        prompt = engine.tokenize(text)
        said = tuple(engine.generate(text, raw=True, max_tokens=24).emitted)
        names = ["llama-cpp-python", "prompt-lookup"]
        if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):  # several GB: used where they are
            names.append(f"transformers={smollm2}")
        for name in names:
            peer = start_peer(parse_peer(name), smollm2, server=None, n_ctx=128, threads=2, gpu_layers=0)
            try:
                answer = peer.answer(prompt, 24, 0.0, 1)
            finally:
                assert (peer.close() or 0) > 100_000_000
            if name.startswith("transformers"):  # other arithmetic: soon another text
                assert answer.tokens[:4] == said[:4]
            else:
                assert_same_answer(engine, prompt, said, answer.tokens, SamplingParams())
            assert len(answer.tokens) == 24 and answer.seconds > 0
            assert answer.blocks < 23 if answer.accepted else answer.blocks == 23


def test_a_peer_that_dies_says_why() -> None:
    with pytest.raises(EvaluationError, match=r"the peer mine ended with status 1: .*no_such_module"):
        ProgramPeer("mine", "edgespec.no_such_module", ())


def test_memory_of_other_processes() -> None:
    small, large = (peak_of([sys.executable, "-c", f"b'x' * {size}"]) for size in (1, 200_000_000))
    assert 150e6 < large - small < 250e6 and small < 60e6
    with pytest.raises(EvaluationError, match="status 3"):
        peak_of([sys.executable, "-c", "raise SystemExit(3)"])
    assert peak_so_far(1 << 30) is None


class Watched:
    """A session that notes its turns."""

    def __init__(self, name: str, turns: list[tuple[str, int]], drafts: bool) -> None:
        model = TableModel(seed=3, order=1)
        policy = FixedPolicy(make_drafter("suffix"), 4) if drafts else AdaptivePolicy((), LatencyModel(8))
        self._session = Session(
            model, model, KeyedSampler(), policy, TokenSequence([1, 2]), GenerationOptions(max_tokens=60)
        )
        self._name, self._turns = name, turns

    def step(self) -> None:
        self._turns.append((self._name, len(self._session.emitted)))
        self._session.step()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def test_lockstep_lets_whoever_is_behind_go_on() -> None:
    turns: list[tuple[str, int]] = []
    sessions = {name: Watched(name, turns, drafts) for name, drafts in (("a", True), ("b", False), ("c", False))}
    seconds = in_lockstep(cast(dict[str, Session], sessions))
    assert all(session.finished for session in sessions.values()) and all(value > 0 for value in seconds.values())
    texts = {tuple(session.emitted) for session in sessions.values()}
    assert len(texts) == 1
    have = dict.fromkeys(sessions, 0)
    for name, before in turns:
        have[name] = before
        others = [count for other, count in have.items() if other != name]
        assert before == 0 or all(before <= count + 5 for count in others)  # a block has 5 tokens at most


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model that can be talked to, prompts for it, and a server; nothing else runs, it seems.

    What was measured while other programs had the cores is measured again by the next run.
    """
    timed = measure.timed
    monkeypatch.setattr(
        measure, "timed", lambda *arguments, **options: timed(*arguments, **options)._replace(busy=False)
    )
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    prompt_lines = [
        {"question_id": n, "category": CATEGORIES[n % 4], "turns": [f"{'w300 ' * n}prompt"]} for n in range(4)
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, prompt_lines)))
    (tmp_path / "server").write_text(f"#!{sys.executable}\n{textwrap.dedent(SERVER)}")
    (tmp_path / "server").chmod(0o755)
    return tmp_path


BENCH = (
    "bench",
    "-m",
    "tiny.gguf",
    "--prompts",
    "p.jsonl",
    "-n",
    "12",
    "--rounds",
    "2",
    "--ctx",
    "128",
    "--threads",
    "1",
)


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*BENCH, *arguments])


def test_a_whole_run(here: Path) -> None:
    peers = ("--peer", "llama-cpp-python", "--peer", "prompt-lookup=3", "--peer", "ngram-simple", "--server", "server")
    result = bench("-d", "auto,anpd", *peers, "--json", "r.json", "--report", "r.md")
    assert result.exit_code == 0, result.output
    names = ["auto", "anpd", "plain", "llama-cpp-python", "prompt-lookup 3", "ngram-simple"]
    found = json.loads((here / "r.json").read_text())
    assert [row["question_id"] for row in found["prompts"]] == [0, 1, 2, 3] and not found["skipped"]
    for row in found["prompts"]:
        assert sorted(row["answers"]) == sorted(names)
        assert row["first_token_seconds"]["auto"] > 0
        assert len(row["answers"]["auto"]) == len(row["answers"]["plain"]) >= 2
        assert len(row["answers"]["ngram-simple"]) == 1  # --peer-rounds
        assert all(answer["seconds"] > 0 for answer in row["answers"]["auto"])
        assert rounded_apart(row, {"auto", "anpd"})
        assert row["partings"]["ngram-simple"]["drafted"] == 7  # the fake says nothing else
    assert set(found["memory"]) == set(names) and found["memory"]["auto"] > 10_000_000
    assert found["curve"]["ms"]["1"] > 0
    assert [row["backwards"] for row in found["prompts"]] == [False, True, True, False]  # two subtasks in turn
    assert found["versions"]["llama-server"] == "5.4 (of a fake), FAKE0" and "single_seconds" in found["began"]
    report = (here / "r.md").read_text()
    assert "llama-server 5.4 (of a fake), FAKE0" in report and f"(code {code_digest()})" in report
    assert "with every other prompt in the opposite order" in report
    assert str(here) not in (here / "r.json").read_text()
    pictures = sorted(path.name for path in here.glob("*.png"))
    assert "r-curve.png" in pictures and "r-speed-up.png" in pictures and all(name in report for name in pictures)
    assert "anpd: " in result.stdout and "measured 4 of 4 prompts" in result.stderr

    before = (here / "r.json").read_bytes()
    again = bench("-d", "auto,anpd", *peers, "--json", "r.json")
    assert again.exit_code == 0 and again.stderr.splitlines() == ["loading", "measured 4 of 4 prompts"]
    assert json.loads((here / "r.json").read_bytes())["prompts"] == json.loads(before)["prompts"]


def rounded_apart(row: Mapping[str, Any], names: Container[str]) -> bool:
    """Whether answers of these contestants part from plain decoding's within the rounding of 32-bit weights, if at all.

    Keys and values are kept with 11 bits, and half of that is what rounding turns over.
    """
    return all(part["margin"] < 0.01 for name, part in row["partings"].items() if name in names)


def test_a_stopped_run_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = Contestants.answer
    asked = []

    def stop(
        self: Contestants, prompt: Sequence[int], count: int, sampling: SamplingParams, **options: Any
    ) -> dict[str, Answer]:
        asked.append(tuple(prompt))
        if len(set(asked)) == 3:
            raise KeyboardInterrupt
        return answered(self, prompt, count, sampling, **options)

    monkeypatch.setattr(Contestants, "answer", stop)
    result = bench("--json", "r.json")
    assert result.exit_code == 130 and "continues with r.json" in result.stderr
    assert len(json.loads((here / "r.json").read_text())["prompts"]) == 2
    asked.clear()

    def noted(self: Contestants, prompt: Sequence[int], *others: Any, **options: Any) -> dict[str, Answer]:
        asked.append(tuple(prompt))
        return answered(self, prompt, *others, **options)

    monkeypatch.setattr(Contestants, "answer", noted)
    result = bench("--json", "r.json")
    assert result.exit_code == 0 and len(set(asked)) == 2
    assert len(json.loads((here / "r.json").read_text())["prompts"]) == 4


KNOWN = {"single_seconds": 0.5, "ratios": {"2": [1.5, 6]}, "deeper": {}}


def test_more_prompts_in_the_same_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench("--limit", "1", "--json", "r.json").exit_code == 0
    first = json.loads((here / "r.json").read_text())
    (here / "r.json").write_text(json.dumps({**first, "date": "2001-01-01", "began": KNOWN}))
    assert bench("--limit", "1", "--json", "r.json").exit_code == 0  # nothing is measured
    assert json.loads((here / "r.json").read_text())["date"] == "2001-01-01"
    begun = []
    begin = Contestants.begin

    def noted(self: Contestants, known: Mapping[str, Any]) -> None:
        begun.append(known)
        begin(self, known)

    monkeypatch.setattr(Contestants, "begin", noted)
    assert bench("--limit", "2", "--json", "r.json").exit_code == 0
    found = json.loads((here / "r.json").read_text())
    assert len(found["prompts"]) == 2 and found["began"] == begun[-1] == KNOWN  # and not what the first prompt taught
    assert found["date"] == first["date"] and found["command"] == first["command"]


def test_the_order_alternates(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, int, bool | None]] = []
    answered = Contestants.answer

    def ours(
        self: Contestants, prompt: Sequence[int], count: int, sampling: SamplingParams, *, backwards: bool = False
    ) -> dict[str, Answer]:
        turns.append(("field", count, backwards))
        return answered(self, prompt, count, sampling, backwards=backwards)

    def theirs(
        self: ProgramPeer,
        prompt: Sequence[int],
        count: int,
        temperature: float,
        seed: int,
        *,
        prefill_all: bool = False,
    ) -> Answer:
        assert prefill_all == (count == run.WARM_UP) or count == run._MEMORY_TOKENS
        turns.append((self._name, count, None))
        return Answer(tokens=(1, 2), seconds=1.0, first_token_seconds=1.0, blocks=1)

    monkeypatch.setattr(Contestants, "answer", ours)
    monkeypatch.setattr(ProgramPeer, "answer", theirs)
    peers = ("--peer", "llama-cpp-python", "--peer", "prompt-lookup")
    result = bench("--limit", "2", *peers, "--json", "r.json")
    assert result.exit_code == 0, result.output
    forward = [
        ("field", run.WARM_UP, False),
        ("llama-cpp-python", run.WARM_UP, None),
        ("prompt-lookup 2", run.WARM_UP, None),
    ]
    warm_ups = [turn for turn in turns if turn[1] == run.WARM_UP]
    assert warm_ups == [*forward, *reversed(forward[1:]), ("field", run.WARM_UP, True)]
    rounds = [bool(backwards) for name, count, backwards in turns if (name, count) == ("field", 12)]
    assert rounds[:2] == [False, True] and sum(rounds) * 2 == len(rounds)
    row = json.loads((here / "r.json").read_text())["prompts"][1]
    assert list(row["first_token_seconds"]) == ["auto", "plain", "llama-cpp-python", "prompt-lookup 2"]


@pytest.mark.parametrize(("cached", "evaluated"), [(True, [3, 4]), (False, [4])])
def test_margins_are_of_the_evaluations_that_the_answers_had(
    here: Path, monkeypatch: pytest.MonkeyPatch, cached: bool, evaluated: list[int]
) -> None:
    lengths = []
    evaluate = LlamaContext.evaluate

    def noted(self: LlamaContext, tokens: Sequence[int], draft: Draft) -> Evaluation:
        lengths.append(len(tokens))
        return evaluate(self, tokens, draft)

    monkeypatch.setattr(LlamaContext, "evaluate", noted)
    with load("tiny.gguf", drafter="none", n_ctx=128, threads=1) as engine:
        part = present(divergence(engine.context, [1, 2, 3], [4, 5], [4, 6], SamplingParams(), cached=cached))
        assert (part.position, part.plain, part.drafted) == (1, 5, 6) and lengths == evaluated


def test_a_field_backwards(here: Path) -> None:
    with Contestants("tiny.gguf", ["auto", "anpd"], n_ctx=128, threads=1, gpu_layers=0) as field:
        for backwards, names in ((False, ["auto", "anpd", PLAIN]), (True, [PLAIN, "anpd", "auto"])):
            assert list(field.answer([1, 2, 3], 4, SamplingParams(), backwards=backwards)) == names


def test_a_contestant_without_trees(here: Path) -> None:
    names = ["suffix", "suffix:chains"]
    with Contestants("tiny.gguf", names, n_ctx=128, threads=1, gpu_layers=0) as field:
        assert [field._engines[name].context.trees for name in (*names, PLAIN)] == [True, False, True]
        assert list(field.answer([1, 2, 3], 4, SamplingParams())) == [*names, PLAIN]
    with Contestants("tiny.gguf", names[1:], n_ctx=128, threads=1, gpu_layers=0) as field:
        assert not field.first.context.trees


def test_everybody_reads_all_of_each_prompt(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of an earlier prompt was evaluated in other company, and rounds otherwise."""
    sessions = []
    session = Engine.session

    def kept(self: Engine, prompt: Sequence[int], *, max_tokens: int, **options: Any) -> Session:
        sessions.append((max_tokens, session(self, prompt, max_tokens=max_tokens, **options)))
        return sessions[-1][1]

    monkeypatch.setattr(Engine, "session", kept)
    (here / "p.jsonl").write_text("".join(json.dumps({"turns": [f"w300 w301 {end}"]}) + "\n" for end in ("a", "b")))
    assert bench("--json", "r.json").exit_code == 0
    warm_ups = [one.tally.cached_tokens for count, one in sessions if count == run.WARM_UP]
    assert warm_ups == [0] * 4
    assert 0 not in [one.tally.cached_tokens for count, one in sessions if count == 12]


def test_a_drafter_in_the_working_folder(here: Path) -> None:
    for name in ("small.gguf", "a+b.gguf"):
        (here / name).write_bytes((here / "tiny.gguf").read_bytes())
    result = bench("-d", "auto+small.gguf,a+b.gguf", "--limit", "1", "--json", "r.json")
    assert result.exit_code == 0, result.output
    found = json.loads((here / "r.json").read_text())
    assert found["memory"]["auto+small.gguf"] > 10_000_000 and found["memory"]["a+b.gguf"] > 10_000_000
    size = (here / "tiny.gguf").stat().st_size
    names = ("tiny.gguf", "small.gguf", "a+b.gguf")
    assert found["models"] == [{"file": name, "bytes": size} for name in names]
    assert str(here) not in (here / "r.json").read_text()
    (here / "small.gguf").write_bytes((here / "tiny.gguf").read_bytes() + b"\0" * 32)
    result = bench("-d", "auto+small.gguf,a+b.gguf", "--json", "r.json")
    assert result.exit_code == 1 and "begun with another models" in result.stderr


def test_a_server_ends_when_its_memory_is_no_longer_measured(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, ended = LlamaServer.answer, []
    close = LlamaServer.close

    def interrupted(
        self: LlamaServer,
        prompt: Sequence[int],
        count: int,
        temperature: float,
        seed: int,
        *,
        prefill_all: bool = False,
    ) -> Answer:
        if count == run._MEMORY_TOKENS:
            raise KeyboardInterrupt
        return answered(self, prompt, count, temperature, seed, prefill_all=prefill_all)

    def closed(self: LlamaServer) -> int | None:
        peak = close(self)
        ended.append(self._process.poll())
        return peak

    monkeypatch.setattr(LlamaServer, "answer", interrupted)
    monkeypatch.setattr(LlamaServer, "close", closed)
    result = bench("--limit", "1", "--peer", "ngram-simple", "--server", "server", "--json", "r.json")
    assert result.exit_code == 130
    assert len(ended) == 2 and None not in ended  # the one that was timed, and the one whose memory was to be measured


def test_every_other_prompt_of_a_subtask_has_the_opposite_order() -> None:
    for count in (1, 2, 3, 5, 6):
        rows = []
        for _ in range(4):
            rows += [{"category": str(number)} for number in range(count)]
        turns = [run._order_number(row, rows[:number]) for number, row in enumerate(rows)]
        for number in range(count):
            assert [turn % 2 for turn in turns[number::count]] in ([0, 1, 0, 1], [1, 0, 1, 0])
        assert [turn % 2 for turn in turns[:count]] == [number % 2 for number in range(count)]


def test_a_server_that_remembers_is_started_anew_for_each_answer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    start = LlamaServer._start

    def noted(self: LlamaServer) -> None:
        begun.append(tuple(self._arguments))
        start(self)

    monkeypatch.setattr(LlamaServer, "_start", noted)
    asked = []
    complete = LlamaServer._complete

    def completed(self: LlamaServer, prompt: Sequence[int], count: int, *others: Any, prefill_all: bool) -> Answer:
        asked.append((self._is_stateful, len(prompt), prefill_all))
        return complete(self, prompt, count, *others, prefill_all=prefill_all)

    monkeypatch.setattr(LlamaServer, "_complete", completed)
    peers = ("--peer", "ngram-simple", "--peer", "mine=--spec-type=ngram-cache", "--server", "server")
    assert bench("--limit", "3", *peers, "--peer-rounds", "2", "--json", "r.json").exit_code == 0
    after_one_token = [later for before, later in pairwise(asked) if before[:2] == (True, 1)]
    assert len(after_one_token) == 8 and all(whole for _, _, whole in after_one_token)  # as everybody else's prompt
    of_memory = 1
    assert sum("--spec-type=ngram-cache" in one for one in begun) == 3 * (1 + 2) + of_memory  # and the warm-up's
    assert sum("ngram-simple" in one for one in begun) == 1 + of_memory


def test_a_curve_of_a_busy_machine_is_measured_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = measure.timed
    with monkeypatch.context() as patch:
        patch.setattr(measure, "timed", lambda *both, **options: timed(*both, **options)._replace(busy=True))
        assert bench("--limit", "1", "--json", "r.json").exit_code == 0
    assert json.loads((here / "r.json").read_text())["curve"]["busy"]
    assert bench("--limit", "1", "--json", "r.json").exit_code == 0
    assert not json.loads((here / "r.json").read_text())["curve"]["busy"]


def test_seeded_answers_are_the_same_too(here: Path) -> None:
    assert bench("--temp", "0.8", "--limit", "2", "--json", "r.json").exit_code == 0
    assert all(rounded_apart(row, {"auto"}) for row in json.loads((here / "r.json").read_text())["prompts"])


def test_answers_sampled_as_in_a_chat_are_the_same_too(here: Path) -> None:
    """The tiny model is unknown: it gets edgespec's own temperature, and the guard."""
    result = bench("--sampling", "chat", "--limit", "2", "--json", "r.json", "--report", "r.md")
    assert result.exit_code == 0, result.output
    found = json.loads((here / "r.json").read_text())
    assert found["settings"]["sampling"] == "chat"
    assert all(rounded_apart(row, {"auto"}) for row in found["prompts"])
    words = "temperature 0.7, min-p 0.05 (edgespec's), repetition guard"
    assert found["chat_sampling"] == words and f"sampled as in a chat, with {words}:" in (here / "r.md").read_text()
    assert bench("--limit", "2", "--json", "r.json").exit_code == 1, "greedy answers are of another run"
    assert bench("--sampling", "chat", "--temp", "1").exit_code == 2


def test_the_margin_of_a_penalized_token_has_its_penalty(here: Path) -> None:
    params = SamplingParams(logit_bias={6: 3.0}, dry_multiplier=5.0, dry_breakers=(), dry_prompt=False)
    with load("tiny.gguf", drafter="none", n_ctx=128, threads=1) as engine:

        def margin(sampling: SamplingParams) -> float:
            prompt, plain = [1, 2, 3], [7, 8, 6, 7, 8, 5]
            sampler = LlamaSampler(engine.model.vocabulary, sampling, history=prompt)
            return present(divergence(engine.context, prompt, plain, [*plain[:5], 6], sampling, sampler=sampler)).margin

        assert margin(params) == pytest.approx(margin(SamplingParams()) - 3.0 + 5.0, abs=1e-3)


def test_prompts_that_cannot_be_measured_are_left_out(here: Path) -> None:
    (here / "p.jsonl").write_text(json.dumps({"turns": ["w300 " * 200]}) + "\n" + json.dumps({"turns": ["a"]}))
    result = bench("--json", "r.json", "--report", "r.md")
    assert result.exit_code == 0, result.output
    found = json.loads((here / "r.json").read_text())
    assert len(found["prompts"]) == 1 and "too long" in found["skipped"][0]["reason"]
    assert "too long" in result.stderr and "too long" in (here / "r.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--peer", "nobody"), "no peer 'nobody'"),
        (("--peer", "ngram-mod"), "--server"),
        (("--peer", "mine=--die", "--server", "server"), "error: no such drafter"),
        (("--peer", "mine=-x", "--server", "p.jsonl"), "cannot be started"),
        (("--peer", "mine=-x", "--server", "mute"), "--version ended with status 3 and told no version"),
        (("--json", "earlier.json"), "it does not say which code it was measured with"),
        (("--json", "changed.json"), "another code (0123)"),
        (("-d", "auto,auto"), "named twice"),
        (("-d", "nobody"), "no drafter 'nobody'"),
        (("--json", "p.jsonl"), "no result of this benchmark"),
        (("--json", "old.json"), "another rounds, seed (9, 8)"),
        (("--json", "p.jsonl/r.json"), "cannot be written"),
        (("-d", "none"), "plain decoding always takes part"),
        (("--report", "p.jsonl/r.md"), "cannot be written"),
        (("--report", "."), "that is a folder"),
        (("--json", "strangers.json"), "has 1 prompts that are not to be measured now"),
    ],
)
def test_bad_input_gets_one_line(here: Path, arguments: tuple[str, ...], message: str) -> None:
    settings = {**Settings(None, ["auto"], count=12, n_ctx=128, threads=1).as_json(), "rounds": 9, "seed": 8}
    old = {**origin(run.SUBJECT, [here / "tiny.gguf"], []), "settings": settings, "prompts": [], "skipped": []}
    (here / "old.json").write_text(json.dumps(old))
    stranger = {"question_id": 99, "category": "qa", "sha256": "0", "reason": "too long"}
    same = {**settings, "rounds": 2, "seed": 7}
    (here / "strangers.json").write_text(json.dumps({**old, "settings": same, "skipped": [stranger]}))
    changed = {**old, "settings": {**settings, "rounds": 2, "seed": 7}, "versions": {**old["versions"], "code": "0123"}}
    (here / "changed.json").write_text(json.dumps(changed))
    del changed["versions"]["code"]
    (here / "earlier.json").write_text(json.dumps(changed))
    (here / "mute").write_text("#!/bin/sh\nexit 3\n")
    (here / "mute").chmod(0o755)
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    result = bench("--limit", "1", *arguments)
    assert result.exit_code == 1, result.output
    assert message in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.parametrize("there", ["r.md", "r-speed-up.png", "r-curve.png", "r-acceptance.png"])
def test_a_report_and_its_plots_are_replaced_only_with_force(here: Path, there: str) -> None:
    (here / there).write_text("a year of work")
    refused = bench("--limit", "1", "--report", "r.md")
    assert refused.exit_code == 1 and (here / there).read_text() == "a year of work"
    assert (
        refused.stderr == f"edgespec: {there}: there is one already: choose another name, or replace it with --force\n"
    )
    if there == "r.md":
        assert bench("--limit", "1", "--report", "r.md", "--force").exit_code == 0
        assert (here / there).read_text() != "a year of work"


def test_a_report_does_not_replace_the_results(here: Path) -> None:
    for report in ("r.json", "./r.json", str(here / "r.json")):
        refused = bench("--json", "r.json", "--report", report, "--force")
        assert refused.exit_code == 1 and "it would replace the results of --json" in refused.stderr


def test_other_prompts_of_the_same_numbers_are_not_taken_for_done(here: Path) -> None:
    assert bench("--limit", "1", "--json", "r.json").exit_code == 0
    (here / "p.jsonl").write_text(json.dumps({"question_id": 0, "turns": ["another"]}))
    result = bench("--json", "r.json")
    assert result.exit_code == 1 and "its prompt 0 is another one" in result.stderr


def test_a_model_without_a_chat_template(here: Path) -> None:
    tiny_model(here / "tiny.gguf")
    result = bench("--limit", "1", "--json", "r.json")
    assert result.exit_code == 0, result.output
    assert json.loads((here / "r.json").read_text())["memory"]["auto"] > 0


@pytest.mark.parametrize(("how", "reason"), [("--picky", "too long for me"), ("--frail", "did not answer as one does")])
def test_a_peer_that_fails_on_a_prompt_costs_nobody_else_their_figures(here: Path, how: str, reason: str) -> None:
    (here / "p.jsonl").write_text("\n".join(json.dumps({"turns": [text]}) for text in ("a", "w300 " * 3, "b")))
    peers = ("--peer", f"mine={how}", "--peer", "ngram-simple", "--server", "server")
    result = bench(*peers, "--json", "r.json", "--report", "r.md")
    assert result.exit_code == 0, result.output
    found = json.loads((here / "r.json").read_text())
    assert [list(row.get("failed", {})) for row in found["prompts"]] == [[], ["mine"], []]  # and it was started again
    assert [len(row["answers"]["mine"]) for row in found["prompts"]] == [1, 0, 1]
    assert all(row["answers"]["ngram-simple"] and row["answers"]["auto"] for row in found["prompts"])
    assert reason in found["prompts"][1]["failed"]["mine"]
    for output in (result.stdout, result.stderr, (here / "r.md").read_text()):
        assert reason in output


@pytest.mark.parametrize(
    "prompts", [[{"question_id": [1]}], [{"question_id": 1}, {"question_id": 1}], [{"category": None}]]
)
def test_ids_that_are_none(prompts: list[dict[str, object]]) -> None:
    with pytest.raises(InvalidRequest):
        identified([{"turns": ["a"], **prompt} for prompt in prompts])


def test_no_prompts(here: Path) -> None:
    (here / "p.jsonl").write_text("\n")
    result = bench()
    assert result.exit_code == 1 and "no prompts in it" in result.stderr
