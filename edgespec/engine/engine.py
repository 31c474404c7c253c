"""The composition root: owns a target, its KV cache and its drafters, and builds sessions on them."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from edgespec.backend import EXACT_KV, LlamaContext, LlamaModel, LlamaSampler, Message
from edgespec.backend.load_check import vet
from edgespec.core import Drafter, Policy, TokenSequence, common_prefix
from edgespec.decode.sampling import SamplingParams
from edgespec.decode.session import Overflow, Session
from edgespec.drafters.model import ModelDrafter
from edgespec.engine.chat import Chat
from edgespec.engine.drafter_set import DrafterSet, checked, close_all
from edgespec.engine.profile_store import ProfileStore
from edgespec.errors import InvalidRequest
from edgespec.hub import resolve as catalogue
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.system import cpu as machine

DEFAULT_CONTEXT = 8192
"""Tokens; a model that was trained for fewer gets fewer."""

GREEDY = SamplingParams()

_MARK = "\ue000"
"""A user's message that no template writes by itself."""


def load(
    model: str | Path | None = None,
    *,
    drafter: str | Path | Drafter = "auto",
    n_ctx: int | None = None,
    threads: int | None = None,
    gpu_layers: int = -1,
    kv_type: str = "f16",
    flash_attention: str = "auto",
    exact: bool = False,
    cache_dir: Path | None = None,
) -> Engine:
    """Load a target and be ready to answer.

    `model`: a path to a .gguf or an alias; None is the small default model. `drafter`: `auto`, `none`, `anpd`,
    `suffix`, a drafter model (a .gguf, plain or trimmed, or an alias), several joined by `+`, or a drafter of your own
    (an object that implements `Drafter`). `n_ctx`: tokens of prompt and answer together (default: the smaller of the
    model's own and 8192). `threads`: default, the physical fast cores. `gpu_layers`: default, all of them where there
    is a GPU. `kv_type` (f16, q8_0, ...) and `flash_attention` (auto, on, off) are llama.cpp's. `exact`: draft only as
    many tokens at once as can be checked with the very bits of single-token decoding (`engine.context.max_rows`, found
    out once for a model on a machine), so that text is not only the same but cannot differ, as long as answers are made
    one after the other; keys and values are then kept as f16 and bf16. `cache_dir`: where measured costs are kept
    (default: the user's cache directory).

    Raises ModelError (no such file, malformed, unsupported) and InvalidRequest. A file never seen before is first
    loaded in a child process, which doubles that one start.
    """
    cache = cache_dir or machine.cache_directory()
    drafter = checked(drafter)  # an unknown name is found out before the model is loaded
    threads = machine.default_threads() if threads is None else threads
    if not 1 <= threads <= 1024:
        raise InvalidRequest(f"{threads} threads: it must be from 1 to 1024")
    path = catalogue.resolve(model, cache_dir=cache)
    header = vet(path, cache_dir=cache)
    with contextlib.ExitStack() as undo:  # what is loaded before an error is freed at once, and not some time later
        target = LlamaModel(path, gpu_layers=gpu_layers)
        undo.callback(target.close)
        length = min(target.n_ctx_train, DEFAULT_CONTEXT) if n_ctx is None else n_ctx
        if not 8 <= length <= 1 << 22:
            raise InvalidRequest(f"a context of {length} tokens: it must be from 8 to {1 << 22}")
        if exact and kv_type == "f16":
            kv_type = EXACT_KV
        measured = ProfileStore(
            cache, header.fingerprint,
            threads=threads, gpu_layers=gpu_layers, kv_type=kv_type, flash_attention=flash_attention,
        )  # fmt: skip
        context = LlamaContext(target, n_ctx=length, threads=threads, kv_type=kv_type, flash_attention=flash_attention)
        undo.callback(context.close)
        pairing = DrafterSet(
            target, context, measured,
            exact=exact, n_ctx=length, threads=threads, gpu_layers=gpu_layers, cache_dir=cache,
        )  # fmt: skip
        paired = pairing.pair(drafter)
        undo.callback(close_all, paired.drafters)
        engine = Engine(
            target, context, paired.policy, drafters=paired.drafters, drafter_name=paired.name, measured=measured,
            pairing=pairing, fingerprint=header.fingerprint,
        )  # fmt: skip
        undo.pop_all()
        return engine


class Engine:
    """A loaded target with its KV cache and drafters. Use it as a context manager, or call `close()`.

    Sessions and chats on one engine take turns on its KV cache: each is right whatever the others do, and the one that
    speaks twice in a row finds its tokens still cached.
    """

    def __init__(
        self,
        model: LlamaModel,
        context: LlamaContext,
        policy: Policy,
        *,
        drafters: Sequence[Drafter] = (),
        drafter_name: str,
        measured: ProfileStore | None = None,
        pairing: DrafterSet | None = None,
        fingerprint: str = "",
    ) -> None:
        self.model = model
        self.context = context
        self.policy = policy
        self.drafters = tuple(drafters)
        self.drafter_name = drafter_name
        self._pairing = pairing
        self.measured = measured
        """What is remembered of the model's times; None where nothing is."""
        self.fingerprint = fingerprint
        """Tells the model's file from others; empty where nobody said."""
        self.lock = threading.RLock()
        """Held during each evaluation, and while what follows from the cache or the vocabulary is found out."""
        self._save: Callable[[], object] = lambda: None
        if isinstance(policy, AdaptivePolicy):
            self._recall(policy)

    def _recall(self, policy: AdaptivePolicy) -> None:
        """Go on with what earlier runs learned, and see to it that the next ones can."""
        if self.measured is not None:
            models = {one.name: one.fingerprint for one in self.drafters if isinstance(one, ModelDrafter)}
            for name, fingerprint in models.items():
                self.measured.load_acceptance(policy.acceptance, name, fingerprint)
            self._save = weakref.finalize(self, self.measured.save_all, policy, models)

    def change_drafter(self, drafter: str | Path | Drafter) -> None:
        """Draft with another drafter, as `load` takes it, from the next answer on.

        The target stays, and its KV cache (unless what is exact has yet to be found out). No answer may be in progress.
        Raises UnknownDrafter and ModelError; then the drafter is the one it was.
        """
        with self.lock:
            if self._pairing is None:
                raise InvalidRequest("this engine was put together without load, and cannot find other drafters")
            paired, before, save = self._pairing.pair(drafter, self.drafters), self.drafters, self._save
            save()  # first: a model that stays goes on with what was learned of it
            self.drafters, self.drafter_name, self.policy = paired
            self._recall(paired.policy)
            close_all(one for one in before if all(one is not still for still in paired.drafters))

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: SamplingParams = GREEDY,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
        system: str | None = None,
        raw: bool = False,
        overflow: Overflow = "stop",
        on_prefill: Callable[[int, int], None] | None = None,
        explain: bool = False,
    ) -> Session:
        """An answer to be iterated: `for block in engine.stream("...").stream(): print(block.text)`.

        `prompt`: a user's message, or a conversation of {"role", "content"}; rendered by the model's chat template.
        `raw`: feed the text as it is. `system`: put before. `stop`: strings that end the answer and are not shown.
        `max_tokens`: the most tokens to emit. `overflow`: `stop` ends the answer when the context is full, `shift`
        drops its oldest tokens but the system prompt. `on_prefill(done, total)`: called before every chunk of the
        prompt. `explain`: each block has the reasons for its draft.
        Raises InvalidRequest, ContextOverflow.
        """
        if raw and (not isinstance(prompt, str) or system is not None):
            raise InvalidRequest("a raw prompt is one text, without a system prompt")
        with self.lock:
            tokens = self.tokenize(str(prompt) if raw else self.model.render(conversation(prompt, system)))
            keep = 0
            if overflow == "shift":
                keep = len(self.tokenize("")) if raw else self.system_length(tokens, system)
            return self.session(
                tokens, sampling=sampling, max_tokens=max_tokens, stop=stop, overflow=overflow, keep=keep,
                on_prefill=on_prefill, explain=explain,
            )  # fmt: skip

    def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: SamplingParams = GREEDY,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
        system: str | None = None,
        raw: bool = False,
        overflow: Overflow = "stop",
    ) -> Session:
        """The finished answer: `.text`, `.emitted` (ids), `.finish_reason`, `.tally`. Arguments as for `stream`."""
        session = self.stream(
            prompt, sampling=sampling, max_tokens=max_tokens, stop=stop, system=system, raw=raw, overflow=overflow
        )
        for _ in session.stream():
            pass
        return session

    def chat(self, system: str | None = None) -> Chat:
        """A conversation that keeps its tokens, so that each turn evaluates only what is new."""
        return Chat(self, system)

    def tokenize(self, text: str) -> list[int]:
        """The ids of a whole prompt, begun as the model wants it."""
        return self.model.vocabulary.tokenize_prompt(text)

    def system_length(self, tokens: Sequence[int], system: str | None) -> int:
        """How many leading tokens a shift of the context spares: those of the system prompt."""
        try:
            head = self.model.render(conversation([], system), reply=False)
        except InvalidRequest:
            head = None
        if head is None or (system or "").strip() not in head:  # it wants a user's turn, to write the prompt into
            head = self.model.render(conversation(_MARK, system), reply=False).partition(_MARK)[0]
        return common_prefix(self.tokenize(head), list(tokens))

    def session(
        self,
        tokens: Sequence[int],
        *,
        sampling: SamplingParams = GREEDY,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
        overflow: Overflow = "stop",
        keep: int = 0,
        skipped: int = 0,
        on_prefill: Callable[[int, int], None] | None = None,
        explain: bool = False,
    ) -> Session:
        """An answer to prompt ids. A `TokenSequence` grows with the emitted ones; a list is copied.

        `skipped` tokens were dropped before them. `explain`: each block tells the reasons for its draft.
        """
        tokens = tokens if isinstance(tokens, TokenSequence) else TokenSequence(tokens)
        sampler = LlamaSampler(self.model.vocabulary, sampling, history=tokens, position=len(tokens) + skipped)
        return Session(
            self.context,
            self.model.vocabulary,
            sampler,
            self.policy,
            tokens,
            max_tokens=max_tokens,
            stops=(stop,) if isinstance(stop, str) else tuple(stop),
            overflow=overflow,
            keep=keep,
            on_prefill=on_prefill,
            lock=self.lock,
            explain=explain,
        )

    def close(self) -> None:
        """Remember what was measured, and free the memory, after the evaluation in progress.

        Raises InvalidRequest within that evaluation, in `on_prefill` or a signal handler: it needs the memory.
        """
        if self.lock._is_owned():  # type: ignore[attr-defined] # as threading.Condition asks
            raise InvalidRequest("an answer is being made: end it (session.cancel()), and close the engine then")
        with self.lock:
            self._save()
            close_all(self.drafters)
            self.context.close()
            self.model.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def conversation(prompt: str | Sequence[Message], system: str | None) -> list[Message]:
    """Messages for the chat template."""
    messages: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return messages if system is None else [{"role": "system", "content": system}, *messages]
