"""Trimming: which tokens stay, what the new file holds, and that it says what the full model says."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgespec
from edgespec import load
from edgespec.backend import LlamaModel, ParallelContext
from edgespec.errors import InvalidRequest, MalformedModel, ProofFailed, UnsupportedModel
from edgespec.gguf.metadata import numbers, strings
from edgespec.gguf.reader import Tensor, walk
from edgespec.system.files import sha256_of
from edgespec.vocabtrim import writer
from edgespec.vocabtrim.answers import AnswerJournal, AnswerSettings
from edgespec.vocabtrim.collect import count_answers_of, count_recorded, count_text
from edgespec.vocabtrim.counts import Counts, CountSource, load_counts, tokenizer_hash
from edgespec.vocabtrim.equivalence import check_equivalence
from edgespec.vocabtrim.format import trimming_of
from edgespec.vocabtrim.keep_list import load_keep_list
from edgespec.vocabtrim.pipeline import forced_tokens, trim
from edgespec.vocabtrim.selection import coverage, ranked, select_ids, size_for_coverage
from edgespec.vocabtrim.sizes import mbsu, per_token, per_token_trimmed
from tests.gguf_files import tiny_model
from tests.present import present

MODELS = Path(edgespec.__file__).parent / "hub"
N_VOCAB = 40
token_counts = st.dictionaries(st.integers(0, N_VOCAB - 1), st.integers(0, 50))
some_tokens = st.sets(st.integers(0, N_VOCAB - 1), max_size=5)


class TestChoice:
    @given(token_counts, token_counts)
    def test_the_ranking_is_by_target_then_text_then_id(self, said: dict[int, int], read: dict[int, int]) -> None:
        ranking = ranked(N_VOCAB, said, read).tolist()
        assert sorted(ranking) == list(range(N_VOCAB))
        keys = [(-said.get(token, 0), -read.get(token, 0), token) for token in ranking]
        assert keys == sorted(keys)

    @given(token_counts, some_tokens, st.integers(5, N_VOCAB))
    def test_so_many_are_kept_the_forced_ones_among_them(
        self, said: dict[int, int], forced: set[int], size: int
    ) -> None:
        ranking = ranked(N_VOCAB, said)
        kept = select_ids(ranking, forced, size).tolist()
        assert len(kept) == size and kept == sorted(set(kept)) and forced <= set(kept)
        best_left_out = max((said.get(token, 0) for token in set(range(N_VOCAB)) - set(kept)), default=0)
        assert all(said.get(token, 0) >= best_left_out for token in set(kept) - forced)

    @given(token_counts.filter(lambda counts: sum(counts.values())), some_tokens, st.floats(0.01, 1))
    def test_the_size_for_a_coverage_is_the_smallest(
        self, said: dict[int, int], forced: set[int], wanted: float
    ) -> None:
        ranking = ranked(N_VOCAB, said)
        size = size_for_coverage(ranking, forced, said, wanted)
        assert coverage(select_ids(ranking, forced, size), said) >= wanted - 1e-12
        if size > max(1, len(forced)):
            assert coverage(select_ids(ranking, forced, size - 1), said) < wanted

    @pytest.mark.parametrize(
        ("size", "forced", "reason"), [(41, (), "has 40"), (0, (), "are needed"), (2, (1, 2, 3), "are needed")]
    )
    def test_a_size_that_cannot_be(self, size: int, forced: tuple[int, ...], reason: str) -> None:
        with pytest.raises(InvalidRequest, match=reason):
            select_ids(ranked(N_VOCAB), forced, size)

    def test_counts_of_a_larger_vocabulary(self) -> None:
        with pytest.raises(InvalidRequest, match="another tokenizer"):
            ranked(N_VOCAB, {N_VOCAB: 1})

    def test_nothing_counted_covers_nothing(self) -> None:
        with pytest.raises(InvalidRequest, match="empty"):
            size_for_coverage(ranked(N_VOCAB), (), {}, 0.9)


@pytest.fixture(scope="module", params=[False, True], ids=["separate", "tied"])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, with an output layer of its own and without one."""
    return tiny_model(tmp_path_factory.mktemp("full") / "full.gguf", tied=request.param)


def counts_for(path: Path, tokens: Iterable[int], source: CountSource = "target") -> Counts:
    counts = Counts(source, tokenizer_hash(walk(path)))
    counts.add(tokens)
    return counts


def tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


ALWAYS_TIED = ("gemma", "gemma2")


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [
        (name, tied)
        for name in writer.TRIMMABLE_ARCHITECTURES
        for tied in (True, False)
        if tied or name not in ALWAYS_TIED
    ],
)
def test_every_architecture_says_the_same_of_the_kept_tokens(architecture: str, tied: bool, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "full.gguf", architecture=architecture, tied=tied)
    made = trim(path, tmp_path / "t.gguf", [counts_for(path, range(100, 160))], size=64)
    assert made.proof.logits == 64 * made.proof.tokens and made.proof.dropped_tokens == made.proof.tokens // 2


class TestFile:
    @settings(max_examples=10)
    @given(st.sets(st.integers(3, 319), min_size=1, max_size=60))
    def test_kept_rows_and_nothing_else_changes(
        self, full: Path, tmp_path_factory: pytest.TempPathFactory, wanted: set[int]
    ) -> None:
        out = tmp_path_factory.mktemp("out") / "trimmed.gguf"
        said = Counter(dict.fromkeys(wanted, 2))
        counts = Counts("target", tokenizer_hash(walk(full)), said)
        size = len(wanted | set(forced_tokens(walk(full)).tolist()))
        trim(full, out, [counts], size=size)
        part = walk(out)
        trimming = present(trimming_of(part))
        assert wanted <= set(trimming.kept_ids.tolist()) and len(trimming.kept_ids) == size
        old, new = tensors(full), tensors(out)
        assert old.keys() == new.keys()
        for name, data in old.items():
            rows = trimming.kept_ids if name in ("token_embd.weight", "output.weight") else slice(None)
            assert np.array_equal(data[rows], new[name]), name
        table = np.memmap(out, np.float32, offset=trimming.table.offset, mode="r")
        assert np.array_equal(table.reshape(old["token_embd.weight"].shape), old["token_embd.weight"])

    def test_every_other_key_is_untouched(self, full: Path, tmp_path: Path) -> None:
        trim(full, tmp_path / "t.gguf", [counts_for(full, [5, 6, 7])], size=32)
        before, after = walk(full), walk(tmp_path / "t.gguf")
        changed = {"tokenizer.ggml.model", "llama.vocab_size"}
        assert {key: value for key, value in before.values.items() if key not in changed} == {
            key: value
            for key, value in after.values.items()
            if key not in changed and not key.startswith("edgespec.trim.")
        }
        assert strings(after, "tokenizer.ggml.tokens") == strings(before, "tokenizer.ggml.tokens")
        assert after.values["llama.vocab_size"] == 32

    def test_what_a_token_reads(self, full: Path, tmp_path: Path) -> None:
        trim(full, tmp_path / "t.gguf", [counts_for(full, [5, 6, 7])], size=32)
        before, after = per_token(walk(full)), per_token(walk(tmp_path / "t.gguf"))
        columns = walk(full).values["llama.embedding_length"]
        assert before.parameters - after.parameters == (320 - 32) * columns  # of one table, though a file may hold two
        assert per_token_trimmed(walk(full), 32) == after
        assert mbsu(3.0, 0.1, 5) == pytest.approx(2.0)  # a block of 3 in the time of 1 + 5 / 10 evaluations

    def test_it_is_told_where_it_comes_from(self, full: Path, tmp_path: Path) -> None:
        trim(full, tmp_path / "t.gguf", [counts_for(full, [5, 6, 7])], size=32)
        trimming = present(trimming_of(walk(tmp_path / "t.gguf")))
        assert trimming.source_name == "full.gguf" and trimming.source_sha256 == sha256_of(full)
        assert trimming.provenance["counts"][0]["source"] == "target"
        assert trimming_of(walk(full)) is None

    def test_the_end_of_an_answer_is_always_kept(self, full: Path, tmp_path: Path) -> None:
        made = trim(full, tmp_path / "t.gguf", [counts_for(full, [300])], size=8)
        kept = present(trimming_of(walk(made.path))).kept_ids.tolist()
        assert {1, 2} <= set(kept) and made.forced >= 2

    def test_by_coverage(self, full: Path, tmp_path: Path) -> None:
        counts = counts_for(full, [*range(100, 200)] * 9 + [*range(200, 300)])
        assert trim(full, tmp_path / "t.gguf", [counts], wanted_coverage=0.9).kept == 128  # 103, rounded up
        assert set(range(100, 200)) <= set(present(trimming_of(walk(tmp_path / "t.gguf"))).kept_ids.tolist())
        assert trim(full, tmp_path / "t.gguf", [counts], wanted_coverage=0.1).kept == 64

    def test_a_wrong_row_is_found_and_no_file_left(
        self, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def spoil(data: mmap.mmap, start: int, tensor: Tensor, rows: npt.NDArray[np.int32] | None) -> Iterator[bytes]:
            return original(data, start, tensor, rows[::-1] if rows is not None else None)

        original = writer._tensor_pieces
        monkeypatch.setattr(writer, "_tensor_pieces", spoil)
        with pytest.raises(ProofFailed, match="differ"):
            trim(full, tmp_path / "t.gguf", [counts_for(full, [5])], size=32)
        assert not list(tmp_path.iterdir())

    def test_an_interrupt_leaves_the_old_file_and_nothing_else(self, full: Path, tmp_path: Path) -> None:
        (tmp_path / "t.gguf").write_text("old")

        def stop(what: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trim(full, tmp_path / "t.gguf", [counts_for(full, [5])], size=32, progress=stop)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]

    def test_what_cannot_be_trimmed(self, full: Path, tmp_path: Path) -> None:
        counts = [counts_for(full, [5])]
        trim(full, tmp_path / "t.gguf", counts, size=32)
        with pytest.raises(UnsupportedModel, match="trimmed already"):
            trim(tmp_path / "t.gguf", tmp_path / "u.gguf", counts, size=16)
        with pytest.raises(InvalidRequest, match="the full model itself"):
            trim(full, full, counts, size=32)
        other = tiny_model(tmp_path / "other.gguf", n_vocab=300)
        with pytest.raises(InvalidRequest, match="another tokenizer"):
            trim(other, tmp_path / "u.gguf", counts, size=32)

    def test_a_trimmed_file_is_no_target(self, full: Path, tmp_path: Path) -> None:
        out = tmp_path / "t.gguf"
        trim(full, out, [counts_for(full, [5])], size=32)
        with load(out, n_ctx=128) as engine, pytest.raises(UnsupportedModel, match="name the full model"):
            engine.generate("a", raw=True)

    @pytest.mark.parametrize("key", ["kept_ids", "embedding_offset", "format", "full_vocab"])
    def test_a_file_with_nonsense_about_its_trimming(self, full: Path, tmp_path: Path, key: str) -> None:
        out = tmp_path / "t.gguf"
        trim(full, out, [counts_for(full, [5])], size=32)
        start, end = walk(out).spans[f"edgespec.trim.{key}"]
        data = bytearray(out.read_bytes())
        data[end - 4 : end] = b"\xff\xff\xff\x7f" if key != "kept_ids" else b"\x00\x00\x00\x00"
        assert start < end
        out.write_bytes(data)
        with pytest.raises(MalformedModel):
            trimming_of(walk(out))


SPOILT = '{"format": 1, "source": "target", "tokenizer": "x", "texts": 1, "counts": {"-1": 2}, "held_out": {}}'


class TestCounts:
    def test_what_is_saved_is_loaded(self, tmp_path: Path) -> None:
        counts = Counts("text", "abc", origin={"file": "x"})
        for _ in range(20):
            counts.add([1, 1, 2])
        counts.save(tmp_path / "c.json")
        again = load_counts(tmp_path / "c.json")
        assert again == counts and again.held_out == Counter({1: 4, 2: 2})

    @pytest.mark.parametrize("text", ["[]", "{}", "no", SPOILT])
    def test_what_is_no_counts(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(InvalidRequest, match="make them again"):
            load_counts(tmp_path / "c.json")
        with pytest.raises(InvalidRequest, match="no such file"):
            load_counts(tmp_path / "d.json")

    def test_text_and_recorded_answers(self, full: Path, tmp_path: Path) -> None:
        model = LlamaModel(full)
        counts = count_text(model, full, "abc\n" * 1000)
        a = model.vocabulary.tokenize("a")[-1]
        assert counts.tokens[a] + counts.held_out[a] == 1000 and counts.held_out[a] == 64
        counts = count_recorded(model, full, [(1, {"tokens": [5, 6]}), (2, {"text": "a"})])
        assert counts.tokens[5] == 1 and counts.tokens[a] == 1
        with pytest.raises(InvalidRequest, match="line 7"):
            count_recorded(model, full, [(7, {"tokens": [320]})])


TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    """A tiny model with a chat template."""
    path = tiny_model(tmp_path_factory.mktemp("talker") / "talker.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    model = LlamaModel(path)
    yield model
    model.close()


class TestAnswers:
    settings = AnswerSettings(max_tokens=8, n_ctx=64)
    prompts = tuple(f"{'abc ' * (number % 5)}{number}" for number in range(12))

    def count(self, model: LlamaModel, journal: Path, slots: int = 3) -> Counts:
        return count_answers_of(
            model, self.prompts, fingerprint="f", settings=self.settings, journal=journal, slots=slots, threads=1
        )

    def test_together_they_are_what_each_is_alone(self, talker: LlamaModel) -> None:
        tokens = [talker.vocabulary.tokenize_prompt(prompt) for prompt in self.prompts]
        answers = {}
        for slots in (1, 5):
            context = ParallelContext(talker, slots=slots, n_ctx=64, threads=1)
            answers[slots] = dict(
                context.answers(enumerate(tokens), 8, lambda _, row, position: self.settings.choose(row, position))
            )
            context.close()
        assert answers[1].keys() == set(range(12))
        assert answers[1] == answers[5]

    def test_a_stopped_run_goes_on_and_counts_the_same(
        self, talker: LlamaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = self.count(talker, tmp_path / "a")
        added = AnswerJournal.add

        def stop(self: AnswerJournal, index: int, tokens: list[int]) -> None:
            if len(self.answers) == 5:
                raise KeyboardInterrupt
            added(self, index, tokens)

        monkeypatch.setattr(AnswerJournal, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            self.count(talker, tmp_path / "b")
        monkeypatch.setattr(AnswerJournal, "add", added)
        with (tmp_path / "b").open("a") as file:
            file.write('{"index": 99, "tok')  # a crash in the middle of a line
        answered = []
        again = count_answers_of(
            talker, self.prompts, fingerprint="f", settings=self.settings, journal=tmp_path / "b", slots=2, threads=1,
            progress=lambda done, total, tokens: answered.append(done),
        )  # fmt: skip
        assert answered[0] == 5 and answered[-1] == 12
        assert again == whole
        assert all(json.loads(line) for line in (tmp_path / "b").read_text().splitlines())

    def test_a_journal_of_something_else(self, talker: LlamaModel, tmp_path: Path) -> None:
        self.count(talker, tmp_path / "j")
        with pytest.raises(InvalidRequest, match="other prompts or settings"):
            count_answers_of(
                talker, ["other"], fingerprint="f", settings=self.settings, journal=tmp_path / "j", slots=1, threads=1
            )
        (tmp_path / "k").write_text("no journal\n")
        with pytest.raises(InvalidRequest, match="remove it"):
            self.count(talker, tmp_path / "k")


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.kept.json")), ids=lambda path: path.name)
def test_a_list_that_ships(path: Path) -> None:
    listed = load_keep_list(path)
    assert len(listed.ids) > 5000 and sum(one["tokens"] for one in listed.provenance["counts"]) > 30_000


@pytest.mark.model
def test_smollm2_trimmed_to_8k(smollm2: Path, tmp_path: Path) -> None:
    counts = Counts("target", tokenizer_hash(walk(smollm2)))
    counts.add(range(1000, 9000))
    made = trim(smollm2, tmp_path / "small.gguf", [counts], size=8192)
    assert made.size.bytes < 0.82 * made.full_size.bytes
    proof = check_equivalence(smollm2, made.path)
    assert proof.dropped_tokens == proof.tokens // 2 and proof.logits == 8192 * proof.tokens
    assert (np.diff(numbers(walk(made.path), "edgespec.trim.kept_ids")) > 0).all()
