"""Makes a list of tokens worth keeping, for `edgespec trim --kept`, from counts of edgespec calibrate.

    python tools/kept_ids.py FULL.gguf COUNTS.json... -o edgespec/models/NAME.kept.json

FULL.gguf is any model with the vocabulary. What was counted for the list that ships: models/README.md.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from edgespec.gguf.metadata import strings
from edgespec.vocabtrim.counts import load_counts, merged, tokenizer_hash
from edgespec.vocabtrim.keep_list import KeepList
from edgespec.vocabtrim.pipeline import forced_tokens
from edgespec.vocabtrim.selection import ranked
from edgespec.vocabtrim.writer import read_trimmable


@click.command()
@click.argument("full", type=click.Path(path_type=Path))
@click.argument("counts", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-o", "out", type=click.Path(path_type=Path), required=True)
def main(full: Path, counts: tuple[Path, ...], out: Path) -> None:
    """The tokens that were counted, in the order in which edgespec trim would use them, after the forced ones.

    What was not counted is ranked by id, with a list as without one.
    """
    part = read_trimmable(full)
    read = [load_counts(one) for one in counts]
    if any(one.tokenizer != tokenizer_hash(part) for one in read):
        raise click.ClickException(f"counts of another vocabulary than {full.name}'s")
    said, text, _ = merged(read)
    forced = forced_tokens(part)
    ranking = ranked(len(strings(part, "tokenizer.ggml.tokens")), said, text)
    counted = ranking[: len(said.keys() | text.keys())]
    ids = np.concatenate([forced, counted[~np.isin(counted, forced)]])
    KeepList(tokenizer_hash(part), ids, {"counts": [counts_read.provenance for counts_read in read]}).save(out)
    click.echo(f"{out}: {len(ids)} tokens, {len(forced)} of them forced, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
