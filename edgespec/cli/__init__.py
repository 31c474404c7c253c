"""The command line: each command parses, makes one library call, and prints."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgespec import __version__
from edgespec.cli.commands import COMMANDS
from edgespec.cli.config import defaults_for
from edgespec.cli.terminal import echo, visible
from edgespec.errors import EdgespecError
from edgespec.system import cpu
from edgespec.system.signals import heeded_signals


class _UserError(click.ClickException):
    """An error that the user can act on: one line on stderr, exit status 1."""

    def show(self, file: Any = None) -> None:
        echo(f"edgespec: {self.message}", err=True)


class _LogFormatter(logging.Formatter):
    """A line for each record, which may quote a file."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@contextlib.contextmanager
def _visible_errors() -> Iterator[None]:
    """What click says about the command line quotes it with its control characters visible."""
    try:
        yield
    except click.ClickException as error:
        vars(error)["message"] = visible(error.message)
        raise


class _CommandGroup(click.Group):
    """The commands in the order of COMMANDS; edgespec's own errors become one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _visible_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _visible_errors(), heeded_signals():  # so that child processes and temporary files are removed
                return super().invoke(ctx)
        except EdgespecError as error:
            raise _UserError(str(error)) from error
        except UnicodeError as error:
            raise _UserError(f"the input is not UTF-8 text: {error}") from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader of the output has ended
            if error.filename is None:  # most likely the output, on a full disk
                _discard_output()
            raise _UserError(f"{error.filename or 'reading or writing'}: {error.strerror or error}") from error
        except KeyboardInterrupt:
            sys.exit(130)


@click.group(
    cls=_CommandGroup,
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
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # characters that the terminal lacks must not end an answer
    _log_to_stderr(ctx, verbose)
    _read_config(ctx, config)


def _open_closed_streams() -> None:
    """Open a standard stream on the null device where it was closed (`edgespec ... 2>&-`): Python has None there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _discard_output() -> None:
    """Send stdout to the null device, so that what could not be written is not written again at exit."""
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as null_device:
        os.dup2(null_device.fileno(), sys.stdout.fileno())


def _read_config(ctx: click.Context, path: Path | None) -> None:
    """Set the command's defaults from the configuration file, if there is one."""
    name = ctx.invoked_subcommand
    command = main.commands.get(name) if name else None
    if name is None or command is None:
        return
    if path is None:
        path = cpu.config_directory() / "config.toml"
        if not path.exists():
            return
    ctx.default_map = {name: defaults_for(path, name, command, main.commands)}


def _log_to_stderr(ctx: click.Context, verbose: int) -> None:
    """Log edgespec's warnings to stderr until the command ends, more with -v, and llama.cpp's log with -vv."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LogFormatter("edgespec: %(message)s"))
    if verbose < 2:
        handler.addFilter(lambda record: not record.name.startswith("edgespec.llama_cpp"))
    logger = logging.getLogger("edgespec")
    logger.addHandler(handler)
    ctx.call_on_close(lambda: logger.removeHandler(handler))  # this stderr may be closed by then, as in tests
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
