"""Converts published heads to a learned part: Medusa, Hydra, and EAGLE-3 as SafeAILab or vLLM have it.

The names are those of the published state dictionaries. Heads with LM heads of their own keep the rows of the kept
tokens. Whatever would compute something else here than there is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from edgespec.backend.head_graph import MAX_HEADS, PrefixShape
from edgespec.errors import InvalidRequest, OutputError, UnsupportedModel
from edgespec.gguf.validate import Header
from edgespec.heads.checkpoint import Checkpoint
from edgespec.heads.format import KINDS, OWN_OUTPUT, Belongs, HeadsSpec, write_heads
from edgespec.heads.target import TargetWeights
from edgespec.system.files import replacing, sha256_of
from edgespec.vocabtrim.keep_list import KeepList
from edgespec.vocabtrim.pipeline import forced_tokens
from edgespec.vocabtrim.selection import TokenIds, ranked_by_list, select_ids

DEFAULT_SIZE = 16384
"""Tokens that heads over the whole vocabulary keep."""

_COUNT = 4  # tokens that an EAGLE-3 head drafts in a row
_SAMPLE = 64  # rows of embeddings that are compared
_SAME = 0.9  # correlation of embeddings that differ by quantization alone; of unlike ones it is near 0

_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "hidden_norm": "attn_norm_2",
}  # fmt: skip
"""Modules of a decoder layer in PyTorch, and their names in GGUF."""

_Read = Callable[[], npt.NDArray[np.float32]]


class Converted(NamedTuple):
    """Heads from a checkpoint: what they are, their tensors by name, read when they are used, and their kept ids."""

    spec: HeadsSpec
    tensors: Mapping[str, npt.NDArray[np.float32]]
    kept: npt.NDArray[np.int64]

    def write(self, out: Path, stored_as: str) -> None:
        """Write the learned part, whole or not at all. Raises OutputError."""
        try:
            with replacing(out) as temporary, temporary.open("xb") as file:
                write_heads(file, self.spec, self.tensors, self.kept, stored_as)
        except OSError as error:
            raise OutputError(f"{out}: cannot be written: {error.strerror}") from error


class Selection(NamedTuple):
    """Which tokens heads keep: `size` of them, in the order of `keep_list`, else by id."""

    size: int | None = None
    keep_list: KeepList | None = None

    def ids(self, header: Header, own: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The ids to keep, ascending, of those that the heads have: control and end tokens first."""
        ranking: TokenIds = np.arange(header.n_vocab, dtype=np.int32)  # frequent tokens have low ids
        if self.keep_list is not None:
            ranking = ranked_by_list(header.n_vocab, self.keep_list.ids)
        forced = np.intersect1d(forced_tokens(header.part), own)
        size = min(self.size or (len(own) if len(own) < header.n_vocab else DEFAULT_SIZE), len(own))
        return select_ids(ranking[np.isin(ranking, own)], forced, size).astype(np.int64)


def convert(
    checkpoint: Checkpoint, header: Header, *, kind: str | None = None, selection: Selection | None = None
) -> Converted:
    """The heads of a checkpoint for the target with this header. `kind`: of `KINDS`; found out where it is None.

    Raises UnsupportedModel for heads that are none, that belong to a target of another shape, or that compute what the
    heads here do not; InvalidRequest for another kind.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidRequest(f"kind {kind!r}: choose {', '.join(KINDS)}")
    converter = _Conversion(checkpoint, header, selection or Selection())
    return {"medusa": converter.medusa, "hydra": converter.hydra, "eagle3": converter.eagle3}[
        kind or _kind_of(checkpoint)
    ]()


def _kind_of(checkpoint: Checkpoint) -> str:
    names = list(checkpoint)
    for kind, pattern in (
        ("eagle3", r"fc\.weight|(.*\.)?fc\.weight"), ("hydra", r"(.*\.)?hydra_mlp\..*"),
        ("medusa", r"(medusa_head\.)?\d+\.\d+\.linear\.weight|blocks\.\d+\.layers\.\d+\.weight"),
    ):  # fmt: skip
        if any(re.fullmatch(pattern, name) for name in names):
            return kind
    raise UnsupportedModel(f"{checkpoint.path}: no heads of Medusa, Hydra or EAGLE-3 by the names of its tensors")


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with what newer programs nest in it."""
    nested = config.get("transformer_layer_config")
    flat = {**config, **nested} if isinstance(nested, dict) else dict(config)
    if isinstance(rope := flat.get("rope_parameters"), dict):
        flat |= {"rope_theta": rope.get("rope_theta"), "rope_scaling": rope}
    return flat


class _Lazy(Mapping[str, npt.NDArray[np.float32]]):
    """Tensors that are read one by one, so that one is in memory at a time."""

    def __init__(self, readers: Mapping[str, _Read]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(self._readers[name](), np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class _Conversion:
    """One checkpoint on its way. Tensors that are not asked for are refused at the end."""

    def __init__(self, checkpoint: Checkpoint, header: Header, selection: Selection) -> None:
        self._checkpoint, self._header, self._selection = checkpoint, header, selection
        self._target = TargetWeights(header)
        self._size = self._target.hidden_size
        prefix = re.compile(r"^(?:medusa_head|hydra_head|model)\.")
        self._names = {prefix.sub("", name): name for name in checkpoint}
        self._used: set[str] = set()
        self._tensors: dict[str, _Read] = {}
        self._config = _flat(checkpoint.config)

    def medusa(self) -> Converted:
        """Blocks `0.0.linear`, then an LM head `0.1` for each head (not in the first version); vLLM's names too."""
        self._rename(r"blocks\.(\d+)\.layers\.(\d+)\.(weight|bias)", r"\1.\2.linear.\3")
        depth = self._depth(r"(\d+)\.(\d+)\.linear\.weight", "medusa_num_layers")
        own = self._renamed_outputs(rf"(\d+)\.{depth}\.(weight|bias)") or self._renamed_outputs(
            r"lm_heads\.(\d+)\.(weight|bias)"
        )
        count = self._count(r"(\d+)\.\d+\.linear\.weight")
        for head in range(count):
            for block in range(depth):
                self._block(f"heads.{head}.{block}", f"{head}.{self._shared(head, block)}.linear", self._size)
        return self._finished("medusa", count, depth, self._outputs(own, count))

    def hydra(self) -> Converted:
        """Blocks behind dropouts: `hydra_mlp.0.1.linear`, `0.3.linear`, ...; a layer before them in Hydra++."""
        if self._config.get("hidden_state_offset", 0):
            self._refuse("its heads read the state of a layer before the last one")
        self._rename(r"hydra_mlp\.(\d+)\.(\d+)\.linear\.(weight|bias)", r"\1.\2.linear.\3")
        self._rename(r"hydra_mlp\.(\d+)\.(\d+)\.res_connection\.(weight|bias)", r"\1.\2.skip.\3")
        self._rename_blocks()
        depth = self._depth(r"(\d+)\.(\d+)\.linear\.weight", "hydra_num_layers")
        own = self._renamed_outputs(r"hydra_lm_head\.(\d+)\.(?:\d+\.)?(weight|bias)")
        count = self._count(r"(\d+)\.\d+\.linear\.weight")
        for head in range(count):
            inputs = (head + 2) * self._size
            self._block(f"heads.{head}.0", f"{head}.0.linear", inputs)
            if f"{head}.0.skip.weight" in self._names:
                self._block(f"heads.{head}.0.skip", f"{head}.0.skip", inputs)
            else:
                self._refuse(f"head {head} has no res_connection")
            for block in range(1, depth):
                self._block(f"heads.{head}.{block}", f"{head}.{self._shared(head, block, 1)}.linear", self._size)
        self._same_embeddings("input_embed_fn.weight")
        layer = None
        if any(name.startswith("prefix_embeding_layer.") for name in self._names):
            self._drop("prefix_embeding_layer.embed_tokens.weight")
            layer = self._layer("prefix_embeding_layer.layers.0.", "prefix.", self._size, eagle=False)
            self._vector("prefix.output_norm.weight", "prefix_embeding_layer.norm.weight")
        return self._finished("hydra", count, depth, self._outputs(own, count), layer=layer)

    def eagle3(self) -> Converted:
        """`fc`, a layer `midlayer` or `layers.0`, `norm`, `lm_head`, and `d2t`, differences to the row or ids."""
        for key in ("norm_before_residual", "norm_before_fc"):
            if self._config.get(key):
                self._refuse(f"{key} is set")
        n_vocab = self._header.n_vocab
        own = self._draft_ids(n_vocab)
        self._matrix("fc.weight", "fc.weight", (self._size, 3 * self._size))
        begin = "midlayer." if any(name.startswith("midlayer.") for name in self._names) else "layers.0."
        layer = self._layer(begin, "blk.0.", 2 * self._size, eagle=True)
        self._rope_factors(layer.head_dim, layer.rope_theta)
        self._vector("output_norm.weight", "norm.weight")
        self._same_embeddings("embed_tokens.weight")
        kept = self._selection.ids(self._header, own)
        rows = np.searchsorted(np.sort(own), kept)
        self._rows(OWN_OUTPUT, "lm_head.weight", np.argsort(own)[rows], len(own))
        return self._finished("eagle3", _COUNT, 1, kept, layer=layer, states=self._aux_layers())

    def _refuse(self, reason: str) -> NoReturn:
        raise UnsupportedModel(f"{self._checkpoint.path}: {reason}, and heads here do not work so")

    def _rename(self, pattern: str, to: str) -> None:
        self._names = {
            re.sub(pattern, to, name) if re.fullmatch(pattern, name) else name: own for name, own in self._names.items()
        }

    def _rename_blocks(self) -> None:
        """Number the blocks of a head from 0: dropouts between them have numbers too."""
        places: dict[str, set[int]] = {}
        for name in self._names:
            if match := re.fullmatch(r"(\d+)\.(\d+)\.linear\.weight", name):
                places.setdefault(match[1], set()).add(int(match[2]))
        for head, found in places.items():
            for number, place in enumerate(sorted(found)):
                self._rename(rf"{head}\.{place}\.(linear|skip)\.(weight|bias)", rf"{head}.{number}.\1.\2")

    def _depth(self, pattern: str, key: str) -> int:
        """Blocks of a head: as many as are there, or as the configuration says of blocks that share one module.

        The authors' code repeats one block instead of making several, and safetensors store it once.
        """
        found = max((int(match[2]) + 1 for name in self._names if (match := re.fullmatch(pattern, name))), default=0)
        said = self._config.get(key)
        if not found:
            self._refuse("it has no blocks")
        return said if type(said) is int and found < said <= MAX_HEADS else found

    def _shared(self, head: int, block: int, first: int = 0) -> int:
        """The number under which a block is stored: that of the one before where it shares its module."""
        while block > first and f"{head}.{block}.linear.weight" not in self._names:
            block -= 1
        return block

    def _count(self, pattern: str) -> int:
        heads = {int(match[1]) for name in self._names if (match := re.fullmatch(pattern, name))}
        if heads != set(range(len(heads))) or not 0 < len(heads) <= MAX_HEADS:
            self._refuse(f"it has the heads {sorted(heads)}")
        return len(heads)

    def _renamed_outputs(self, pattern: str) -> bool:
        before = set(self._names)
        self._rename(pattern, r"output.\1.\2")
        return before != set(self._names)

    def _outputs(self, own: bool, count: int) -> npt.NDArray[np.int64]:
        """The kept ids; the heads' own LM heads are cut to them."""
        kept = self._selection.ids(self._header, np.arange(self._header.n_vocab))
        for head in range(count if own else 0):
            rows = self._header.n_vocab
            self._rows(f"heads.{head}.output.weight", f"output.{head}.weight", kept, rows)
            if f"output.{head}.bias" in self._names:
                self._rows(f"heads.{head}.output.bias", f"output.{head}.bias", kept, rows, vector=True)
        return kept

    def _block(self, name: str, there: str, inputs: int) -> None:
        self._matrix(f"{name}.weight", f"{there}.weight", (self._size, inputs))
        self._vector(f"{name}.bias", f"{there}.bias")

    def _layer(self, begin: str, name: str, inputs: int, *, eagle: bool) -> PrefixShape:
        """A Llama decoder layer; rows of queries and keys are brought to the order of neighbours."""
        target, config = self._target, self._config if eagle else {}

        def number(key: str, of_target: str, default: float) -> float:
            value = config.get(key)
            return value if type(value) in (int, float) else target.number(of_target, default)  # type: ignore[return-value]

        heads = int(number("num_attention_heads", "attention.head_count", 1))
        heads_kv = int(number("num_key_value_heads", "attention.head_count_kv", heads))
        query, key = (self._shape(f"{begin}self_attn.{which}_proj.weight")[0] for which in "qk")
        inner = self._shape(f"{begin}mlp.gate_proj.weight")[0]
        dim = query // heads if heads > 0 else 0
        if dim < 2 or dim % 2 or query != heads * dim or heads_kv < 1 or key != heads_kv * dim or heads % heads_kv:
            self._refuse(f"its layer has {query} and {key} rows of queries and keys for {heads} and {heads_kv} heads")
        shapes = {
            "attn_q": (query, inputs), "attn_k": (key, inputs), "attn_v": (key, inputs),
            "attn_output": (self._size, query), "ffn_gate": (inner, self._size), "ffn_up": (inner, self._size),
            "ffn_down": (self._size, inner),
        }  # fmt: skip
        for there, here in _LAYER_NAMES.items():
            if here in shapes:
                turned = {"attn_q": heads, "attn_k": heads_kv}.get(here)
                self._matrix(f"{name}{here}.weight", f"{begin}{there}.weight", shapes[here], turned)
            elif eagle or here != "attn_norm_2":
                self._vector(f"{name}{here}.weight", f"{begin}{there}.weight")
        self._drop(f"{begin}self_attn.rotary_emb.inv_freq")
        theta = number("rope_theta", "rope.freq_base", 10000.0)
        epsilon = number("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-5)
        if not 0 < theta < math.inf or not 0 <= epsilon < 1:
            self._refuse(f"rope_theta is {theta} and rms_norm_eps is {epsilon}")
        return PrefixShape(heads, heads_kv, dim, inner, float(theta), float(epsilon))

    def _rope_factors(self, dim: int, theta: float) -> None:
        """Llama 3.1's scaling of slow rotations: what each frequency is divided by."""
        scaling = self._config.get("rope_scaling") or {}
        if not isinstance(scaling, dict):
            self._refuse("rope_scaling is malformed")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind == "default":
            return
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        numbers: list[Any] = [scaling.get(key) for key in keys]
        if kind != "llama3" or not all(type(value) in (int, float) and 0 < value < 1e9 for value in numbers):
            self._refuse(f"rope_scaling is {str(kind)[:20]!r} with {numbers}")
        factor, low, high, known = numbers
        if low >= high:
            self._refuse(f"rope_scaling goes from {low} to {high}")
        lengths = 2 * math.pi * theta ** (np.arange(0, dim, 2) / dim)
        mix = np.clip((known / lengths - low) / (high - low), 0, 1)
        factors = 1 / ((1 - mix) / factor + mix)
        self._tensors["rope_freqs.weight"] = lambda: factors.astype(np.float32)

    def _draft_ids(self, n_vocab: int) -> npt.NDArray[np.int64]:
        """The target's id of each row of the LM head, in the order of the rows."""
        if "lm_head.weight" not in self._names:
            self._refuse("it has no LM head")
        rows = self._shape("lm_head.weight")[0]
        listed = self._taken("d2t") if "d2t" in self._names else None
        mask = self._taken("t2d").reshape(-1) if "t2d" in self._names else None
        if listed is None:
            ids = np.arange(rows, dtype=np.int64)
        elif listed.dtype.kind not in "iu" or listed.size != rows:
            self._refuse(f"d2t lists {listed.size} tokens, and its LM head has {rows} rows")
        else:
            ids = listed.reshape(-1).astype(np.int64)
            differences = ids + np.arange(rows)
            if mask is None:
                absolute = len(np.unique(ids)) == rows and rows > 1  # differences repeat where ids follow each other
            else:
                absolute = set(ids.tolist()) == set(np.flatnonzero(mask).tolist())
            ids = ids if absolute else differences
        if not rows or ids.min() < 0 or ids.max() >= n_vocab or len(np.unique(ids)) != rows:
            raise UnsupportedModel(
                f"{self._checkpoint.path}: its {rows} draft tokens are no distinct tokens of "
                f"{self._target.path.name}, which has {n_vocab}: name the target that it was trained for"
            )
        return ids

    def _aux_layers(self) -> tuple[int, ...]:
        """The layers whose inputs are joined: as configured, else EAGLE-3's own choice."""
        layers, said = self._target.layers, self._config.get("eagle_aux_hidden_state_layer_ids")
        if said is None and isinstance(inner := self._config.get("eagle_config"), dict):
            said = inner.get("eagle_aux_hidden_state_layer_ids")
            if isinstance(said, list) and said[:1] == [1]:  # SGLang's: layers whose outputs are joined
                said = [layer + 1 for layer in said if type(layer) is int]
        chosen = [2, layers // 2, layers - 3] if said is None else said
        if not isinstance(chosen, list) or len(chosen) != 3 or not all(
            type(layer) is int and 0 <= layer < layers for layer in chosen
        ):  # fmt: skip
            self._refuse(f"it joins the layers {chosen} of {layers}")
        return tuple(chosen)

    def _same_embeddings(self, name: str) -> None:
        """Refuse embeddings other than the target's, which are used."""
        if name not in self._names:
            return
        shape = self._shape(name)
        if len(shape) != 2 or shape[1] != self._size or not shape[0]:
            self._refuse(f"its embeddings have the shape {shape}")
        ids = np.linspace(0, min(shape[0], self._header.n_vocab) - 1, _SAMPLE).astype(int)
        theirs = np.asarray(self._taken(name)[ids], np.float32).ravel()
        ours = self._target.embeddings(ids.tolist()).ravel()
        scale = float(np.linalg.norm(theirs) * np.linalg.norm(ours))
        if not scale or float(theirs @ ours) / scale < _SAME:
            self._refuse("its embeddings are not the target's")

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._names:
            self._refuse(f"it has no tensor {name}")
        shape = tuple(self._checkpoint[self._names[name]].shape)
        return shape or (0,)

    def _taken(self, name: str) -> npt.NDArray[Any]:
        return self._checkpoint[self._names.pop(name)]

    def _drop(self, name: str) -> None:
        self._names.pop(name, None)

    def _checked(self, name: str, shape: Sequence[int]) -> str:
        """The checkpoint's name of a tensor of this shape; it may be asked for again, where blocks share it."""
        if (found := self._shape(name)) != tuple(shape):
            raise UnsupportedModel(
                f"{self._checkpoint.path}: {name} has the shape {found}, and {self._target.path.name} takes "
                f"{tuple(shape)}: name the target that it was trained for"
            )
        self._used.add(name)
        return self._names[name]

    def _matrix(self, name: str, there: str, shape: tuple[int, int], heads: int | None = None) -> None:
        own = self._checked(there, shape)

        def read() -> npt.NDArray[np.float32]:
            matrix: npt.NDArray[np.float32] = self._checkpoint[own].astype(np.float32)
            if heads is not None:
                matrix = matrix.reshape(heads, 2, -1, shape[1]).swapaxes(1, 2).reshape(shape)
            return matrix

        self._tensors[name] = read

    def _vector(self, name: str, there: str) -> None:
        own = self._checked(there, (self._size,))
        self._tensors[name] = lambda: self._checkpoint[own].astype(np.float32)

    def _rows(self, name: str, there: str, rows: npt.NDArray[np.int64], count: int, *, vector: bool = False) -> None:
        own = self._checked(there, (count,) if vector else (count, self._size))
        self._tensors[name] = lambda: self._checkpoint[own][rows].astype(np.float32)

    def _finished(
        self, kind: str, count: int, depth: int, kept: npt.NDArray[np.int64], *,
        layer: PrefixShape | None = None, states: tuple[int, ...] = (),
    ) -> Converted:  # fmt: skip
        if left := sorted(set(self._names) - self._used):
            self._refuse(f"it has the tensor {self._names[left[0]]}")
        sources = {file.name: sha256_of(file) for file in self._checkpoint.files}
        spec = HeadsSpec(
            kind, Belongs.of(self._header), count, depth, states, layer, {"converted_from": sources, "kept": len(kept)}
        )
        return Converted(spec, _Lazy(self._tensors), kept)
