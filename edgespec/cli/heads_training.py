"""`edgespec heads train` and `edgespec heads evaluate`: train heads on recorded answers, and replay such answers."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgespec import __version__
from edgespec.backend.load_check import check_loads
from edgespec.cli.heads_collecting import used_states
from edgespec.cli.interrupt import message_when_stopped
from edgespec.cli.progress import AnswerProgress
from edgespec.cli.terminal import echo, write
from edgespec.errors import InvalidRequest, OutputError
from edgespec.gguf.validate import Header
from edgespec.heads.dataset import HeadData
from edgespec.heads.format import read_heads
from edgespec.heads.used import UsedAnswers, used_folder
from edgespec.hub.resolve import keep_list_path, resolve
from edgespec.system import cpu
from edgespec.system.files import check_writable
from edgespec.vocabtrim.keep_list import load_keep_list


def train(options: dict[str, Any]) -> None:
    """Train heads, write their learned part, and print what held-out answers show."""
    if (options["data"] is None) != options["from_use"]:
        raise click.UsageError("give either DATA, a folder of edgespec heads collect, or --from-use")
    device = _prepared_device(options)
    from edgespec.heads.pipeline import Order  # noqa: PLC0415 - torch is there now
    from edgespec.heads.pipeline import train as train_heads  # noqa: PLC0415
    from edgespec.heads.train import usual_training  # noqa: PLC0415

    out: Path = options["out"]
    check_writable(out, replace=options["force"])
    plot = options["plot"]
    if plot is not None:
        _check_plot(plot, force=options["force"])
    header = _header(options)
    used = UsedAnswers(used_folder(cpu.data_directory()), header.fingerprint, header.n_vocab)
    data = HeadData(used_states(used, header, options) if options["from_use"] else options["data"])
    kind = options["kind"]
    training = usual_training(
        kind, more=options["start"] is not None, epochs=options["epochs"], learning_rate=options["learning_rate"]
    )
    training = replace(training, seed=options["seed"], batch=options["batch"] or training.batch)
    order = Order(
        kind, training, options["size"], options["count"], options["tokens"],
        load_keep_list(keep_list_path(options["kept"])) if options["kept"] else None, options["type"], __version__,
        read_heads(options["start"]) if options["start"] else None,
    )  # fmt: skip
    progress = _TrainingProgress()
    with message_when_stopped(lambda: "the same command goes on from the last checkpoint, a minute ago at most"):
        history, measured = train_heads(data, header, order, out, device=device, progress=progress)
    progress.finish(history)
    if options["from_use"]:
        used.remove_states()
    if plot is not None:
        from edgespec.heads.plots import draw  # noqa: PLC0415 - it needs matplotlib

        draw(history, plot, f"{kind} for {header.part.path.name}")
    echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB of {kind}")
    echo(_measured_lines(measured))


def evaluate(options: dict[str, Any]) -> None:
    """Replay held-out answers with heads, and print the result."""
    device = _prepared_device(options)
    from edgespec.heads.pipeline import evaluate as replay_answers  # noqa: PLC0415 - torch is there now

    heads = read_heads(options["heads"])
    data = HeadData(options["data"])
    measured = replay_answers(
        data, _header(options), heads, nodes=options["nodes"], every=options["every"], device=device
    )
    if options["as_object"]:
        write(json.dumps(measured.as_json()), nl=True)
    else:
        echo(_measured_lines(measured, every=options["every"]))


def _header(options: dict[str, Any]) -> Header:
    cache = cpu.cache_directory()
    return check_loads(resolve(options["model"], cache_dir=cache), cache_dir=cache)


def _prepared_device(options: dict[str, Any]) -> str:
    """Where torch is to compute. Raises InvalidRequest where it is not installed, or has no such device."""
    if importlib.util.find_spec("torch") is None:
        raise InvalidRequest("training needs PyTorch, which is not installed: pip install 'edgespec[train]'")
    import torch  # noqa: PLC0415 - slow, and an extra

    device = options["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("--device cuda: PyTorch finds no GPU here; use --device cpu")
    torch.set_num_threads(options["threads"] or cpu.default_threads())
    return str(device)


def _check_plot(plot: Path, *, force: bool) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidRequest("--plot needs matplotlib, which is not installed: pip install 'edgespec[train]'")
    if plot.suffix not in (".png", ".svg", ".pdf"):
        raise OutputError(f"{plot}: plots are .png, .svg or .pdf files: choose such a name")
    check_writable(plot, replace=force)


def _measured_lines(measured: Any, *, every: bool = False) -> str:
    """What a replay gave, in a line for each way of drafting."""
    which = "all answers" if every else "held-out answers"
    names = {"chain": f"{which}, chains", "tree": f"{which}, trees", "looping": "answers that loop"}
    lines = []
    for name, result in measured.as_json().items():
        rates = " ".join(f"{rate:.2f}" for rate in result["acceptance_by_position"])
        lines.append(
            f"{names[name]}: mean acceptance length {result['mean_acceptance_length']:.2f} over {result['tokens']} "
            f"tokens; accepted by position {rates}"
        )
    return "\n".join(lines)


class _TrainingProgress:
    """Steps with speed and time left, and a line for each epoch."""

    def __init__(self) -> None:
        self._epochs_shown = 0
        self._steps = AnswerProgress()

    def __call__(self, moment: Any) -> None:
        self._show(moment.epochs)
        self._steps("steps", moment.step, moment.steps, moment.tokens, moment.step / moment.steps)

    def finish(self, history: Any) -> None:
        """Show the last epoch."""
        self._show(history)

    def _show(self, epochs: Any) -> None:
        if len(epochs) > self._epochs_shown:
            self._steps.end_line()
        for number in range(self._epochs_shown, len(epochs)):
            epoch = epochs[number]
            rates = " ".join(f"{rate:.2f}" for rate in epoch.rates)
            echo(
                f"epoch {number + 1}: loss {epoch.loss:.3f}; held-out answers: mean acceptance length "
                f"{epoch.mean_length:.2f}, accepted by position {rates}",
                err=True,
            )
        self._epochs_shown = len(epochs)
