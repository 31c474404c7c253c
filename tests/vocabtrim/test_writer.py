"""The trimmed file byte by byte: rows that are kept, everything else copied, the whole table behind it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from edgespec.errors import InvalidRequest, UnsupportedModel
from edgespec.gguf.metadata import entry, strings
from edgespec.gguf.reader import Part, walk
from edgespec.vocabtrim import writer
from edgespec.vocabtrim.format import KEY_PREFIX, trimming_of
from edgespec.vocabtrim.writer import TRIMMABLE_ARCHITECTURES, read_trimmable, write_trimmed
from tests.gguf_files import tiny_model

KEPT = np.array([0, 1, 2, 40, 41, 319], np.int32)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("full") / "full.gguf", tied=request.param)


def _written(full: Path, kept: npt.NDArray[np.int32] = KEPT, **options: Any) -> Part:
    path = full.with_name("trimmed.gguf")
    with path.open("wb") as file:
        write_trimmed(read_trimmable(full), kept, file, {"source": "test"}, **options)
    return walk(path)


def _tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("kept", [KEPT, KEPT[:1], np.arange(320, dtype=np.int32)], ids=["some", "one", "all"])
def test_rows_are_the_kept_ones_and_nothing_else_changes(full: Path, kept: npt.NDArray[np.int32]) -> None:
    part = _written(full, kept)
    before, after = _tensors(full), _tensors(part.path)
    assert list(before) == list(after)
    for name, data in before.items():
        over_vocabulary = name in ("token_embd.weight", "output.weight")
        assert np.array_equal(after[name], data[kept] if over_vocabulary else data)


def test_the_whole_table_lies_behind_the_last_tensor(full: Path) -> None:
    part = _written(full)
    trimming = trimming_of(part)
    assert trimming is not None
    table = trimming.table
    assert table.offset + table.rows * table.row_bytes == part.size
    data = part.path.read_bytes()[table.offset :]
    assert np.array_equal(np.frombuffer(data, np.float32).reshape(320, 32), _tensors(full)["token_embd.weight"])
    last = max(tensor.offset + (tensor.size or 0) for tensor in part.tensors)
    assert table.offset >= -(-part.header_size // 32) * 32 + last


def test_metadata_is_copied_byte_for_byte(full: Path) -> None:
    before, after = walk(full), _written(full)
    replaced = {"tokenizer.ggml.model"}
    for key in before.spans:
        if key not in replaced:
            assert entry(after, key) == entry(before, key)
    assert after.values["tokenizer.ggml.model"] == "no_vocab"
    assert after.values[f"{KEY_PREFIX}tokenizer"] == "llama"
    assert after.values["llama.vocab_size"] == len(KEPT)
    assert strings(after, "tokenizer.ggml.tokens") == strings(before, "tokenizer.ggml.tokens")


def test_tensors_are_aligned_as_the_file_says(tmp_path: Path) -> None:
    full = tiny_model(tmp_path / "full.gguf")
    part = _written(full)
    assert all(tensor.offset % 32 == 0 for tensor in part.tensors)
    trimming = trimming_of(part)
    assert trimming is not None
    assert trimming.table.offset % 32 == 0


def test_a_vocabulary_size_that_was_there_is_replaced_and_not_said_twice(tmp_path: Path) -> None:
    full = tiny_model(tmp_path / "full.gguf", metadata={"llama.vocab_size": 320})
    assert _written(full).values["llama.vocab_size"] == len(KEPT)


def test_progress_ends_at_the_size_of_the_file(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_COPY_BYTES", 1000)
    monkeypatch.setattr(writer, "_ROWS_PER_PIECE", 2)
    progress_calls: list[tuple[int, int]] = []
    part = _written(full, progress=lambda done, total: progress_calls.append((done, total)))
    assert progress_calls[-1] == (part.size, part.size)
    assert [done for done, _ in progress_calls] == sorted(done for done, _ in progress_calls)
    assert len({total for _, total in progress_calls}) == 1
    assert np.array_equal(_tensors(part.path)["token_embd.weight"], _tensors(full)["token_embd.weight"][KEPT])


@pytest.mark.parametrize("kept", [[], [320], [0, 1000]])
def test_tokens_that_there_are_not(full: Path, kept: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="tokens to keep that the vocabulary of 320 does not have"):
        write_trimmed(read_trimmable(full), np.array(kept, np.int32), io.BytesIO(), {})


def test_a_disk_that_refuses_is_the_callers_business(full: Path) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_trimmed(read_trimmable(full), KEPT, Full(), {})


@pytest.mark.parametrize("architecture", TRIMMABLE_ARCHITECTURES)
def test_what_can_be_trimmed(tmp_path: Path, architecture: str) -> None:
    path = tiny_model(tmp_path / "m.gguf", architecture=architecture)
    assert read_trimmable(path).path == path


def test_what_was_trimmed_is_not_trimmed_again(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "m.gguf", metadata={f"{KEY_PREFIX}format": 1})
    with pytest.raises(UnsupportedModel, match="trimmed already; trim the full model"):
        read_trimmable(path)
