"""GPUs by name, of a library that finds some, none, or cannot tell."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from edgespec.backend import devices

CPU, GPU, IGPU, ACCELERATOR = 0, 1, 2, 3


@pytest.fixture(autouse=True)
def found_anew() -> Iterator[None]:
    """What was found is remembered for the process: not from these libraries."""
    devices.gpus.cache_clear()
    yield
    devices.gpus.cache_clear()


def _library(*found: tuple[int, bytes, bytes]) -> SimpleNamespace:
    """A ggml with these devices: kind, description, name."""
    return SimpleNamespace(
        ggml_backend_dev_count=lambda: len(found),
        ggml_backend_dev_get=lambda place: 100 + place,
        ggml_backend_dev_type=lambda device: found[device - 100][0],
        ggml_backend_dev_description=lambda device: found[device - 100][1],
        ggml_backend_dev_name=lambda device: found[device - 100][2],
    )


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ((), ()),
        (((CPU, b"a CPU", b"CPU"), (ACCELERATOR, b"OpenBLAS", b"BLAS")), ()),
        (
            ((CPU, b"a CPU", b"CPU"), (GPU, b"NVIDIA H100", b"CUDA0"), (IGPU, b"Adreno \xff", b"OpenCL")),
            ("NVIDIA H100 (CUDA0)", "Adreno \N{REPLACEMENT CHARACTER} (OpenCL)"),
        ),
    ],
)
def test_gpus_are_named_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, found: tuple[tuple[int, bytes, bytes], ...], names: tuple[str, ...]
) -> None:
    monkeypatch.setattr(devices, "libggml", _library(*found))
    assert devices.gpus() == names


def test_a_library_that_cannot_tell_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "libggml", SimpleNamespace())
    assert devices.gpus() == ()


def test_they_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "libggml", _library((GPU, b"one", b"1")))
    first = devices.gpus()
    monkeypatch.setattr(devices, "libggml", _library())
    assert devices.gpus() == first == ("one (1)",)


def test_the_real_library_is_asked_without_harm() -> None:
    assert all(isinstance(name, str) and name.endswith(")") for name in devices.gpus())
