"""A GGUF model in memory: its weights, its vocabulary, its chat template."""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgespec.backend import native
from edgespec.backend.embedding import EmbeddingTable
from edgespec.backend.template import ChatTemplate
from edgespec.backend.tokenizing import tokenize
from edgespec.core import arguments
from edgespec.errors import InvalidRequest, MalformedModel, UnsupportedModel
from edgespec.gguf.reader import Part, walk

Message = Mapping[str, str]
"""One turn of a conversation: `role` (system, user, assistant) and `content`."""

NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})

_VALUE_BYTES = 1 << 16
"""The longest metadata text that is read, in bytes."""


_ONE_DIMENSION = (llama_cpp.LLAMA_ROPE_TYPE_NONE, llama_cpp.LLAMA_ROPE_TYPE_NORM, llama_cpp.LLAMA_ROPE_TYPE_NEOX)
"""Kinds of rotary embeddings with one position for each token."""


class LlamaVocabulary:
    """The vocabulary of a model: token ids to bytes, and text to ids."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model  # the vocabulary lives in the model's memory
        self._pointer = llama_cpp.llama_model_get_vocab(model.pointer)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._without_text: npt.NDArray[np.int32] | None = None
        self.size = int(llama_cpp.llama_vocab_n_tokens(self._pointer))
        self._is_empty = llama_cpp.llama_vocab_type(self._pointer) == llama_cpp.LLAMA_VOCAB_TYPE_NONE

    @property
    def pointer(self) -> object:
        """llama.cpp's vocabulary."""
        return self._pointer

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of `text`, with no BOS token in front.

        `special`: control tokens are recognised by their texts. Raises InvalidRequest for invalid text, such as half a
        surrogate pair, and for text of absurd size.
        """
        self._check_texts()
        return tokenize(self._pointer, text, special=special)

    def tokenize_prompt(self, text: str) -> list[int]:
        """The ids of a whole prompt, with the BOS token where the model wants one and the text does not begin with it.

        The text's own one may follow whitespace, as a template may have a line break before it.
        """
        return [*self.opening(text), *self.tokenize(text)]

    def opening(self, text: str) -> list[int]:
        """The BOS token where the model wants one and the prompt `text` does not begin with it, else nothing."""
        bos = self.special_text("bos")
        wanted = self.adds_start and bos and not text.lstrip().startswith(bos)
        return [int(llama_cpp.llama_vocab_bos(self._pointer))] if wanted else []

    def piece(self, token: int) -> bytes:
        """The bytes of a token as they appear in text; empty for control tokens."""
        try:
            return self._pieces[token]
        except (KeyError, TypeError):  # asked for the first time, or no token id at all
            token = self._checked(token)
        piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def special_piece(self, token: int) -> str:
        """The text of a token, a control token's own text included: `<|im_end|>`, say."""
        return self.spelled([token]).decode(errors="replace")

    def is_control(self, token: int) -> bool:
        """Whether this is a control token, which has no text of its own: a turn's begin or end, say."""
        return bool(self._attributes(token) & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL)

    def is_user_defined(self, token: int) -> bool:
        """Whether this is a longer word that was added to the vocabulary, and is recognised in any text."""
        return bool(self._attributes(token) & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED)

    def strips(self, token: int) -> tuple[bool, bool]:
        """Whether this control token takes the whitespace on its left, and on its right, away."""
        attributes = self._attributes(token)
        return bool(attributes & llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP), bool(
            attributes & llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP
        )

    def _attributes(self, token: int) -> int:
        return int(llama_cpp.llama_vocab_get_attr(self._pointer, token))

    def control_text(self, token: int) -> str:
        """The text of a control token, `<|im_start|>` say; empty for other tokens."""
        return self.special_piece(token) if self.is_control(token) else ""

    @property
    def without_text(self) -> npt.NDArray[np.int32]:
        """The ids of tokens that show nothing and end nothing: control tokens, and the unknown one."""
        if self._without_text is None:
            hidden = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
            found = [token for token in range(self.size) if self._attributes(token) & hidden]
            self._without_text = np.array([token for token in found if not self.is_end(token)], np.int32)
        return self._without_text

    def spelled(self, tokens: Iterable[int]) -> bytes:
        """The bytes of tokens, with the texts of control tokens."""
        return b"".join(self._read_piece(token, special=True) for token in tokens)

    def is_end(self, token: int) -> bool:
        """Whether this token ends an answer."""
        try:
            return self._ends[token]
        except (KeyError, TypeError):
            token = self._checked(token)
        is_end = self._ends[token] = bool(llama_cpp.llama_vocab_is_eog(self._pointer, token))
        return is_end

    def special_text(self, kind: str) -> str:
        """The text of the `bos` or `eos` token; empty where the model has none."""
        token = {"bos": llama_cpp.llama_vocab_bos, "eos": llama_cpp.llama_vocab_eos}[kind](self._pointer)
        return self.special_piece(token) if token >= 0 else ""

    @property
    def end(self) -> int:
        """The token that ends a text, which may not be the one that ends an answer; -1 where the model has none."""
        return int(llama_cpp.llama_vocab_eos(self._pointer))

    @property
    def adds_start(self) -> bool:
        """Whether the model wants its BOS token before a text."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self._pointer))

    def _check_texts(self) -> None:
        """Raises UnsupportedModel where tokens have no texts: llama.cpp would end the process."""
        if self._is_empty:
            raise UnsupportedModel(
                f"{self._model.path.name} has tokens without texts (a trimmed drafter, perhaps): name the full model"
            )

    def _checked(self, token: int) -> int:
        return arguments.integer("token", token, 0, self.size - 1)

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        self._check_texts()
        token = self._checked(token)
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)  # not a shared one: another thread may ask meanwhile
            count = llama_cpp.llama_token_to_piece(self._pointer, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count


class LlamaModel:
    """The weights of a GGUF file.

    `gpu_layers`: how many layers go to the GPU (all when negative; none without a GPU build). `inputs`: the
    embedding table of a trimmed model. `repack`: let llama.cpp rearrange weights for speed. `part`: the file, if it was
    walked already. The file is mapped into memory, not read. Raises MalformedModel when llama.cpp
    refuses the file, UnsupportedModel when it cannot generate.
    """

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = -1,
        inputs: EmbeddingTable | None = None,
        repack: bool = True,
        part: Part | None = None,
    ) -> None:
        native.initialise()
        native.forget_errors()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
        params.use_extra_bufts = repack
        pointer = native.load_model(path, params)
        if not pointer:
            raise MalformedModel(f"{path}: llama.cpp cannot load it ({native.last_error() or 'no reason given'})")
        self.path = path
        self.inputs = inputs
        self.repacked = repack
        """Whether llama.cpp may have rearranged weights: it rounds otherwise then."""
        self._part = part
        self._pointer = pointer
        self._release = weakref.finalize(self, llama_cpp.llama_model_free, pointer)
        if not llama_cpp.llama_model_has_decoder(pointer) or llama_cpp.llama_model_has_encoder(pointer):
            self._release()
            raise UnsupportedModel(f"{path}: not a decoder-only model; edgespec generates text with those")
        self._vocabulary = LlamaVocabulary(self)
        self._template: ChatTemplate | None = None

    def close(self) -> None:
        """Free the weights. Contexts on them must be closed before."""
        self._release()

    @property
    def pointer(self) -> Any:
        """llama.cpp's model. Raises InvalidRequest when it is closed."""
        self._check_open()
        return self._pointer

    @property
    def vocabulary(self) -> LlamaVocabulary:
        """Ids and texts. Raises InvalidRequest when the model is closed."""
        self._check_open()
        return self._vocabulary

    def _check_open(self) -> None:
        """Raises InvalidRequest where the model is closed: llama.cpp would read freed memory."""
        if not self._release.alive:
            raise InvalidRequest(f"{self.path.name} is closed: load it again")

    @property
    def part(self) -> Part:
        """The walked file; it is walked once, unless it was given."""
        if self._part is None:
            self._part = walk(self.path)
        return self._part

    @property
    def n_embd(self) -> int:
        """The hidden size."""
        return int(llama_cpp.llama_model_n_embd(self.pointer))

    @property
    def n_ctx_train(self) -> int:
        """The context length the model was trained for, in tokens."""
        return int(llama_cpp.llama_model_n_ctx_train(self.pointer))

    @property
    def max_cuttable(self) -> int:
        """The most tokens of a saved state from which tokens can be removed at the end.

        llama.cpp saves keys and values of a layer with a sliding window only for the last window.
        """
        if not self.can_rewind:
            return 0
        return self.sliding_window or sys.maxsize

    @property
    def sliding_window(self) -> int:
        """The tokens that layers with a sliding window look back at; 0 where there are none."""
        return int(llama_cpp.llama_model_n_swa(self.pointer))

    @property
    def n_ctx_before_scaling(self) -> int | None:
        """The context length before it was stretched by scaled positions; None where the file names none."""
        length = self.metadata(f"{self.metadata('general.architecture')}.rope.scaling.original_context_length")
        return int(length) if length is not None and length.isdigit() else None

    @property
    def size_bytes(self) -> int:
        """The bytes of all tensors."""
        return int(llama_cpp.llama_model_size(self.pointer))

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return int(llama_cpp.llama_model_n_params(self.pointer))

    @property
    def can_rewind(self) -> bool:
        """Whether tokens can be removed from the KV cache; a recurrent state cannot."""
        return not (
            llama_cpp.llama_model_is_recurrent(self.pointer)
            or llama_cpp.llama_model_is_hybrid(self.pointer)
            or llama_cpp.llama_model_is_diffusion(self.pointer)
        )

    @property
    def can_branch(self) -> bool:
        """Whether a forward pass can evaluate a token tree.

        That takes attention to all tokens before: no recurrent state, no sliding window, positions of one dimension.
        """
        return (
            self.can_rewind
            and not self.sliding_window
            and llama_cpp.llama_model_rope_type(self.pointer) in _ONE_DIMENSION
        )

    def metadata(self, key: str) -> str | None:
        """A value of the file's metadata as text; None where it has none."""
        buffer = ctypes.create_string_buffer(_VALUE_BYTES)
        count = llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace") if count >= 0 else None

    @property
    def name(self) -> str:
        """The name in the metadata, else the file's name."""
        return self.metadata("general.name") or self.path.stem

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template in Jinja, or None."""
        template = llama_cpp.llama_model_chat_template(self.pointer, None)
        return template.decode(errors="replace") if template else None

    @functools.cached_property
    def turn_marks(self) -> frozenset[int]:
        """The control tokens, and the user-defined ones, that the chat template writes around a message.

        Some files have `<|im_start|>` as a user-defined token. Other user-defined tokens are longer words (blanks,
        tags), and anybody's text makes them too.
        """
        vocabulary = self.vocabulary
        try:
            ids = vocabulary.tokenize(self.render([{"role": "user", "content": ""}], reply=False))
        except InvalidRequest:  # a template that wants something said
            return frozenset()
        defined = (token for token in ids if vocabulary.is_user_defined(token) and vocabulary.piece(token).strip())
        return frozenset([*filter(vocabulary.is_control, ids), *defined])

    def render(
        self, messages: Sequence[Message], *, reply: bool = True, variables: Mapping[str, Any] = NO_VARIABLES
    ) -> str:
        """The conversation as one text, by the model's own chat template; `reply` opens the assistant's turn.

        `variables` are further ones that the template reads: `{"enable_thinking": False}`. Raises InvalidRequest.
        """
        template = self._compiled_template()
        template.check(variables)
        try:
            return template.render(messages, reply=reply, variables=variables)
        except Exception as error:  # a template is a program of the model's author: it may raise anything
            raise InvalidRequest(f"the chat template of {self.path.name} refuses this conversation: {error}") from error

    @property
    def template_variables(self) -> frozenset[str]:
        """The variables that the chat template reads, besides those that it always gets."""
        return self._compiled_template().variables

    def check_variables(self, variables: Mapping[str, Any]) -> None:
        """Raises InvalidRequest for a variable that the chat template never reads, with the names that it reads."""
        self._compiled_template().check(variables)

    def _compiled_template(self) -> ChatTemplate:
        if self._template is None:
            source = self.chat_template
            if source is None:
                raise UnsupportedModel(f"{self.path.name} has no chat template: give a raw prompt (--raw)")
            bos, eos = self.vocabulary.special_text("bos"), self.vocabulary.special_text("eos")
            try:
                self._template = ChatTemplate(source, bos=bos, eos=eos)
            except Exception as error:  # it may be no Jinja, or of another dialect
                raise UnsupportedModel(
                    f"the chat template of {self.path.name} cannot be used ({error}): give a raw prompt (--raw)"
                ) from error
        return self._template
