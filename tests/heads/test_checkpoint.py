"""Checkpoints: what is read is what was written, and nothing torn or hostile gets through."""

from __future__ import annotations

import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest

from edgespec.errors import EdgespecError, InvalidRequest, MalformedModel, ModelNotFound, UnsupportedModel
from edgespec.heads.checkpoint import Checkpoint
from tests.heads.published import safetensors

VALUES = np.array([[1.0, -2.5, 0.0], [3.25, 1e-3, 7.0]], np.float32)


def test_all_types_are_read(tmp_path: Path) -> None:
    written = {
        "f32": VALUES, "f16": VALUES.astype(np.float16), "bf16": (VALUES.view(np.uint32) >> 16).astype(np.uint16),
        "ids": np.array([5, 3], np.int64), "mask": np.array([True, False]), "empty": np.zeros((0, 4), np.float32),
    }  # fmt: skip
    read = Checkpoint(safetensors(tmp_path / "m.safetensors", written))
    assert set(read) == set(written) and read.config == {}
    assert read["f32"].tolist() == VALUES.tolist()
    assert np.allclose(read["f16"], VALUES, atol=1e-3) and read["f16"].dtype == np.float32
    assert np.allclose(read["bf16"], VALUES, rtol=1e-2) and read["bf16"].dtype == np.float32
    assert read["ids"].tolist() == [5, 3] and read["mask"].tolist() == [True, False] and read["empty"].shape == (0, 4)


def test_a_folder_with_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"medusa_num_heads": 3}')
    for part in "ab":
        safetensors(tmp_path / f"{part}.safetensors", {part: VALUES})
    (tmp_path / "a.bin").write_bytes(b"the same for others")
    read = Checkpoint(tmp_path)
    assert set(read) == {"a", "b"} and read.config == {"medusa_num_heads": 3}


def test_torn_and_mutated_files_get_one_line(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "m.safetensors", {"a": VALUES, "b": VALUES[0]})
    data = path.read_bytes()
    for size in (0, 5, 20, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(MalformedModel, match=r"m\.safetensors: .*; download it again"):
            Checkpoint(path)
    rng = random.Random(3)
    for _ in range(300):
        mutated = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            mutated[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(mutated)
        try:
            read = Checkpoint(path)
        except EdgespecError as error:
            assert "\n" not in str(error)
        else:
            assert all(values.size >= 0 for values in read.values())


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModel, match=r"a checkpoint is a \.safetensors"):
        Checkpoint(tmp_path / "m.gguf")
    with pytest.raises(ModelNotFound, match=r"no \.safetensors, \.pt"):
        Checkpoint(tmp_path)
    with pytest.raises(ModelNotFound, match="no such file"):
        Checkpoint(tmp_path / "missing.pt")


def test_pytorch_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.pt").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidRequest, match=re.escape("pip install 'edgespec[train]'")):
        Checkpoint(tmp_path / "m.pt")


class Code:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("owned"),)  # type: ignore[return-value]


def test_files_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.pt"
    for value in ({"a": torch.tensor(VALUES).bfloat16()}, {"state_dict": {"a": torch.tensor(VALUES), "n": 3}}):
        torch.save(value, path)
        read = Checkpoint(path)
        assert list(read) == ["a"] and np.allclose(read["a"], VALUES, rtol=1e-2)
    torch.save({"a": Code()}, path)
    with pytest.raises(UnsupportedModel, match="pickled code, which is not run"):
        Checkpoint(path)
    path.write_bytes(pickle.dumps(Code()))
    with pytest.raises(EdgespecError, match=r"m\.pt: "):
        Checkpoint(path)
    assert not (tmp_path / "owned").exists()
    torch.save({"a": torch.tensor(VALUES)}, path)
    data = path.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:size])
        with pytest.raises(EdgespecError, match=r"m\.pt: ") as error:
            Checkpoint(path)
        assert "\n" not in str(error.value)
    torch.save([1, 2], path)
    with pytest.raises(UnsupportedModel, match="no tensors by name"):
        Checkpoint(path)
