"""Which versions of other programs take part."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgespec.bench.peers import PeerSpec
from edgespec.errors import EvaluationError, InvalidRequest


def versions(specs: Sequence[PeerSpec], server: Path | None) -> Iterator[tuple[str, str]]:
    """Programs that the peers run beside llama-cpp-python, with their versions.

    Raises EvaluationError, and InvalidRequest where a llama-server is to take part and is not named.
    """
    serving = [spec for spec in specs if spec.server_arguments is not None]
    if serving and server is None:
        raise InvalidRequest(f"the peer {serving[0].name} is a llama-server: name its file (--server)")
    if serving and server:
        yield "llama-server", server_version(server)
    for package in ("transformers", "torch") if any(spec.assistant for spec in specs) else ():
        with contextlib.suppress(PackageNotFoundError):  # which is told when it is started
            yield package, version(package)


def server_version(server: Path) -> str:
    """What a llama-server says of its version and, if there are any, the GPUs that it can use.

    Builds with and without CUDA tell the same version. Raises EvaluationError where it is no llama-server.
    """
    asked = _asked(server, "--version")
    found = re.search(r"^version: *(.+)", asked.stdout, re.MULTILINE)
    if not found:
        raise EvaluationError(f"{server} --version ended with status {asked.returncode} and told no version")
    devices = re.findall(r"^ +(\w+): ", _asked(server, "--list-devices").stdout, re.MULTILINE)
    return ", ".join([found[1].strip(), *devices])


def _asked(server: Path, option: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(server.absolute()), option], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", timeout=60, check=False,
        )  # fmt: skip
    except OSError as error:
        raise EvaluationError(f"{server} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise EvaluationError(f"{server} {option} told nothing for {error.timeout:.0f} s") from error
