"""The data set that heads are trained on: a header, a list of shards, and one file of arrays for each shard.

    header.json      the target, the hidden states, and the settings of the answers
    shards.jsonl     a line for each complete shard, with its checksum
    shard-00000.npz  answers one behind the other, uncompressed; its arrays are those of `Recorded`

A shard counts once its line is there, so a process may end at any moment: what it had not finished is left aside.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgespec.errors import InvalidRequest, OutputError
from edgespec.system.files import locked, replacing, sha256_of, write_json

DATA_FORMAT = 1
"""Version of the data set's files."""

HEADER, SHARDS = "header.json", "shards.jsonl"

_LOCAL_HEADER = 30
"""Bytes of a member's header in a zip file, before its name and its extra field."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A prompt and its answer, n tokens, with what the target computed after each.

    `prompt` is the index of the prompt. `looping`: the answer repeats itself from its end on. `tokens` i32 (n,) and
    `is_answer` bool (n,) cover prompt and answer. `states` has one f16 array (n, d) for each name of the header.
    `top_ids` i32 (n, top) and `top_logits` f16 (n, top) are the likeliest next tokens, likeliest first, and `logsumexp`
    f32 (n,) normalises their logits; before the last token of the prompt they are 0, -inf and 0.
    """

    prompt: int
    looping: bool
    tokens: npt.NDArray[np.int32]
    is_answer: npt.NDArray[np.bool_]
    states: Mapping[str, npt.NDArray[np.float16]]
    top_ids: npt.NDArray[np.int32]
    top_logits: npt.NDArray[np.float16]
    logsumexp: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shard:
    """A line of the list of shards: a file, its checksum, and how many answers it has, with how many tokens in all."""

    file: str
    sha256: str
    answers: int
    tokens: int
    looping: int


class HeadData:
    """A data set on disk, to be read. Raises InvalidRequest where the directory holds none, or another format's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.header = _header(directory)
        self.shards = _shards(directory)
        self._sound: set[str] = set()

    @property
    def states(self) -> list[str]:
        """The names of the hidden states: `layer.2`, the input of layer 2, or `last`."""
        return list(self.header["states"])

    @property
    def tokens(self) -> int:
        """Tokens of all answers and their prompts."""
        return sum(shard.tokens for shard in self.shards)

    def __len__(self) -> int:
        """The number of answers."""
        return sum(shard.answers for shard in self.shards)

    def __iter__(self) -> Iterator[Recorded]:
        """All answers, as views of mapped files. Raises InvalidRequest at a shard that is not what was written."""
        for shard in self.shards:
            arrays = self.arrays(shard)
            try:
                yield from _answers(arrays, self.states)
            except (KeyError, IndexError) as error:
                raise self._torn(shard, f"an array is missing or too short: {error}") from error

    def arrays(self, shard: Shard) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a shard, mapped. Its checksum is compared once."""
        path = self.directory / shard.file
        try:
            if shard.file not in self._sound and sha256_of(path) != shard.sha256:
                raise self._torn(shard, "its checksum is another one")
            self._sound.add(shard.file)
            return _mapped(path)
        except OSError as error:
            raise self._torn(shard, error.strerror or str(error)) from error
        except (ValueError, zipfile.BadZipFile) as error:
            raise self._torn(shard, str(error)) from error

    def _torn(self, shard: Shard, reason: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self.directory / shard.file} is damaged ({reason}): take its line out of {SHARDS}; "
            "edgespec heads collect then makes what is missing"
        )


class DataWriter:
    """Adds shards to a data set, a new one or one with an equal header. One process at a time.

    Raises InvalidRequest where the data set is of another header, or in use; OutputError where it cannot be written.
    """

    def __init__(self, directory: Path, header: Mapping[str, Any]) -> None:
        self.directory = directory
        self._header = {"format": DATA_FORMAT, **header}
        with self._output_errors():
            directory.mkdir(parents=True, exist_ok=True)
            self._list = (directory / SHARDS).open("a+b")
        try:
            if not locked(self._list.fileno(), directory / SHARDS):
                raise InvalidRequest(f"{directory}: another edgespec heads collect is writing to it")
            with self._output_errors():
                self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others write."""
        with contextlib.suppress(OSError):  # of a line that could not be written before
            self._list.close()

    @property
    def shards(self) -> list[Shard]:
        """The complete shards."""
        return _shards(self.directory)

    def prompts(self) -> list[int]:
        """The index of the prompt of each answer that is there. Raises InvalidRequest where a shard is damaged."""
        data = HeadData(self.directory)
        return [int(prompt) for shard in data.shards for prompt in data.arrays(shard)["prompts"]]

    def add(self, answers: Sequence[Recorded]) -> None:
        """Write answers as one shard, whole or not at all."""
        name = f"shard-{self._next:05d}.npz"
        path = self.directory / name
        arrays = _joined(answers)
        with self._output_errors():
            with replacing(path) as temporary:
                with temporary.open("xb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                    _flush(file)
                digest = sha256_of(temporary)
            tokens, looping = len(arrays["tokens"]), int(arrays["looping"].sum())
            line = json.dumps(asdict(Shard(name, digest, len(answers), tokens, looping)), separators=(",", ":"))
            self._list.write(line.encode() + b"\n")
            _flush(self._list)
        self._next += 1

    def _open(self) -> None:
        """Write the header, or compare it; leave aside what a process that was ended had not finished."""
        path = self.directory / HEADER
        if path.exists():
            found = _header(self.directory)
            if found != self._header:
                raise InvalidRequest(f"{self.directory}: {_difference(found, self._header)}; choose another -o")
        else:
            write_json(path, self._header)
        self._list.seek(0)
        data = self._list.read()
        self._list.truncate(data.rfind(b"\n") + 1)
        known = {shard.file for shard in _shards(self.directory)}
        for left in self.directory.glob("*shard-*.npz"):
            if left.name not in known:
                left.unlink()
        self._next = 1 + max((int(name[6:11]) for name in known), default=-1)

    @contextlib.contextmanager
    def _output_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.directory}: cannot be written: {error.strerror}; what is complete stays, and the same command "
                "continues"
            ) from error


def _header(directory: Path) -> dict[str, Any]:
    path = directory / HEADER
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["format"] != DATA_FORMAT:
            raise ValueError(f"format {header['format']}, not {DATA_FORMAT}")
        if not isinstance(header["target"], dict) or not header["states"]:
            raise ValueError("no target, or no states")
    except OSError as error:
        raise InvalidRequest(f"{directory} is no data set of edgespec heads collect: {path.name}: {error.strerror}"
                             ) from error  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path}: no header of edgespec heads collect ({error})") from error
    return dict(header)


def _shards(directory: Path) -> list[Shard]:
    """The complete shards; a line that a crash cut short is none."""
    path = directory / SHARDS
    try:
        data = path.read_bytes()
        lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
        return [Shard(**{name: line[name] for name in Shard.__slots__}) for line in lines]
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}; edgespec heads collect writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path}: no list of shards ({error})") from error


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Where two headers differ first, in words."""
    for name in sorted({*found, *wanted}):
        before, now = found.get(name), wanted.get(name)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            name = next(key for key in sorted({*before, *now}) if before.get(key) != now.get(key))  # noqa: PLW2901
            before, now = before.get(name), now.get(name)
        return f"it was begun with {name} {json.dumps(before)}, and this is {json.dumps(now)}"
    return "it has the same header"


def _joined(answers: Sequence[Recorded]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a shard."""
    names = ("tokens", "is_answer", "top_ids", "top_logits", "logsumexp")
    return {
        "starts": np.cumsum([0, *(len(answer.tokens) for answer in answers)], dtype=np.int64),
        "prompts": np.array([answer.prompt for answer in answers], np.int32),
        "looping": np.array([answer.looping for answer in answers], np.bool_),
        **{name: np.concatenate([getattr(answer, name) for answer in answers]) for name in names},
        **{name: np.concatenate([answer.states[name] for answer in answers]) for name in answers[0].states},
    }


def _answers(arrays: Mapping[str, npt.NDArray[Any]], states: Sequence[str]) -> Iterator[Recorded]:
    """The answers of a shard."""
    starts, prompts, looping = arrays["starts"], arrays["prompts"], arrays["looping"]
    for index, prompt in enumerate(prompts):
        part = slice(int(starts[index]), int(starts[index + 1]))
        yield Recorded(
            int(prompt), bool(looping[index]), arrays["tokens"][part], arrays["is_answer"][part],
            {name: arrays[name][part] for name in states},
            arrays["top_ids"][part], arrays["top_logits"][part], arrays["logsumexp"][part],
        )  # fmt: skip


def _mapped(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an uncompressed .npz file, mapped into memory, which numpy's `load` would copy."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed")
            file.seek(member.header_offset)
            local = file.read(_LOCAL_HEADER)
            file.seek(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"), os.SEEK_CUR)
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("an array of another version")
            shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
            if by_columns or kind.hasobject:
                raise ValueError("an array in another layout")
            name = member.filename.removesuffix(".npy")
            if 0 in shape:
                arrays[name] = np.empty(shape, kind)  # nothing to map
            else:
                arrays[name] = np.memmap(file, kind, "r", file.tell(), shape)
    return arrays


def _flush(file: IO[bytes]) -> None:
    """Let the disk have what was written."""
    file.flush()
    os.fsync(file.fileno())
