"""`edgespec heads info`, `assemble`, `convert` and `forget`: say what files hold, make heads that can run, clear up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edgespec.cli.terminal import echo, write
from edgespec.errors import InvalidRequest, UnsupportedModel
from edgespec.gguf.eagle3 import read_eagle3
from edgespec.gguf.reader import walk
from edgespec.gguf.validate import Header, read_header
from edgespec.heads import used
from edgespec.heads.assemble import assemble as assemble_heads
from edgespec.heads.assemble import runnable_path
from edgespec.heads.checkpoint import Checkpoint
from edgespec.heads.convert import Selection
from edgespec.heads.convert import convert as convert_heads
from edgespec.heads.format import HeadsFile, is_described, read_heads
from edgespec.hub.resolve import keep_list_path, resolve
from edgespec.system import cpu
from edgespec.system.files import check_writable, expanded_path
from edgespec.system.texts import counted
from edgespec.vocabtrim.counts import tokenizer_hash
from edgespec.vocabtrim.keep_list import load_keep_list


def info(options: dict[str, Any]) -> None:
    """Print what a file of heads holds. Raises UnsupportedModel where it does not belong to the model that is named."""
    path = expanded_path(str(options["heads"]))
    target = None if options["model"] is None else _header(options["model"])
    if not is_described(walk(path)):
        value, reason = _of_another_program(path, target), None
    else:
        heads = _read(path)
        value, reason = _described(heads), _refusal(heads, target)
    if target is not None:
        value |= {"belongs": reason is None, "reason": None if reason is None else str(reason)}
    if options["as_object"]:
        write(json.dumps(value), nl=True)
    else:
        echo("\n".join(_lines(value)))
        if target is not None and reason is None:
            echo(f"they belong to {target.part.path.name}")
    if reason is not None:
        raise reason


def assemble(options: dict[str, Any]) -> None:
    """Write heads that can run, and print where they are."""
    path = expanded_path(str(options["heads"]))
    heads, target = _read(path), _header(options["model"])
    out = options["out"]
    if out is None:
        out = runnable_path(heads)
        cpu.made_folder(out.parent)
    check_writable(out, replace=options["force"] or options["out"] is None)
    if out.exists() and any(out.samefile(source) for source in (path, *(part.path for part in target.parts))):
        raise InvalidRequest(f"{out}: that is what the heads are made of: choose another name")
    with click.progressbar(
        length=len(heads.kept_ids), label="rows", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        assemble_heads(heads, target, out, options["kind"], lambda done, total: bar.update(done - bar.pos))
    echo(f"{out}: {heads.spec.kind} heads for {target.part.path.name}, {out.stat().st_size / 1e6:.1f} MB")
    if heads.spec.kind == "eagle3" and heads.spec.states:
        echo("llama-server drafts with them too: --spec-type draft-eagle3 -md FILE")


def convert(options: dict[str, Any]) -> None:
    """Write the learned part of published heads, and print what it is."""
    out: Path = options["out"]
    check_writable(out, replace=options["force"])
    target = _header(options["model"])
    keep_list = load_keep_list(keep_list_path(options["kept"])) if options["kept"] else None
    if keep_list is not None and keep_list.tokenizer != tokenizer_hash(target.part):
        raise InvalidRequest(f"{options['kept']}: a list of another tokenizer than that of {target.part.path.name}")
    converted = convert_heads(
        Checkpoint(expanded_path(str(options["checkpoint"]))), target,
        kind=options["kind"], selection=Selection(options["size"], keep_list),
    )  # fmt: skip
    converted.write(out, options["kind_of_matrices"])
    echo("\n".join(_lines(_described(_read(out)))))


def _header(model: str | None) -> Header:
    return read_header(resolve(model, cache_dir=cpu.cache_directory()))


def _read(path: Path) -> HeadsFile:
    stock = walk(path).values.get("general.architecture") == "eagle3"
    return read_heads(path, **({"architecture": "eagle3"} if stock else {}))


def _refusal(heads: HeadsFile, target: Header | None) -> UnsupportedModel | None:
    try:
        if target is not None:
            heads.spec.check(target)
    except UnsupportedModel as error:
        return error
    return None


def _described(heads: HeadsFile) -> dict[str, Any]:
    spec = heads.spec
    own = spec.target
    return {
        "path": str(heads.path), "kind": spec.kind, "assembled": heads.assembled, "bytes": heads.part.size,
        "count": spec.count, "depth": spec.depth, "states": list(spec.states), "kept": len(heads.kept_ids),
        "prefix_attention": spec.kind == "hydra" and spec.layer is not None,
        "target": {
            "architecture": own.architecture, "hidden_size": own.hidden_size, "layers": own.layers,
            "vocab_size": own.n_vocab, "tokenizer_hash": own.tokenizer, "target_hash": own.fingerprint,
        },
        "provenance": dict(spec.provenance),
    }  # fmt: skip


def _of_another_program(path: Path, target: Header | None) -> dict[str, Any]:
    """An EAGLE-3 head that does not say whose it is: only its shape can be checked."""
    if target is None:
        raise InvalidRequest(f"{path}: heads that do not say what they belong to: name their target with -m")
    size = target.part.values[f"{target.architecture}.embedding_length"]
    assert isinstance(size, int)  # the header is checked
    head = read_eagle3(path, target=target.part.path.name, hidden_size=size, n_vocab=target.n_vocab)
    return {
        "path": str(path), "kind": "eagle3", "assembled": True, "bytes": head.part.size, "states": list(head.layers),
        "kept": len(head.kept_ids), "target": {"hidden_size": size, "vocab_size": target.n_vocab},
    }  # fmt: skip


def _lines(value: dict[str, Any]) -> list[str]:
    states = f"the inputs of the layers {', '.join(map(str, value['states']))}" if value["states"] else "the last state"
    kind, own = value["kind"] + ("++" if value.get("prefix_attention") else ""), value["target"]
    part = "can run" if value["assembled"] else "the learned part alone, which edgespec heads assemble makes run"
    lines = [f"{value['path']}: {kind}, {value['bytes'] / 1e6:.1f} MB, {part}"]
    if kind != "eagle3":
        lines.append(f"{counted(value['count'], 'head')} of {counted(value['depth'], 'block')}")
    lines.append(
        f"reads {states} of {own['hidden_size']} numbers; drafts {value['kept']} of {own['vocab_size']} tokens"
    )
    if "architecture" in own:
        lines.append(
            f"target: {own['architecture']}, {counted(own['layers'], 'layer')}, hash {own['target_hash'][:16]}"
        )
    measured = value.get("provenance", {}).get("held_out")
    if isinstance(measured, dict) and isinstance(chain := measured.get("chain"), dict):
        lines.append(f"held-out answers: mean acceptance length {chain.get('mean_acceptance_length')}")
    return lines


def forget() -> None:
    """Remove what was kept of the user's chats."""
    echo(f"removed {used.forget(used.used_folder(cpu.data_directory())) / 1e6:.1f} MB of answers")
