"""The command line: each command parses, makes one library call, and prints."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from edgespec import __version__
from edgespec.cli.commands import COMMANDS
from edgespec.cli.config import defaults_for
from edgespec.errors import EdgespecError
from edgespec.system import cpu


class _OneLine(click.ClickException):
    """An error the user can act on: one line on stderr, exit status 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"edgespec: {self.message}", err=True, file=file)


class _Commands(click.Group):
    """The commands in their own order; what edgespec raises on purpose becomes one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgespecError as error:
            raise _OneLine(str(error)) from error
        except UnicodeError as error:
            raise _OneLine(f"the input is not UTF-8 text: {error}") from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output is gone
            if error.filename is None:  # where output goes, most likely: a full disk
                _drop_output()
            raise _OneLine(f"{error.filename or 'reading or writing'}: {error.strerror or error}") from error
        except KeyboardInterrupt:
            sys.exit(130)


@click.group(
    cls=_Commands,
    commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version")
@click.option("-v", "--verbose", count=True, help="Log to stderr. Twice: llama.cpp's log too.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="EDGESPEC_CONFIG",
    metavar="FILE",
    help="TOML file with defaults for the options. Default: config.toml in the user's configuration folder.",
)
@click.pass_context
def main(ctx: click.Context, verbose: int, config: Path | None) -> None:  # fmt: skip
    """Run a GGUF model faster, without changing its answers."""
    _open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # no answer ends at a letter that the terminal does not have
    _log_to_stderr(verbose)
    _read_config(ctx, config)
    for name in ("SIGTERM", "SIGHUP"):  # as with Ctrl-C: processes and files are put away
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _leave)


def _open_streams() -> None:
    """What Python leaves out where a standard stream was closed (`edgespec ... 2>&-`)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _drop_output() -> None:
    """What could not be written to stdout is not to be tried again when the process ends."""
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _leave(number: int, _frame: FrameType | None) -> None:
    """Only once: a window that is closed may send two, and the second must not break what the first one began."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _read_config(ctx: click.Context, path: Path | None) -> None:
    """Give the command the defaults of the configuration file, if there is one."""
    name = ctx.invoked_subcommand
    command = main.commands.get(name) if name else None
    if name is None or command is None:
        return
    if path is None:
        path = cpu.config_directory() / "config.toml"
        if not path.exists():
            return
    ctx.default_map = {name: defaults_for(path, name, command, main.commands)}


def _log_to_stderr(verbose: int) -> None:
    """Warnings of edgespec's own, and more on request. llama.cpp's log stays off the terminal unless asked for."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("edgespec: %(message)s"))
    if verbose < 2:
        handler.addFilter(lambda record: not record.name.startswith("edgespec.llama_cpp"))
    logger = logging.getLogger("edgespec")
    logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
