"""Training: it learns, it is the same each time, and it goes on from a checkpoint as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edgespec.errors import InvalidRequest, OutputError  # noqa: E402
from edgespec.heads import train as training  # noqa: E402
from edgespec.heads.examples import Example, by_positions, by_size, epoch_batches, held_out, limited, padded  # noqa: E402
from edgespec.heads.modules import new_module  # noqa: E402
from edgespec.heads.replay import Replayed, replay  # noqa: E402
from edgespec.heads.train import Moment, Trainer, Training, chain_loss  # noqa: E402
from tests.heads.recorded import SHAPES, Recorded, recorded  # noqa: E402

SETTINGS = Training(epochs=3, learning_rate=1e-2, batch=64)


def trainer(kind: str, data: Recorded, checkpoint: Path | None = None, settings: Training = SETTINGS) -> Any:
    torch.manual_seed(0)
    module = new_module(SHAPES[kind])
    return module, Trainer(module, data.shared, settings, identity="test", checkpoint=checkpoint)


@pytest.mark.parametrize("kind", SHAPES)
def test_heads_learn_what_follows(kind: str) -> None:
    data = recorded(120, kind, n_kept=50)
    module, run = trainer(kind, data)
    before = replay(module, data.shared, data.examples[100:])
    history = run.run(data.examples[:100], data.examples[100:])
    after = replay(module, data.shared, data.examples[100:])
    assert after.mean_length == max(epoch.mean_length for epoch in history) > before.mean_length + 0.3
    assert history[-1].loss < history[0].loss


class Killed(Exception):
    """What ends a training in the middle."""


@pytest.mark.parametrize("kind", ["medusa", "eagle3"])
@pytest.mark.parametrize("killed_at", [1, 8, 13])
def test_a_killed_training_goes_on_to_the_same_weights(
    kind: str, killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    data = recorded(80, kind)
    module, run = trainer(kind, data)
    history = run.run(data.examples[:70], data.examples[70:])

    def kill(moment: Moment) -> None:
        if moment.step == killed_at:
            raise Killed

    checkpoint = tmp_path / "learned.checkpoint"
    with pytest.raises(Killed):
        trainer(kind, data, checkpoint)[1].run(data.examples[:70], data.examples[70:], kill)
    again, resumed = trainer(kind, data, checkpoint)
    assert resumed.run(data.examples[:70], data.examples[70:]) == history
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "learned.checkpoint"
    data = recorded(30, "medusa")
    trainer("medusa", data, checkpoint)[1].run(data.examples[:20], data.examples[20:])
    with pytest.raises(InvalidRequest, match="other settings or data; remove it"):
        trainer("medusa", data, checkpoint, Training(epochs=4, learning_rate=1e-2, batch=64))
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InvalidRequest, match="no checkpoint of edgespec heads train"):
        trainer("medusa", data, checkpoint)


def test_the_best_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    data = recorded(60, "medusa")
    results = iter([Replayed(20, 10), Replayed(30, 10), Replayed(15, 10)])
    monkeypatch.setattr(training, "replay", lambda *_: next(results))
    module, run = trainer("medusa", data)
    kept: list[Any] = []

    def keep(moment: Moment) -> None:
        if len(moment.epochs) == 2 and not kept:  # the first step after the second epoch
            kept.append({name: weight.clone() for name, weight in run._state.best.items()})

    history = run.run(data.examples[:50], data.examples[50:], keep)
    assert [epoch.mean_length for epoch in history] == [2.0, 3.0, 1.5]
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, kept[0][name]), name


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_full_disk_is_one_line(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", fail)
    data = recorded(30, "medusa")
    checkpoint = tmp_path / "learned.checkpoint"
    with pytest.raises(OutputError, match="the checkpoint cannot be written"):
        trainer("medusa", data, checkpoint)[1].run(data.examples[:20], data.examples[20:])
    assert not list(tmp_path.iterdir())


def test_it_stops_where_nothing_gets_better() -> None:
    data = recorded(20, "medusa")
    _, run = trainer("medusa", data, settings=Training(epochs=30, learning_rate=0.0, batch=64, patience=2))
    assert len(run.run(data.examples[:10], data.examples[10:])) == 3


@pytest.mark.parametrize("kind", SHAPES)
def test_padding_and_neighbours_do_not_show(kind: str) -> None:
    data = recorded(6, kind, seed=1)
    torch.manual_seed(0)
    module = new_module(replace(SHAPES[kind], count=1))
    bases = [len(example.answer) for example in data.examples]
    together = chain_loss(module, data.shared, padded(data.examples, 40))
    alone = [chain_loss(module, data.shared, padded([example], 40)) for example in data.examples]
    expected = sum(loss * count for loss, count in zip(alone, bases, strict=True)) / sum(bases)
    torch.testing.assert_close(together, expected)


def test_batches_have_every_answer_once() -> None:
    examples = recorded(100, "medusa").examples
    batches = epoch_batches(examples, 64, (0, 0))
    assert sorted(example.prompt for batch in batches for example in batch) == list(range(100))
    assert all(sum(len(example.answer) for example in batch[:-1]) < 64 for batch in batches)
    assert epoch_batches(examples, 64, (0, 1)) != batches
    assert [len(part) for part in by_size(examples, 10**6)] == [100]


def test_what_is_replayed_together_fits_into_memory_with_its_prompts() -> None:
    examples: list[Example] = recorded(100, "medusa").examples
    for most in (1, 50, 200, 10**6):
        parts = list(by_positions(examples, most))
        assert [one for part in parts for one in part] == examples
        assert all(len(part) == 1 or len(part) * max(len(one.tokens) for one in part) <= most for part in parts)
    assert len(parts) == 1


def test_a_limit_takes_whole_answers_from_the_start() -> None:
    examples: list[Example] = recorded(50, "medusa").examples
    chosen = limited(examples, 100)
    assert sum(len(example.answer) for example in chosen[:-1]) < 100 <= sum(len(one.answer) for one in chosen)
    assert chosen == examples[: len(chosen)]
    assert limited(examples, None) == examples


def test_a_twentieth_of_the_prompts_is_held_out() -> None:
    assert 400 < sum(map(held_out, range(10_000))) < 600
