"""Peers: llama.cpp's server, llama-cpp-python and transformers, with the same model."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

from edgespec.bench.measurements import Answer, Peer
from edgespec.bench.memory import peak_so_far
from edgespec.errors import EvaluationError, InvalidRequest
from edgespec.system import child

_SERVER_PRESETS = {
    "llama-server": "",
    "ngram-simple": "--spec-type ngram-simple",
    "ngram-mod": "--spec-type ngram-mod",
    "ngram-cache": "--spec-type ngram-cache",
}
_STATEFUL_DRAFTERS = ("ngram-mod", "ngram-cache")
_DRAFTER_FILE = ("-md", "--model-draft", "--spec-draft-model")
_DRAFT = re.compile(r"draft-simple(?::(.*))?")
_DRAFT_TOKENS = "3"
_LLAMA = "llama-cpp-python"
_LOOKUP = "prompt-lookup"
_TRANSFORMERS = re.compile(r"transformers(?::(.*))?")
_DTYPES = ("float32", "bfloat16", "float16")
_LOOKUP_TOKENS = 2
"""Draft tokens that llama-cpp-python's documentation advises on a CPU; its default is 10."""

_SERVER_TIMEOUT = 900.0
"""Seconds that a server's answer, or loading its model, may take."""

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs without the environment's proxy, which is not for this machine."""


class PeerSpec(NamedTuple):
    """A peer as the user names it: the arguments of a llama-server, or how another program drafts."""

    name: str
    server_arguments: tuple[str, ...] | None
    lookup: int = 0
    """Tokens that `LlamaPromptLookupDecoding` drafts; 0: none."""
    assistant: Path | None = None
    """The model that assists in transformers."""
    dtype: str = ""
    """The number type that transformers computes with, as torch names it."""

    @property
    def models(self) -> list[Path]:
        """The files of its drafter models."""
        arguments = self.server_arguments or ()
        paths = [Path(path) for option, path in pairwise(arguments) if option in _DRAFTER_FILE]
        return [path for path in (*paths, self.assistant) if path and path.is_file()]


def parse_peer(text: str) -> PeerSpec:
    """The peer that `text`, as --peer takes it, names. Raises InvalidRequest.

    `llama-cpp-python` decodes plainly; `prompt-lookup[=N]` is that program with LlamaPromptLookupDecoding;
    `transformers[:DTYPE]=DRAFTER.gguf` is assisted generation; `llama-server`, `ngram-simple`, `ngram-mod`,
    `ngram-cache` and `draft-simple[:N]=DRAFTER.gguf` are a llama-server; NAME=ARGUMENTS is one with these arguments.
    """
    name, equals, arguments = text.partition("=")
    if name == _LLAMA and not equals:
        return PeerSpec(name, None)
    if name == _LOOKUP:
        if equals and not (arguments.isdigit() and int(arguments)):
            raise InvalidRequest(f"peer {text!r}: write {_LOOKUP}=N with the tokens of a draft")
        lookup = int(arguments) if equals else _LOOKUP_TOKENS
        return PeerSpec(f"{name} {lookup}", None, lookup)
    if assisted := _TRANSFORMERS.fullmatch(name):
        dtype = assisted[1] or _DTYPES[0]
        if not Path(arguments).is_file() or dtype not in _DTYPES:
            raise InvalidRequest(f"peer {text!r}: write transformers:DTYPE=DRAFTER.gguf, DTYPE {', '.join(_DTYPES)}")
        return PeerSpec(f"transformers {dtype}", None, assistant=Path(arguments), dtype=dtype)
    if draft := _DRAFT.fullmatch(name):
        path, size = Path(arguments).absolute(), draft[1] or _DRAFT_TOKENS
        if not path.is_file() or not (size.isdigit() and int(size)):
            raise InvalidRequest(f"peer {text!r}: write draft-simple:N=DRAFTER.gguf, N for the tokens of a draft")
        options = ("--spec-type", "draft-simple", "-md", str(path), "--spec-draft-n-max", size)
        return PeerSpec(f"draft-simple {size} {path.stem}", options)
    if not equals and name not in _SERVER_PRESETS:
        choices = ", ".join(
            [_LLAMA, _LOOKUP, "transformers=DRAFTER.gguf", *_SERVER_PRESETS, "draft-simple:N=DRAFTER.gguf"]
        )
        raise InvalidRequest(f"no peer {text!r}: choose {choices}, or write NAME=ARGUMENTS of a llama-server")
    try:
        return PeerSpec(name, tuple(shlex.split(arguments if equals else _SERVER_PRESETS[name])))
    except ValueError as error:
        raise InvalidRequest(f"peer {text!r}: {error}") from error


def start_peer(spec: PeerSpec, model: Path, *, server: Path | None, n_ctx: int, threads: int, gpu_layers: int) -> Peer:
    """Start a peer; returns it ready to answer. Raises EvaluationError when it does not start."""
    if spec.assistant is not None:
        program_arguments = (model, threads, spec.dtype, spec.assistant.absolute())
        return ProgramPeer(spec.name, "edgespec.bench.transformers_peer", program_arguments)
    if spec.server_arguments is None:
        return ProgramPeer(spec.name, "edgespec.backend.llama_peer", (model, n_ctx, threads, gpu_layers, spec.lookup))
    assert server is not None  # `versions` sees to it
    layers = str(gpu_layers) if gpu_layers >= 0 else "99"
    gpu_options = ["-ngl", layers, *(["-ngld", layers] if "-md" in spec.server_arguments else [])]
    arguments = (*gpu_options, *spec.server_arguments)  # the user's come last
    return LlamaServer(server, model, arguments, n_ctx=n_ctx, threads=threads)


class LlamaServer:
    """A llama-server on the loopback interface.

    One whose n-gram drafter stores texts is restarted for each answer: it would copy its own last one, and ngram-cache
    learns no text that is shorter than the longest before it.
    """

    def __init__(self, server: Path, model: Path, arguments: Sequence[str], *, n_ctx: int, threads: int) -> None:
        self._server = server
        self._arguments = ["-m", str(model), "-c", str(n_ctx), "-t", str(threads), "-np", "1", *arguments]
        self._is_stateful = any(drafter in argument for argument in arguments for drafter in _STATEFUL_DRAFTERS)
        self._answered = False
        self._start()

    def _start(self) -> None:
        server = self._server
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._address = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        command = [str(server.absolute()), "--host", "127.0.0.1", "--port", str(port), *self._arguments]
        try:
            self._process = child.start(command, stderr=self._log)
        except OSError as error:
            self._log.close()
            raise EvaluationError(f"{server} cannot be started: {error.strerror}") from error
        try:
            self._wait_until_ready(command)
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self, command: Sequence[str]) -> None:
        deadline = time.monotonic() + _SERVER_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                reason = _last_line(self._log, "error")
                raise EvaluationError(f"llama-server ended at once ({reason}): {shlex.join(command)}")
            with contextlib.suppress(OSError):
                _NO_PROXY.open(f"{self._address}/health", timeout=5).close()
                return
            time.sleep(0.2)
        raise EvaluationError(f"llama-server is not ready after {_SERVER_TIMEOUT:.0f} s: {shlex.join(command)}")

    def answer(
        self, prompt: Sequence[int], count: int, temperature: float, seed: int, *, prefill_all: bool = False
    ) -> Answer:
        if self._is_stateful and self._answered:
            self.close()
            self._start()
            self._complete(prompt[:1], 1, 0.0, 0, prefill_all=True)  # the first answer touches all of its memory
            prefill_all = True  # with one token in its cache, it would split the prompt otherwise than everybody else
        self._answered = True
        return self._complete(prompt, count, temperature, seed, prefill_all=prefill_all)

    def _complete(
        self, prompt: Sequence[int], count: int, temperature: float, seed: int, *, prefill_all: bool
    ) -> Answer:
        # At temperature 0 its sampler of that name still makes a distribution of the whole vocabulary, for every token.
        sampler = {"samplers": ["temperature"]} if temperature else {"samplers": ["top_k"], "top_k": 1}
        body = {
            "prompt": list(prompt), "n_predict": count, "temperature": temperature, "seed": seed,
            "cache_prompt": not prefill_all, "return_tokens": True, **sampler,
        }  # fmt: skip
        request = urllib.request.Request(
            f"{self._address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with _NO_PROXY.open(request, timeout=_SERVER_TIMEOUT) as response:
                response_body = json.load(response)
            timings = response_body["timings"]
            tokens = tuple(response_body["tokens"])
        except urllib.error.HTTPError as error:
            raise EvaluationError(f"llama-server: {error.read().decode(errors='replace')[:200]}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"llama-server did not answer as one does: {error!r}") from error
        accepted = int(timings.get("draft_n_accepted", 0))
        return Answer(
            tokens=tokens,
            seconds=timings["predicted_ms"] / 1e3,
            first_token_seconds=timings["prompt_ms"] / 1e3,
            blocks=max(0, len(tokens) - 1 - accepted),
            drafted=int(timings.get("draft_n", 0)),
            accepted=accepted,
        )

    def close(self) -> int | None:
        peak = peak_so_far(self._process.pid)
        child.end(self._process)  # asked to end, it would first finish its forward pass
        self._log.close()
        return peak


class ProgramPeer:
    """A peer in Python: a module that answers JSON lines with JSON lines, in a process of its own."""

    def __init__(self, name: str, module: str, arguments: Sequence[object]) -> None:
        self._name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = child.start(
            [*child.program(module), *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, cwd=child.IMPORT_ROOT,
        )  # fmt: skip
        try:
            self._read()  # the line that it writes when the model is loaded
        except BaseException:
            self.close()
            raise

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise EvaluationError(f"the peer {self._name} ended with status {status}: {_last_line(self._log)}")
        return json.loads(line)

    def answer(
        self, prompt: Sequence[int], count: int, temperature: float, seed: int, *, prefill_all: bool = False
    ) -> Answer:
        request = {
            "prompt": list(prompt), "count": count, "temperature": temperature, "seed": seed,
            "prefill_all": prefill_all,
        }  # fmt: skip
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # where it has ended, _read raises the reason
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        fields = self._read()
        return Answer(**{**fields, "tokens": tuple(fields["tokens"])})

    def close(self) -> int | None:
        assert self._process.stdin is not None and self._process.stdout is not None
        peak = peak_so_far(self._process.pid)
        child.end(self._process)
        with contextlib.suppress(OSError):  # a request that it did not read
            self._process.stdin.close()
        self._process.stdout.close()
        self._log.close()
        return peak


def _last_line(log: IO[bytes], containing: str = "") -> str:
    """The last line that contains `containing`, else the last line that is not empty."""
    log.seek(0)
    lines = [line for line in (line.strip() for line in log.read().decode(errors="replace").split("\n")) if line]
    return next(
        (line for line in reversed(lines) if containing in line.lower()), lines[-1] if lines else "no reason given"
    )
