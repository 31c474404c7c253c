"""Published heads: what is converted computes what the checkpoint says, and what would not is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgespec
from edgespec.backend.head_graph import HeadGraph, HeadShape
from edgespec.drafters.heads import HeadDrafter
from edgespec.errors import EdgespecError, InvalidRequest, UnsupportedModel
from edgespec.gguf.validate import Header, read_header
from edgespec.heads.assemble import assemble
from edgespec.heads.checkpoint import Checkpoint
from edgespec.heads.convert import Converted, Selection, convert
from edgespec.heads.format import HeadsFile, read_heads
from edgespec.heads.target import TargetWeights
from edgespec.vocabtrim.keep_list import KeepList
from tests.gguf_files import N_EMBD as SIZE
from tests.gguf_files import tiny_model
from tests.heads import published
from tests.heads.reference import rms_norm, silu

N_VOCAB = 320
KEPT = np.sort(np.random.default_rng(0).choice(N_VOCAB, 100, replace=False))
EPSILON, THETA = 1e-5, 10000.0


@pytest.fixture
def header(tmp_path: Path) -> Header:
    return read_header(tiny_model(tmp_path / "m.gguf"))


def converted(
    tensors: Mapping[str, Any], header: Header, *, config: Mapping[str, Any] | None = None, **options: Any
) -> Converted:
    folder = header.part.path.parent / "published"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    return convert(Checkpoint(published.safetensors(folder / "m.safetensors", tensors).parent), header, **options)


def runnable(heads: Converted, header: Header) -> HeadsFile:
    """Written, assembled and read."""
    folder = header.part.path.parent
    heads.write(folder / "learned.gguf", "f32")
    assemble(read_heads(folder / "learned.gguf"), header, folder / "heads.gguf", "f32")
    stock = heads.spec.kind == "eagle3"
    return read_heads(folder / "heads.gguf", **({"architecture": "eagle3"} if stock else {}))


def graph_of(heads: HeadsFile) -> HeadGraph:
    spec = heads.spec
    shape = HeadShape(spec.kind, SIZE, spec.count, spec.depth, len(heads.kept_ids), spec.layer)
    return HeadGraph(heads.tensors, shape, positions=32)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("form", ["published", "deduplicated", "prefixed", "vllm"])
def test_medusa(form: str, depth: int, own: bool, header: Header) -> None:
    tensors = published.medusa(SIZE, N_VOCAB, depth=depth, own=own)
    config = {"medusa_num_layers": depth}
    given = tensors
    if form == "deduplicated":  # safetensors store a shared module once
        given = {name: values for name, values in tensors.items() if not re.match(r"\d+\.[1-9]+\.linear", name)}
    elif form == "prefixed":
        given, config = {f"medusa_head.{name}": values for name, values in tensors.items()}, {}
    elif form == "vllm":
        given = {re.sub(r"^(\d+)\.(\d)\.linear", r"blocks.\1.layers.\2", name): each for name, each in tensors.items()}
        given = {re.sub(r"^(\d+)\.\d\.weight", r"lm_heads.\1.weight", name): each for name, each in given.items()}
    heads = runnable(converted(given, header, config=config, selection=Selection(290)), header)
    assert heads.spec.depth == depth and len(heads.kept_ids) == 290
    state = published.random(SIZE, seed=9)
    rows = graph_of(heads).medusa(state)
    for head in range(3):
        x = state
        for _ in range(depth):
            x = x + silu(tensors[f"{head}.0.linear.weight"] @ x + tensors[f"{head}.0.linear.bias"])
        if own:
            matrix = tensors[f"{head}.{depth}.weight"][heads.kept_ids]
        else:
            matrix = TargetWeights(header).output_rows(heads.kept_ids.tolist())
        assert np.allclose(rows[head], matrix @ x, atol=1e-4)


@pytest.mark.parametrize(("depth", "deduplicated"), [(1, False), (3, False), (3, True)])
def test_hydra(depth: int, deduplicated: bool, header: Header) -> None:
    tensors = published.hydra(SIZE, N_VOCAB, depth=depth)
    given = {name: each for name, each in tensors.items() if not (deduplicated and ".5.linear" in name)}
    heads = runnable(converted(given, header, config={"hydra_num_layers": depth}), header)
    assert heads.spec.kind == "hydra" and heads.spec.depth == depth
    graph = graph_of(heads)
    for head in range(3):
        x = published.random((head + 2) * SIZE, seed=7)
        name = f"hydra_mlp.{head}"

        def times(part: str, x: Any, name: str = name) -> Any:
            return tensors[f"{name}.{part}.weight"] @ x + tensors[f"{name}.{part}.bias"]

        y = times("1.res_connection", x) + silu(times("1.linear", x))
        for block in range(1, depth):
            y = y + silu(times(f"{2 * block + 1}.linear", y))
        own = f"hydra_lm_head.{head}.1"
        expected = (tensors[f"{own}.weight"] @ y + tensors[f"{own}.bias"])[heads.kept_ids]
        assert np.allclose(graph.hydra(head, x[None])[0], expected, atol=1e-4)


def test_the_layer_of_hydra_plus_plus(header: Header) -> None:
    """Rotary positions as PyTorch's Llama has them: number i turns with number i + half."""
    tensors = published.hydra(SIZE, N_VOCAB, plus=True)
    heads = runnable(converted(tensors, header), header)
    states = published.random(6, SIZE, seed=8)
    begin = "prefix_embeding_layer.layers.0."
    w = {name.removeprefix(begin).removesuffix(".weight"): values for name, values in tensors.items()}
    normed = rms_norm(states, w["input_layernorm"], EPSILON)
    dim, half = SIZE // 4, SIZE // 8

    def turned(name: str, count: int) -> Any:
        x = (normed @ w[f"self_attn.{name}_proj"].T).reshape(6, count, dim)
        angles = np.arange(6)[:, None, None] * THETA ** (-np.arange(half) / half)
        left, right = x[..., :half], x[..., half:]
        return np.concatenate(
            [left * np.cos(angles) - right * np.sin(angles), right * np.cos(angles) + left * np.sin(angles)], -1
        )

    query, key = turned("q", 4), turned("k", 2)
    value = (normed @ w["self_attn.v_proj"].T).reshape(6, 2, dim)
    mixed = np.empty((6, 4, dim))
    for head in range(4):
        scores = query[:, head] @ key[:, head // 2].T / np.sqrt(dim)
        scores[np.triu_indices(6, 1)] = -np.inf
        weights = np.exp(scores)
        mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ value[:, head // 2]
    x = states + mixed.reshape(6, SIZE) @ w["self_attn.o_proj"].T
    inner = rms_norm(x, w["post_attention_layernorm"], EPSILON)
    x = x + (silu(inner @ w["mlp.gate_proj"].T) * (inner @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T
    expected = rms_norm(x, tensors["prefix_embeding_layer.norm.weight"], EPSILON)
    assert np.allclose(graph_of(heads).prefix(states, 0), expected, atol=2e-3)


@pytest.mark.parametrize("begin", ["midlayer.", "layers.0."])
@pytest.mark.parametrize("form", ["differences", "ids", "differences without mask", "ids without mask"])
def test_eagle3(begin: str, form: str, header: Header) -> None:
    tensors = published.eagle3(SIZE, KEPT, N_VOCAB, begin=begin, differences=form.startswith("differences"))
    if form.endswith("without mask"):
        del tensors["t2d"]
    config = {"eagle_aux_hidden_state_layer_ids": [0, 1, 1]}
    heads = converted(tensors, header, config=config)
    assert heads.kept.tolist() == KEPT.tolist() and heads.spec.states == (0, 1, 1)
    assembled = runnable(heads, header)
    output = np.frombuffer(assembled.tensors["output.weight"].data, np.float32).reshape(-1, SIZE)
    assert np.array_equal(output, tensors["lm_head.weight"])
    for here, there in (
        ("attn_norm", "input_layernorm"),
        ("attn_norm_2", "hidden_norm"),
        ("ffn_down", "mlp.down_proj"),
    ):
        assert np.array_equal(heads.tensors[f"blk.0.{here}.weight"], tensors[f"{begin}{there}.weight"])
    key = tensors[f"{begin}self_attn.k_proj.weight"].reshape(2, 2, SIZE // 8, -1)
    turned = heads.tensors["blk.0.attn_k.weight"].reshape(2, SIZE // 8, 2, -1)
    assert np.array_equal(turned[:, :, 0], key[:, 0]) and np.array_equal(turned[:, :, 1], key[:, 1])


@pytest.mark.parametrize("scaled", [False, True])
def test_converted_eagle3_drafts_in_llama_cpp(scaled: bool, header: Header, tmp_path: Path) -> None:
    config: dict[str, Any] = {"eagle_aux_hidden_state_layer_ids": [0, 1, 1], "rms_norm_eps": 1e-5}
    if scaled:
        config["rope_scaling"] = {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
        }  # fmt: skip
    tensors = published.eagle3(SIZE, KEPT, N_VOCAB)
    heads = converted(tensors, header, config=config)
    assert ("rope_freqs.weight" in heads.tensors) == scaled
    if scaled:
        factors = heads.tensors["rope_freqs.weight"]
        assert factors[0] == 1.0 and np.all(np.diff(factors) >= 0) and 1.0 < factors[-1] <= 8.0
    path = runnable(heads, header).path
    with edgespec.load(header.part.path, drafter=str(path), n_ctx=256, threads=1, cache_dir=tmp_path) as engine:
        (only,) = engine.drafters
        assert isinstance(only.drafter, HeadDrafter)
        assert engine.generate("some words", raw=True, max_tokens=12).emitted


def test_tokens_are_chosen_among_those_that_the_heads_have(header: Header) -> None:
    order = np.arange(N_VOCAB, dtype=np.int32)[::-1]
    tensors = published.eagle3(SIZE, KEPT, N_VOCAB)
    config = {"eagle_aux_hidden_state_layer_ids": [0, 1, 1]}
    heads = converted(tensors, header, config=config, selection=Selection(20, KeepList("", order, {})))
    assert len(heads.kept) == 20 and set(heads.kept) <= set(KEPT) and set(KEPT[-10:]) <= set(heads.kept)
    rows = np.searchsorted(KEPT, heads.kept)
    assert np.array_equal(heads.tensors["lm_head.weight"], tensors["lm_head.weight"][rows])


@pytest.mark.parametrize(
    ("config", "change", "reason"),
    [
        ({"norm_before_residual": True}, {}, "norm_before_residual is set"),
        ({"rope_scaling": {"rope_type": "yarn"}}, {}, "rope_scaling is 'yarn'"),
        ({"eagle_aux_hidden_state_layer_ids": [1, 2, 3]}, {}, "joins the layers [1, 2, 3] of 2"),
        ({"num_attention_heads": 5}, {}, "rows of queries and keys for 5 and 2 heads"),
        ({"rope_theta": -1.0}, {}, "rope_theta is -1.0"),
        (
            {},
            {"midlayer.self_attn.q_norm.weight": np.ones(8, np.float32)},
            "it has the tensor midlayer.self_attn.q_norm",
        ),
        ({}, {"embed_tokens.weight": published.random(N_VOCAB, SIZE, seed=77)}, "its embeddings are not the target's"),
        ({}, {"d2t": np.full(100, 400)}, "are no distinct tokens of m.gguf, which has 320"),
        ({}, {"d2t": np.arange(7)}, "d2t lists 7 tokens, and its LM head has 100 rows"),
        (
            {},
            {"fc.weight": np.ones((64, 192), np.float32)},
            "fc.weight has the shape (64, 192), and m.gguf takes (32, 96)",
        ),
        ({}, {"norm.weight": None}, "it has no tensor norm.weight"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    config: dict[str, Any], change: dict[str, Any], reason: str, header: Header
) -> None:
    tensors = {**published.eagle3(SIZE, KEPT, N_VOCAB), **change}
    tensors = {name: values for name, values in tensors.items() if values is not None}
    with pytest.raises(UnsupportedModel, match=re.escape(reason)) as error:
        converted(tensors, header, config={"eagle_aux_hidden_state_layer_ids": [0, 1, 1], **config})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dropout", [False, True])
def test_embeddings_that_hydra_is_saved_with(dropout: bool, header: Header) -> None:
    """The module of the target's embeddings is one of Hydra's own, so that PyTorch saves it too."""
    tensors = published.hydra(SIZE, N_VOCAB)
    if not dropout:  # the heads without a prefix layer have none, so that blocks and LM heads have other numbers
        tensors = {re.sub(r"^(hydra_mlp\.\d+)\.1", r"\1.0", name): each for name, each in tensors.items()}
        tensors = {re.sub(r"^(hydra_lm_head\.\d+)\.1", r"\1", name): each for name, each in tensors.items()}
    plain = converted(tensors, header)
    rows = TargetWeights(header).embeddings(range(N_VOCAB))
    heads = converted({**tensors, "input_embed_fn.weight": rows}, header)
    assert set(heads.tensors) == set(plain.tensors) and "heads.2.output.bias" in heads.tensors
    foreign = published.random(N_VOCAB, SIZE, seed=77)
    with pytest.raises(UnsupportedModel, match="its embeddings are not the target's"):
        converted({**tensors, "input_embed_fn.weight": foreign}, header)


def test_layers_that_are_counted_by_their_outputs(header: Header) -> None:
    """SGLang's drafts list layers whose outputs are joined where the first is 1: the inputs of the next ones."""
    tensors, key = published.eagle3(SIZE, KEPT, N_VOCAB), "eagle_aux_hidden_state_layer_ids"
    assert converted(tensors, header, config={key: [1, 0, 1]}).spec.states == (1, 0, 1)
    assert converted(tensors, header, config={"eagle_config": {key: [0, 0, 1]}}).spec.states == (0, 0, 1)
    for nested, read in (([1, 0, 0], [2, 1, 1]), ([1, "2", 0], [2, 1])):
        with pytest.raises(UnsupportedModel, match=re.escape(f"it joins the layers {read} of 2")):
            converted(tensors, header, config={"eagle_config": {key: nested}})


def test_the_target_s_own_embeddings_need_not_be_kept(header: Header) -> None:
    rows = TargetWeights(header).embeddings(range(N_VOCAB))
    tensors = {**published.eagle3(SIZE, KEPT, N_VOCAB), "embed_tokens.weight": rows.astype(np.float16)}
    heads = converted(tensors, header, config={"eagle_aux_hidden_state_layer_ids": [0, 1, 1]})
    assert not any("embed" in name for name in heads.tensors)


def test_what_is_no_head(header: Header) -> None:
    with pytest.raises(UnsupportedModel, match="no heads of Medusa, Hydra or EAGLE-3"):
        converted({"a": np.ones(3, np.float32)}, header)
    with pytest.raises(InvalidRequest, match="kind 'other': choose medusa, hydra, eagle3"):
        converted({"a": np.ones(3, np.float32)}, header, kind="other")
    for kind in ("medusa", "hydra", "eagle3"):
        with pytest.raises(EdgespecError):
            converted({"a": np.ones(3, np.float32)}, header, kind=kind)
    grounded = published.hydra(SIZE, N_VOCAB)
    ungrounded = {name: values for name, values in grounded.items() if "res_connection" not in name}
    with pytest.raises(UnsupportedModel, match="no res_connection"):
        converted(ungrounded, header)
