"""An answer in figures: the JSON contract, the lines for people, the decisions block by block."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgespec import Engine, SamplingParams
from edgespec.cli import report
from edgespec.cli.report import DecisionLog, PromptProgress, as_json, json_line, stats_lines
from edgespec.cli.terminal import styled
from edgespec.core import TokenLogprob, TokenSequence
from edgespec.decode.options import GenerationOptions
from edgespec.decode.session import Block, Session
from edgespec.drafters.model import Share
from edgespec.latency.model import LatencyModel
from edgespec.testing import FixedPolicy, KeyedSampler, ScriptedDrafter, TableModel

PROMPT = [3, 4, 5]
_SPELLED = {5: " größe".encode(), 7: b"\xc3", 2: b"<|im_end|>"}


def _engine(*drafters: Any) -> Engine:
    vocabulary = SimpleNamespace(spelled=lambda tokens: b"".join(_SPELLED[token] for token in tokens))
    model = SimpleNamespace(path=SimpleNamespace(name="größe.gguf"), vocabulary=vocabulary)
    return cast(Engine, SimpleNamespace(model=model, drafter_name="scripted", drafters=drafters))


def _answered(max_tokens: int = 12, size: int = 3) -> Session:
    """An answer whose drafts are right but for every fourth token."""
    target = TableModel()
    truth = TokenSequence(PROMPT)
    plain = Session(
        target, target, KeyedSampler(), FixedPolicy(ScriptedDrafter(lambda tokens, limit: ()), 0), truth,
        GenerationOptions(max_tokens=max_tokens),
    )  # fmt: skip
    while not plain.finished:
        plain.step()

    def propose(tokens: Any, limit: int) -> list[int]:
        right = truth[len(tokens) : len(tokens) + limit]
        return [token if (len(tokens) + place) % 4 else 31 - token for place, token in enumerate(right)]

    session = Session(
        target, target, KeyedSampler(), FixedPolicy(ScriptedDrafter(propose), size), TokenSequence(PROMPT),
        GenerationOptions(max_tokens=max_tokens),
    )  # fmt: skip
    while not session.finished:
        session.step()
    assert session.emitted == plain.emitted
    return session


def test_an_answer_as_the_contract_has_it() -> None:
    session = _answered()
    answer = as_json(session, _engine(), SamplingParams(seed=42))
    assert list(answer) == [
        "text", "tokens", "finish_reason", "prompt_tokens", "cached_tokens", "model", "drafter", "seed", "timings",
        "drafters",
    ]  # fmt: skip
    assert list(answer["timings"]) == [
        "prompt_ms", "ttft_ms", "predicted_n", "predicted_ms", "predicted_per_second", "draft_n", "draft_n_accepted",
        "blocks", "mean_block_length",
    ]  # fmt: skip
    assert (answer["text"], answer["tokens"]) == (session.text, session.emitted)
    assert (answer["model"], answer["drafter"], answer["seed"]) == ("größe.gguf", "scripted", 42)
    assert (answer["prompt_tokens"], answer["cached_tokens"]) == (3, 2), "the plain answer had read them"
    timings, tally = answer["timings"], session.tally
    assert timings["predicted_n"] == len(session.emitted)
    assert timings["mean_block_length"] == (len(session.emitted) - 1) / timings["blocks"]
    assert 0 < timings["draft_n_accepted"] < timings["draft_n"]
    assert timings["ttft_ms"] == 1e3 * tally.first_token_seconds >= timings["prompt_ms"]
    (figures,) = answer["drafters"].values()
    assert (figures["drafted"], figures["accepted"]) == (timings["draft_n"], timings["draft_n_accepted"])
    assert json.loads(json.dumps(answer)) == answer


def test_log_probabilities_are_there_where_they_were_asked_for() -> None:
    session = _answered()
    assert not {"logprobs", "completion_probabilities"} & as_json(session, _engine(), SamplingParams()).keys()
    cast(Any, session)._sampler.logprobs = [TokenLogprob(5, -0.5, ((5, -0.5), (7, -1.0))), TokenLogprob(2, -2.0, ())]
    answer = as_json(session, _engine(), SamplingParams(logprobs=2))
    assert answer["logprobs"] == [
        {"token": 5, "logprob": -0.5, "top": [[5, -0.5], [7, -1.0]]},
        {"token": 2, "logprob": -2.0, "top": []},
    ]
    size = {"id": 5, "token": " größe", "bytes": list(" größe".encode()), "logprob": -0.5}
    half = {"id": 7, "token": "\ufffd", "bytes": [0xC3], "logprob": -1.0}
    end = {"id": 2, "token": "<|im_end|>", "bytes": list(b"<|im_end|>"), "logprob": -2.0}
    assert answer["completion_probabilities"] == [
        {**size, "top_logprobs": [size, half]},
        {**end, "top_logprobs": []},
    ]  # as llama-server gives them


def _model_drafter(*, known: bool) -> Any:
    latency = LatencyModel(8)
    if known:
        latency.observe(1, 0.002)
    return SimpleNamespace(name="scripted", share=Share(parameters=0.5, bytes=0.25), latency=latency)


def test_a_model_is_worth_what_it_brings_for_its_size() -> None:
    session = _answered()
    session.tally.draft_tokens["scripted"] = 4 * session.tally.blocks
    length = session.tally.mean_block_length
    (figures,) = as_json(session, _engine(_model_drafter(known=True)), SamplingParams())["drafters"].values()
    assert figures["mbsu_by_parameters"] == pytest.approx(length / (0.5 * 4 + 1))
    assert figures["mbsu_by_bytes"] == pytest.approx(length / (0.25 * 4 + 1))
    assert figures["ms_per_token"] == pytest.approx(2.0)
    (figures,) = as_json(session, _engine(_model_drafter(known=False)), SamplingParams())["drafters"].values()
    assert "ms_per_token" not in figures


def test_the_lines_for_people() -> None:
    session = _answered()
    first, second, third = stats_lines(session, _engine(), 42)
    assert f"{len(session.emitted)} tokens at " in first
    assert first.endswith(f"finish reason {session.finish_reason}, seed 42")
    assert second.startswith(f"{session.tally.blocks} forward passes, ")
    tally = session.tally.drafters["scripted"]
    assert third.startswith(f"scripted: {tally.accepted} of {tally.drafted} draft tokens accepted")
    *_, fourth = stats_lines(session, _engine(_model_drafter(known=True)), 42)
    assert fourth.startswith("scripted: 2.0 ms a token; memory-bound speed-up ")


@pytest.mark.parametrize(
    ("max_tokens", "size", "known", "told"),
    [
        (4, 1, True, False),  # chance
        (12, 0, True, False),  # nothing was drafted
        (12, 1, False, False),
        (12, 1, True, True),
    ],
)
def test_a_ratio_is_told_where_it_says_something(
    monkeypatch: pytest.MonkeyPatch, max_tokens: int, size: int, known: bool, told: bool
) -> None:
    assert report.TELLING_PASSES == 16
    monkeypatch.setattr(report, "TELLING_PASSES", 5)  # the table's answers are short
    session, engine = _answered(max_tokens, size), _engine()
    engine.latency = LatencyModel(8)
    if known:
        engine.latency.observe(1, 0.002)
    ratio = report.speed_up(session, engine, 10)
    assert ratio == (pytest.approx(session.tally.tokens_per_second * 0.002) if told else None)
    assert (session.tally.blocks >= report.TELLING_PASSES) is (max_tokens == 12)


def test_the_lines_where_nothing_was_drafted() -> None:
    *_, last = stats_lines(_answered(size=0), _engine(), 1)
    assert last == "nothing was drafted (--stats=full says why, block by block)"


def test_an_answer_of_one_token_divides_by_nothing() -> None:
    session = _answered(max_tokens=1)
    assert as_json(session, _engine(), SamplingParams())["timings"]["predicted_per_second"] == 0.0
    assert list(stats_lines(session, _engine(), 1))


@pytest.mark.parametrize(
    ("encoding", "line"), [("utf-8", '"é"'), ("UTF8", '"é"'), ("ascii", r'"\u00e9"'), ("latin-1", r'"\u00e9"')]
)
def test_letters_that_a_stream_cannot_spell_are_escaped(encoding: str, line: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert json_line("é", stream) == line
    stream.write(json_line("é", stream))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert styled("a", _Terminal(), bold=True) == "\x1b[1ma\x1b[0m"
    assert styled("a", io.StringIO(), bold=True) == "a"
    monkeypatch.setenv("NO_COLOR", "")
    assert styled("a", _Terminal(), bold=True) != "a", "empty is not set (no-color.org)"
    monkeypatch.setenv("NO_COLOR", "0")
    assert styled("a", _Terminal(), bold=True) == "a"


def test_decisions_tell_each_block_where_it_began_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    session = cast(Session, SimpleNamespace(emitted=[], finish_reason="stop"))
    decisions = DecisionLog("full", {"question_id": "ü"})
    for tokens, reasons in (((7,), ("unused",)), ((8, 9), ("it pays",)), ((), ())):
        session.emitted.extend(tokens)
        decisions.print_block(session, Block(tokens, "", 2, 1, "suffix", reasons=reasons))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["at"], line["tokens"], line["why"]) for line in lines] == [
        (0, 1, ["the prefill gives the first token"]),
        (1, 2, ["it pays"]),
        (3, 0, ["the answer is over: stop"]),
    ]
    assert {(line["question_id"], line["drafter"], line["drafted"], line["accepted"]) for line in lines} == {
        ("ü", "suffix", 2, 1)
    }
    assert all(line["ms"] >= 0.0 for line in lines)


@pytest.mark.parametrize("wanted", [None, "short"])
def test_decisions_that_nobody_wants_are_not_told(capsys: pytest.CaptureFixture[str], wanted: str | None) -> None:
    DecisionLog(wanted).print_block(cast(Session, None), Block((1,), ""))
    assert capsys.readouterr().err == ""


def test_reading_a_long_prompt_is_shown_in_a_terminal_and_wiped_away(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(report, "redraw", lambda line="": drawn.append(line))
    monkeypatch.setattr(sys, "stderr", _Terminal())
    clock = iter([0.0, 10.0, 11.5, 20.0, 21.0, 100.0, 300.0])
    monkeypatch.setattr(report, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    progress = PromptProgress()
    progress(0, 256)
    progress.clear()
    assert drawn == [], "a short one is read before anybody could look"
    progress(40, 340)
    progress(190, 340)
    progress.clear()
    progress.clear()
    progress(0, 200)
    progress(128, 200)
    progress.clear()
    progress(0, 200)
    progress(100, 200)
    assert drawn == [
        *("reading 40 of 340 tokens", "reading 190 of 340 tokens, 2 s left", ""),
        "reading 100 of 200 tokens, 3 min left",
    ]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    PromptProgress()(0, 10_000)
    assert len(drawn) == 4
