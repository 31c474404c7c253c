"""Trains heads on recorded answers of their target, which stays as it is. Needs the extra `train`.

The heads step along the true tokens from every base of an answer; a sequential kind goes on from its own outputs, as it
will while drafting (training-time test, EAGLE-3, arXiv 2503.01840, section 3). After each epoch, held-out answers are
replayed; the weights with the longest mean acceptance length are the result. All that is random follows from the
seed, the epoch and the batch, so a run that goes on from a checkpoint ends as an uninterrupted one does.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgespec.errors import InvalidRequest, OutputError
from edgespec.heads.examples import Batch, Example, epoch_batches, limited, padded
from edgespec.heads.modules import Eagle3, HeadsModule, taken
from edgespec.heads.replay import replay
from edgespec.heads.shared import Shared
from edgespec.system.files import replacing

CHECKPOINT_FORMAT = 2
"""Version of the checkpoint files."""

_POSITION_WEIGHT = 0.8
"""Weight of a drafted position's loss relative to the one before it, as in Medusa and EAGLE."""

_WARM_UP = 0.05
"""Share of the steps in which the learning rate rises; then it falls as a cosine."""

_OTHER_TOKENS = 1024
"""Tokens that stand for all that are not among the likeliest of a batch."""

_LARGEST_GRADIENT = 1.0
"""Longer gradients are scaled down to this norm."""

_REPLAYED_TOKENS = 20_000
"""Held-out answer tokens that are replayed after each epoch."""

_CHECKPOINT_SECONDS = 60.0
"""Seconds between checkpoints; more where writing one takes more than a fiftieth of that."""


@dataclass(frozen=True, slots=True)
class Training:
    """How to train heads. `batch`: answer tokens of a step; `patience`: epochs without a better replay; then stop."""

    epochs: int
    learning_rate: float
    batch: int = 512
    weight_decay: float = 0.01
    patience: int = 2
    seed: int = 0


_EPOCHS = {"medusa": 10, "hydra": 10, "hydra++": 8, "eagle3": 8}
"""Epochs by kind; training stops before where held-out answers show no progress."""

_LEARNING_RATES = {"medusa": 3e-3, "hydra": 3e-3, "hydra++": 2e-3, "eagle3": 1e-2}
"""By kind; EAGLE-3's is of another optimizer. docs/decisions/0036-training-heads.md has what was compared."""


def usual_training(kind: str, *, more: bool, epochs: int | None = None, learning_rate: float | None = None) -> Training:
    """The settings for a kind of `start.KINDS`; `more`: for heads that are trained already, a third of the rate."""
    usual = _LEARNING_RATES[kind] / 3 if more else _LEARNING_RATES[kind]
    return Training(epochs or _EPOCHS[kind], learning_rate or usual)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch gave: the mean loss in training, and the replay of held-out answers after it."""

    loss: float
    mean_length: float
    rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a training is: steps done of all, answer tokens trained on, and what each epoch gave."""

    step: int
    steps: int
    tokens: int
    epochs: tuple[Epoch, ...]


Progress = Callable[[Moment], None]


@dataclass(slots=True)
class _State:
    """What a checkpoint holds besides weights and optimizer: the next batch, and what was reached so far."""

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    tokens: int = 0
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_length: float = 0.0


class Trainer:
    """Trains `module` in place, with what it shares with its target.

    `identity` names what is trained on which data with which settings: a checkpoint of another one is refused.
    """

    def __init__(
        self, module: HeadsModule, shared: Shared, settings: Training, *, identity: str, checkpoint: Path | None = None
    ) -> None:
        self._module, self._shared, self._settings = module.to(shared.device), shared, settings
        self._identity = f"{identity} {sorted(asdict(settings).items())}"
        self._checkpoint = checkpoint
        self._optimizers = _optimizers(module, settings)
        self._state = _State()
        self._saved, self._interval = time.monotonic(), _CHECKPOINT_SECONDS
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def run(
        self, examples: Sequence[Example], held_out: Sequence[Example], progress: Progress = lambda _: None
    ) -> list[Epoch]:
        """Train, and leave the best weights in the module. Returns what each epoch gave."""
        state, settings = self._state, self._settings
        checked = limited(held_out, _REPLAYED_TOKENS)
        while state.epoch < settings.epochs and not self._waited_enough():
            batches = epoch_batches(examples, settings.batch, (settings.seed, state.epoch))
            while state.batch < len(batches):
                chosen = batches[state.batch]
                state.loss += self._step(
                    padded(chosen, self._shared.head.n_kept, self._shared.device), state.batch / len(batches)
                )
                state.tokens += sum(len(example.answer) for example in chosen)
                state.batch += 1
                done = state.epoch * len(batches) + state.batch
                progress(Moment(done, settings.epochs * len(batches), state.tokens, tuple(state.history)))
                if time.monotonic() - self._saved > self._interval:
                    self._save()
            self._end_epoch(state.loss / len(batches), checked)
        self._module.load_state_dict(state.best or self._module.state_dict())
        return state.history

    def _waited_enough(self) -> bool:
        lengths = [epoch.mean_length for epoch in self._state.history]
        return bool(lengths) and len(lengths) - 1 - lengths.index(max(lengths)) >= self._settings.patience

    def _step(self, batch: Batch, within_epoch: float) -> float:
        settings, state = self._settings, self._state
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule((state.epoch + within_epoch) / settings.epochs)
        random = np.random.default_rng((settings.seed, state.epoch, state.batch))
        n_kept = self._shared.head.n_kept
        others = torch.from_numpy(random.choice(n_kept, min(_OTHER_TOKENS, n_kept), replace=False)).to(
            batch.tokens.device
        )
        loss = chain_loss(self._module, self._shared, batch, others)
        self._module.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._module.parameters(), _LARGEST_GRADIENT)
        for optimizer in self._optimizers:
            optimizer.step()
        return float(loss.detach())

    def _end_epoch(self, loss: float, held_out: Sequence[Example]) -> None:
        state = self._state
        result = replay(self._module, self._shared, held_out)
        state.history.append(Epoch(loss, result.mean_length, result.rates))
        if result.mean_length > state.best_length:
            state.best_length = result.mean_length
            state.best = {name: tensor.detach().clone() for name, tensor in self._module.state_dict().items()}
        state.epoch, state.batch, state.loss = state.epoch + 1, 0, 0.0
        self._save()

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        begun = time.monotonic()
        state = self._state
        value = {
            "format": CHECKPOINT_FORMAT,
            "identity": self._identity,
            "module": self._module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "best": state.best,
            "history": [asdict(epoch) for epoch in state.history],
            **{name: getattr(state, name) for name in ("epoch", "batch", "loss", "tokens", "best_length")},
        }
        try:
            with replacing(self._checkpoint) as temporary:
                torch.save(value, temporary)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError where the disk is full
            raise OutputError(f"{self._checkpoint}: the checkpoint cannot be written: {error}") from error
        self._saved = time.monotonic()
        self._interval = max(_CHECKPOINT_SECONDS, 50 * (self._saved - begun))

    def _resume(self, path: Path) -> None:
        remedy = "remove it to begin anew"
        try:
            value = torch.load(path, map_location=self._shared.device, weights_only=True)
            identity = value["identity"] if value["format"] == CHECKPOINT_FORMAT else None
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise InvalidRequest(f"{path}: no checkpoint of edgespec heads train; {remedy}") from error
        if identity != self._identity:
            raise InvalidRequest(f"{path}: a checkpoint of a training with other settings or data; {remedy}")
        self._module.load_state_dict(value["module"])
        for optimizer, saved in zip(self._optimizers, value["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        history = [Epoch(one["loss"], one["mean_length"], tuple(one["rates"])) for one in value["history"]]
        self._state = _State(
            value["epoch"], value["batch"], value["loss"], value["tokens"], history, value["best"], value["best_length"]
        )


def _optimizers(module: HeadsModule, settings: Training) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of EAGLE-3, with steps of AdamW's size, and AdamW for all else.

    Medusa's and Hydra's residual blocks begin at zero and stay small: whole-rank steps are worse for them.
    """
    matrices = [weight for weight in module.parameters() if weight.dim() == 2 and isinstance(module, Eagle3)]
    others = [weight for weight in module.parameters() if all(weight is not matrix for matrix in matrices)]
    rate, decay = settings.learning_rate, settings.weight_decay
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return [*optimizers, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=decay)]


def chain_loss(module: HeadsModule, shared: Shared, batch: Batch, others: Tensor | None = None) -> Tensor:
    """The loss of a batch: of each drafted position the mean over all bases, weighted by position.

    `others`: see `OutputRows.loss`. The layers compute in the type that is fast, as the LM head does.
    """
    half = shared.head.rows.dtype == torch.bfloat16
    at, valid = batch.bases()
    longest = batch.tokens.shape[1]
    rows_before = torch.arange(len(batch.tokens), device=at.device)[:, None] * longest
    states, rows, weights = [], [], []
    with torch.autocast(at.device.type, torch.bfloat16, enabled=half):
        embedded = shared.embed(batch.tokens)
        chains = module.start(module.read(batch.states, embedded), at, batch.first)
        for step in range(module.shape.count):
            following = at + 1 + step
            known = valid & (following < batch.lengths[:, None])
            following = following.clamp(max=longest - 1)
            x, chains = module.step(chains, taken(embedded, following))
            states.append(x[known].float())
            rows.append((rows_before + following)[known])
            weights.append(
                torch.full_like(rows[-1], 1, dtype=torch.float32) * _POSITION_WEIGHT**step / max(1, len(rows[-1]))
            )
    losses = shared.head.loss(torch.cat(states), batch.teacher.at(torch.cat(rows)), others)
    return (losses * torch.cat(weights)).sum()


def _schedule(share: float) -> float:
    """The learning rate after this share of the training, as a share of the highest."""
    return min(1.0, share / _WARM_UP + 1e-3) * 0.5 * (1 + math.cos(math.pi * share))
