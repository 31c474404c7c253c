"""The loss by hand against autograd's, and its laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from edgespec.heads.loss import OutputRows, Teacher  # noqa: E402

KEPT, SIZE, CLASSES = 40, 8, 5


def drawn(seed: int, rows: int, scale: float = 1.0) -> tuple[Any, Any, Any]:
    """States, an LM head, and the target's distributions: some of their likeliest tokens are not kept."""
    random = np.random.default_rng(seed)
    x = torch.tensor(random.standard_normal((rows, SIZE)) * scale, dtype=torch.float32, requires_grad=True)
    weights = torch.tensor(random.standard_normal((KEPT, SIZE)), dtype=torch.float32)
    ids = np.stack([random.choice(KEPT, CLASSES, replace=False) for _ in range(rows)])
    probabilities = random.dirichlet(np.ones(CLASSES + 1), rows)
    lost = random.random((rows, CLASSES)) < 0.2
    ids[lost], probabilities[:, :-1][lost] = KEPT, 0
    numbers = torch.tensor(probabilities, dtype=torch.float32)
    return x, OutputRows(weights, torch.float32), Teacher(torch.tensor(ids), numbers[:, :-1], numbers[:, -1])


def by_autograd(x: Any, head: Any, teacher: Any) -> Any:
    """The same loss as its definition says it."""
    log_q = head.logits(x).log_softmax(-1)
    log_q = torch.cat([log_q, torch.full((len(x), 1), -1e30)], 1)
    likeliest = log_q.gather(1, teacher.ids)
    rest = (1 - likeliest.exp().sum(1)).clamp_min(1e-6).log()
    return -(torch.where(teacher.ids < KEPT, likeliest, 0) * teacher.probabilities).sum(1) - teacher.rest * rest


@given(st.integers(0, 1000), st.integers(1, 7))
@settings(max_examples=30)
def test_the_loss_and_its_gradient_are_autograds(seed: int, rows: int) -> None:
    x, head, teacher = drawn(seed, rows)
    weights = torch.rand(rows)
    (expected,) = torch.autograd.grad((by_autograd(x, head, teacher) * weights).sum(), x)
    loss = head.loss(x, teacher)
    (gradient,) = torch.autograd.grad((loss * weights).sum(), x)
    torch.testing.assert_close(loss.detach(), by_autograd(x, head, teacher).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_all_others_are_no_sample(seed: int) -> None:
    x, head, teacher = drawn(seed, 6)
    whole = head.loss(x, teacher)
    sampled = head.loss(x, teacher, torch.randperm(KEPT))
    torch.testing.assert_close(sampled, whole, rtol=1e-4, atol=1e-5)


def test_a_sample_is_right_on_average() -> None:
    x, head, teacher = drawn(3, 2, scale=0.2)
    teacher = Teacher(teacher.ids[:, :2], teacher.probabilities[:, :2], teacher.rest)
    whole = head.loss(x, teacher)
    generator = torch.Generator().manual_seed(1)
    sampled = torch.stack([head.loss(x, teacher, torch.randperm(KEPT, generator=generator)[:20]) for _ in range(400)])
    torch.testing.assert_close(sampled.mean(0), whole, rtol=0.02, atol=0.01)


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x, head, teacher = drawn(5, 9)
    whole = head.loss(x, teacher)
    monkeypatch.setattr("edgespec.heads.loss._ROWS", 4)
    torch.testing.assert_close(head.loss(x, teacher), whole)


def test_the_targets_own_distribution_has_no_gradient() -> None:
    x, head, _ = drawn(1, 3)
    q = head.logits(x).softmax(-1).detach()
    likeliest = q.topk(CLASSES)
    teacher = Teacher(likeliest.indices, likeliest.values, 1 - likeliest.values.sum(-1))
    (gradient,) = torch.autograd.grad(head.loss(x, teacher).sum(), x)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)
