"""The versions of the peers' programs."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgespec.bench.peers import PeerSpec
from edgespec.errors import EvaluationError, InvalidRequest
from edgespec.system import child

_TIMEOUT = 60.0
"""Seconds that a server may take to tell its version."""


def versions(specs: Sequence[PeerSpec], server: Path | None) -> Iterator[tuple[str, str]]:
    """The names and versions of the programs that the peers run, besides llama-cpp-python.

    Raises EvaluationError, and InvalidRequest where a llama-server is to take part and is not named.
    """
    server_specs = [spec for spec in specs if spec.server_arguments is not None]
    if server_specs and server is None:
        raise InvalidRequest(f"the peer {server_specs[0].name} is a llama-server: name its file (--server)")
    if server_specs and server:
        yield "llama-server", server_version(server)
    for package in ("transformers", "torch") if any(spec.assistant for spec in specs) else ():
        with contextlib.suppress(PackageNotFoundError):  # starting the peer raises the error
            yield package, version(package)


def server_version(server: Path) -> str:
    """The version of a llama-server and the GPUs that it can use, as one text.

    Builds with and without CUDA have the same version. Raises EvaluationError where it is no llama-server.
    """
    status, printed = _run_server(server, "--version")
    match = re.search(r"^version: *(.+)", printed, re.MULTILINE)
    if not match:
        raise EvaluationError(f"{server} --version ended with status {status} and told no version")
    devices = re.findall(r"^ +(\w+): ", _run_server(server, "--list-devices")[1], re.MULTILINE)
    return ", ".join([match[1].strip(), *devices])


def _run_server(server: Path, option: str) -> tuple[int, str]:
    """The exit status and the output of the server with this option."""
    try:
        process = child.start([str(server.absolute()), option], stdout=subprocess.PIPE)
    except OSError as error:
        raise EvaluationError(f"{server} cannot be started: {error.strerror}") from error
    with process:
        try:
            printed, _ = process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise EvaluationError(f"{server} {option} told nothing for {_TIMEOUT:.0f} s") from error
        finally:
            child.end(process)
    return process.returncode, printed
