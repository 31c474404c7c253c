"""From options to an engine and to how tokens are chosen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import pytest

from edgespec import SamplingParams
from edgespec.cli import build
from edgespec.cli.build import open_engine, sampling_of
from edgespec.cli.options import model_options, sampling_options
from edgespec.errors import GrammarError, InvalidRequest


def _options(*arguments: str) -> dict[str, Any]:
    """The options of a command that has all that are shared."""

    @click.command()
    @model_options
    @sampling_options
    def command(**options: Any) -> None:
        raise AssertionError("only parsed")

    return command.make_context("test", list(arguments)).params


def test_without_options_nothing_is_filtered_that_nobody_asked_for() -> None:
    params = sampling_of(_options())
    assert (params.temperature, params.filters, params.reweighs, params.grammar) == (0.0, False, False, None)
    assert params == SamplingParams(seed=params.seed)


def test_a_seed_is_new_unless_it_is_given() -> None:
    assert len({sampling_of(_options()).seed for _ in range(4)}) > 1
    assert sampling_of(_options("--seed", "0")).seed == 0


def test_every_option_arrives() -> None:
    params = sampling_of(
        _options(
            "--temp", "0.5", "--top-k", "7", "--top-p", "0.9", "--min-p", "0.1", "--typical", "0.8",
            "--repeat-penalty", "1.2", "--repeat-last-n", "-1", "--presence-penalty", "0.3",
            "--frequency-penalty", "0.4", "--dry-multiplier", "0.6", "--dry-base", "2", "--dry-allowed-length", "3",
            "--logit-bias", "42=-5", "--logit-bias", "7=-inf", "--seed", "11",
        ),
        logprobs=3,
    )  # fmt: skip
    assert params == SamplingParams(
        temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, typical_p=0.8, repeat_penalty=1.2, penalty_last_n=-1,
        presence_penalty=0.3, frequency_penalty=0.4, dry_multiplier=0.6, dry_base=2.0, dry_allowed_length=3,
        logit_bias={42: -5.0, 7: -math.inf}, seed=11, logprobs=3,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "42", "=1", "42=", "a=1", "42=much", "4.5=1", "42:1"])
def test_a_bias_that_is_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="write ID=NUMBER, like 42=-5"):
        sampling_of(_options("--logit-bias", text))


@pytest.mark.parametrize("text", ["42=nan", "42=inf", "-1=2"])
def test_a_bias_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidRequest, match="logit_bias"):
        sampling_of(_options(f"--logit-bias={text}"))


def test_a_grammar_or_a_schema_but_not_both(tmp_path: Path) -> None:
    grammar, schema = tmp_path / "g.gbnf", tmp_path / "s.json"
    grammar.write_text('root ::= "ä"', encoding="utf-8")
    schema.write_text('{"type": "boolean"}', encoding="utf-8")
    assert sampling_of(_options("--grammar", str(grammar))).grammar == 'root ::= "ä"'
    made = sampling_of(_options("--json-schema", str(schema))).grammar
    assert made is not None
    assert "root ::=" in made
    with pytest.raises(click.UsageError, match="exclude each other"):
        sampling_of(_options("--grammar", str(grammar), "--json-schema", str(schema)))


def test_a_grammar_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot read .*nothing"):
        sampling_of(_options("--grammar", str(tmp_path / "nothing")))
    (tmp_path / "s.json").write_text("{", encoding="utf-8")
    with pytest.raises(GrammarError, match="not JSON"):
        sampling_of(_options("--json-schema", str(tmp_path / "s.json")))


def test_an_engine_is_loaded_with_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(build, "load", lambda model, **options: loaded.append((model, options)))
    open_engine(_options())
    open_engine(
        _options("-m", "m.gguf", "-d", "suffix", "--ctx", "64", "--threads", "2", "--gpu-layers", "0", "--exact")
    )
    nothing, everything = loaded
    assert nothing == (
        None,
        {
            "drafter": "auto", "exact": False, "n_ctx": None, "threads": None, "gpu_layers": -1, "prefix_cache": False,
        },
    )  # fmt: skip
    assert everything == (
        "m.gguf",
        {"drafter": "suffix", "exact": True, "n_ctx": 64, "threads": 2, "gpu_layers": 0, "prefix_cache": False},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bound", "private", "loaded"),
    [(None, False, True), (2.5, False, 2.5), (0.0, False, 0.0), (None, True, False), (2.5, True, False)],
)
def test_prompts_are_stored_by_default_and_never_in_private(
    monkeypatch: pytest.MonkeyPatch, bound: float | None, private: bool, loaded: bool | float
) -> None:
    monkeypatch.setattr(build, "load", lambda model, **options: options["prefix_cache"])
    assert open_engine({**_options(), "prefix_cache": bound, "private": private}) is loaded  # type: ignore[comparison-overlap]
