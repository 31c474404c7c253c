"""Reads the tensors of a published checkpoint: safetensors by a reader of ours, PyTorch's files by PyTorch.

Nothing of a checkpoint is run: `torch.load(weights_only=True)` takes tensors alone out of PyTorch's pickles.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from edgespec.errors import InvalidRequest, MalformedModel, ModelNotFound, UnsupportedModel
from edgespec.system.files import read_json

Array = npt.NDArray[Any]

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "<u1", "BOOL": "?"}
_LONGEST_HEADER = 100_000_000  # bytes, as in the format's reference
_PYTORCH = (".pt", ".pth", ".bin")


class Checkpoint(Mapping[str, Array]):
    """The tensors of a file, or of all files of a folder, by name; numbers of 16 bits come as 32-bit floats.

    `config`: its config.json, empty without one. `files`: where the tensors are. Raises ModelNotFound, MalformedModel,
    UnsupportedModel, InvalidRequest where PyTorch is needed and missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = _files(path)
        config = read_json((path if path.is_dir() else path.parent) / "config.json")
        self.config: dict[str, Any] = config if isinstance(config, dict) else {}
        self._readers: dict[str, Callable[[], Array]] = {}
        for file in self.files:
            self._readers |= _pytorch(file) if file.suffix in _PYTORCH else _safetensors(file)

    def __getitem__(self, name: str) -> Array:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in (".safetensors", *_PYTORCH):
            raise UnsupportedModel(
                f"{path}: a checkpoint is a .safetensors, .pt, .pth or .bin file, or a folder of them"
            )
        return [path]
    if not path.is_dir():
        raise ModelNotFound(f"{path}: no such file or folder")
    for suffixes in ((".safetensors",), _PYTORCH):
        if found := sorted(file for file in path.iterdir() if file.suffix in suffixes and file.is_file()):
            return found
    raise ModelNotFound(f"{path}: no .safetensors, .pt, .pth or .bin file in this folder")


def _safetensors(path: Path) -> dict[str, Callable[[], Array]]:
    def refuse(reason: str) -> NoReturn:
        raise MalformedModel(f"{path}: {reason}; download it again")

    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            refuse("no safetensors file, or an incomplete one")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            refuse("its header is no JSON")
    if not isinstance(header, dict):
        refuse("its header is no JSON object")
    header.pop("__metadata__", None)
    readers: dict[str, Callable[[], Array]] = {}
    for name, entry in header.items():
        try:
            kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            numbers = [*shape, begin, end]
        except (KeyError, TypeError, ValueError):
            refuse(f"the entry of the tensor {name[:80]!r} is malformed")
        if kind not in _TYPES:
            raise UnsupportedModel(
                f"{path}: the tensor {name[:80]!r} has the type {kind!r}; {', '.join(_TYPES)} are read"
            )
        if len(shape) > 8 or any(type(number) is not int or number < 0 for number in numbers):
            refuse(f"the entry of the tensor {name[:80]!r} is malformed")
        if end - begin != prod(shape) * np.dtype(_TYPES[kind]).itemsize or 8 + length + end > size:
            refuse(f"the tensor {name[:80]!r} does not lie in the file with its shape")
        readers[name] = _mapped(path, kind, shape, 8 + length + begin)
    return readers


def _mapped(path: Path, kind: str, shape: tuple[int, ...], offset: int) -> Callable[[], Array]:
    def read() -> Array:
        if not prod(shape):
            return np.zeros(shape, _TYPES[kind])
        raw = np.memmap(path, _TYPES[kind], "r", offset, shape)
        if kind == "BF16":  # the upper half of a 32-bit float
            return (raw.astype("<u4") << 16).view("<f4")
        return raw.astype(np.float32) if kind == "F16" else np.asarray(raw)

    return read


def _pytorch(path: Path) -> dict[str, Callable[[], Array]]:
    if importlib.util.find_spec("torch") is None:
        raise InvalidRequest(f"{path.name} needs PyTorch, which is not installed: pip install 'edgespec[train]'")
    import torch  # noqa: PLC0415 - slow, and an extra

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it may not know
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsupportedModel(
            f"{path}: no file of PyTorch, or one with pickled code, which is not run: choose one in safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise MalformedModel(f"{path}: PyTorch cannot read it; download it again") from error
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UnsupportedModel(f"{path}: no tensors by name, as heads are published")
    return {name: _of_torch(tensor) for name, tensor in value.items() if isinstance(tensor, torch.Tensor)}


def _of_torch(tensor: Any) -> Callable[[], Array]:
    def read() -> Array:
        plain = tensor.float() if tensor.is_floating_point() else tensor
        array: Array = plain.numpy()
        return array

    return read
