"""Collecting: what is recorded is what the target computes, and a killed run goes on to the same data set."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespec.backend import LlamaContext, LlamaModel, Prompt
from edgespec.errors import InvalidRequest, UnsupportedModel
from edgespec.gguf.validate import read_header
from edgespec.heads import collect as collecting
from edgespec.heads import self_prompts
from edgespec.heads.collect import Collected, Collecting, Pair, StateReader, collect_recorded, recorded_pairs
from edgespec.heads.dataset import HeadData, Recorded
from edgespec.vocabtrim.answers import AnswerSettings, prompt_tokens
from tests.gguf_files import tiny_model
from tests.heads.collecting import PROMPTS, SHARD_BYTES, WANTED, collect, spelled, talker
from tests.heads.test_dataset import same
from tests.present import present


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talker(tmp_path_factory.mktemp("model") / "talker.gguf")


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[LlamaModel]:
    model = LlamaModel(path, gpu_layers=0)
    yield model
    model.close()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_SHARD_BYTES", SHARD_BYTES)
    monkeypatch.setattr(self_prompts, "_text", spelled)


@pytest.fixture(scope="module")
def whole(path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Recorded]:
    """The data set of a run that nothing stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "_SHARD_BYTES", SHARD_BYTES)
        patch.setattr(self_prompts, "_text", spelled)
        directory = tmp_path_factory.mktemp("whole")
        collect(path, directory)
    assert len(HeadData(directory).shards) > 2
    return list(HeadData(directory))


def test_every_token_has_what_the_target_computes_there(path: Path, model: LlamaModel, whole: list[Recorded]) -> None:
    context = LlamaContext(model, n_ctx=128, threads=1)
    for answer in whole[:6]:
        prompt = prompt_tokens(model, PROMPTS[answer.prompt], raw=False)
        first = len(prompt)
        assert answer.tokens[:first].tolist() == prompt
        assert answer.is_answer.tolist() == [False] * first + [True] * (len(answer.tokens) - first)
        assert not answer.logsumexp[: first - 1].any() and np.isneginf(answer.top_logits[: first - 1]).all()
        for position in range(first - 1, len(answer.tokens)):
            row = present(context.prefill(answer.tokens[: position + 1].tolist()))
            assert abs(np.log(np.exp(row.astype(float)).sum()) - answer.logsumexp[position]) < 1e-2
            assert np.abs(np.sort(row)[::-1][:16] - answer.top_logits[position]).max() < 2e-2
            assert np.abs(row[answer.top_ids[position]] - answer.top_logits[position]).max() < 2e-2
    context.close()


def test_states_are_those_of_a_prefill(path: Path, model: LlamaModel, whole: list[Recorded]) -> None:
    reader = StateReader(model, None, 16, n_ctx=128, threads=1)
    context = LlamaContext(model, n_ctx=128, threads=1)
    got: list[Any] = []
    context.collect_hidden(reader._context._cells.collects, lambda begin, states: got.append(states.copy()))
    for answer in whole[:6]:
        got.clear()
        context.forget()
        context.prefill(answer.tokens.tolist())
        joined = np.concatenate([answer.states[name] for name in reader.names], axis=1)
        assert np.abs(np.concatenate(got) - joined).max() < 2e-2
    context.close()
    reader.close()


def run_killed(name: str, count: int, path: Path, directory: Path) -> None:
    command = [sys.executable, "-m", "tests.heads.collecting", name, str(count), str(path), str(directory)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("moments", [
    [("progress", 3)], [("progress", 12)], [("progress", 30), ("flush", 1)], [("flush", 2)],
    [("flush", 3), ("flush", 2)],
], ids=str)  # fmt: skip
def test_a_killed_run_goes_on_to_the_same_data_set(
    path: Path, tmp_path: Path, whole: list[Recorded], moments: list[tuple[str, int]]
) -> None:
    for name, count in moments:
        run_killed(name, count, path, tmp_path)
    collect(path, tmp_path)
    data = HeadData(tmp_path)
    assert all(same(*pair) for pair in zip(data, whole, strict=True))
    assert not list(tmp_path.glob(".*"))
    assert len((tmp_path / "own_prompts.jsonl").read_text().splitlines()) == WANTED.own_prompts


def test_more_of_the_same_continues(path: Path, tmp_path: Path, whole: list[Recorded]) -> None:
    first = collect(path, tmp_path, replace(WANTED, own_prompts=0, limit_tokens=60))
    assert 0 < first.answers < len(PROMPTS)
    assert collect(path, tmp_path).answers == len(whole)
    assert sorted(answer.prompt for answer in HeadData(tmp_path)) == [answer.prompt for answer in whole]


def test_other_settings_or_another_model_are_refused(path: Path, tmp_path: Path) -> None:
    wanted = Collecting(AnswerSettings(max_tokens=4, n_ctx=128))
    collect(path, tmp_path, wanted)
    with pytest.raises(InvalidRequest, match="begun with max_tokens 4, and this is 5"):
        collect(path, tmp_path, replace(wanted, settings=AnswerSettings(max_tokens=5, n_ctx=128)))
    with pytest.raises(InvalidRequest, match=r'begun with states \["layer.0", "layer.1", "last"\]'):
        collect(path, tmp_path, replace(wanted, layers=(1,)))
    with pytest.raises(InvalidRequest, match="layer 7 has no input"):
        collect(path, tmp_path, replace(wanted, layers=(7,)))


def test_templates_without_a_header_write_no_prompts(tmp_path: Path) -> None:
    path = talker(tmp_path / "bare.gguf", "{{ messages[0].content }}<|im_end|>")
    with pytest.raises(UnsupportedModel, match="writes no header before a user's message, so the model cannot write"):
        collect(path, tmp_path / "data")
    path = tiny_model(tmp_path / "base.gguf")
    with pytest.raises(UnsupportedModel, match=r"base\.gguf has no chat template, so the model cannot write prompts"):
        collect(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


class TestRecordedAnswers:
    """Answers that are there already."""

    prompts: tuple[dict[str, Any], ...] = (
        {"question_id": "a", "turns": ["one", "two"]}, {"question_id": 7, "turns": ["three"]},
    )  # fmt: skip
    file = Path("answers.jsonl")

    def pairs(self, model: LlamaModel, *lines: dict[str, Any]) -> list[Pair]:
        return recorded_pairs(model, self.file, list(enumerate(lines, start=1)), self.prompts)

    def test_they_are_joined_with_their_prompts(self, model: LlamaModel) -> None:
        first, second, third, fourth = self.pairs(
            model,
            {"question_id": "a", "turn": 0, "text": "yes", "tokens": [65, 66]},
            {"question_id": "a", "turn": 1, "tokens": [67]},
            {"question_id": 7, "text": "no"},
            {"prompt": "four", "tokens": [68]},
        )
        told = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "yes"}]
        assert first == Pair(0, Prompt(model, told[:1]).ids(), [65, 66])
        assert second == Pair(0, Prompt(model, [*told, {"role": "user", "content": "two"}]).ids(), [67])
        assert third == Pair(1, prompt_tokens(model, "three", raw=False), model.vocabulary.tokenize("no"))
        assert fourth == Pair(2, prompt_tokens(model, "four", raw=False), [68])

    @pytest.mark.parametrize("line", [
        {"text": "x"}, {"question_id": "b", "text": "x"}, {"question_id": "a", "turn": 2, "text": "x"},
        {"question_id": "a", "turn": 1, "text": "x"}, {"question_id": "a", "turn": -1, "text": "x"},
        {"question_id": ["a"], "text": "x"},
    ], ids=json.dumps)  # fmt: skip
    def test_a_line_without_a_prompt(self, model: LlamaModel, line: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest, match=r"answers\.jsonl, line 1: it names no known prompt"):
            self.pairs(model, line)

    @pytest.mark.parametrize(
        "answer", [{}, {"tokens": []}, {"tokens": [10**6]}, {"tokens": "x"}, {"text": ""}], ids=str
    )
    def test_a_line_without_an_answer(self, model: LlamaModel, answer: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest, match='it must have "tokens"'):
            self.pairs(model, {"prompt": "x", **answer})

    def test_they_are_read_as_the_targets_own(self, path: Path, model: LlamaModel, whole: list[Recorded],
                                              tmp_path: Path) -> None:  # fmt: skip
        lines = [
            {"prompt": PROMPTS[answer.prompt], "tokens": answer.tokens[answer.is_answer].tolist()}
            for answer in whole[:5]
        ]
        pairs = recorded_pairs(model, self.file, list(enumerate(lines)), [])
        wanted = Collecting(AnswerSettings(n_ctx=128))
        for _ in range(2):  # the second time there is nothing to do
            total = collect_recorded(model, read_header(path), pairs, tmp_path, wanted)
            assert total == Collected(5, sum(len(answer.tokens) for answer in whole[:5]), total.looping, 0)
        assert all(same(*pair) for pair in zip(HeadData(tmp_path), whole[:5], strict=True))


@pytest.mark.model
def test_smollm2_writes_prompts_and_answers_them(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    wanted = Collecting(AnswerSettings(max_tokens=24, n_ctx=256), own_prompts=3, slots=4)
    model = LlamaModel(smollm2, gpu_layers=0)
    total = collecting.collect_answers(model, read_header(smollm2), ["Count to ten."], tmp_path, wanted)
    data = HeadData(tmp_path)
    assert total.answers == len(data) == 4 and data.states == ["layer.2", "layer.15", "layer.27", "last"]
    for answer in data:  # greedy: each token is the likeliest after the one before, but for near-ties
        followed = answer.top_ids[:-1, 0] == answer.tokens[1:]
        assert followed[answer.is_answer[1:]].mean() > 0.9
    own = [json.loads(line)["turns"][0] for line in (tmp_path / "own_prompts.jsonl").read_text().splitlines()]
    assert len(set(own)) == 3 and all(len(text) >= 12 for text in own)
    model.close()
