"""The head in chunks: the loss and gradient of all logits at once, however many rows, and never all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

SHAPE = {"hidden": 24, "vocabulary": 700}
Head = Callable[[Any], Any]


def numbers(rows: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(rows)
    hidden = rng.standard_normal((rows, SHAPE["hidden"])).astype(np.float32)
    matrix = rng.standard_normal((SHAPE["vocabulary"], SHAPE["hidden"])).astype(np.float32) * 0.3
    weights = rng.uniform(0, 1, rows).astype(np.float32)
    return hidden, matrix, rng.integers(0, SHAPE["vocabulary"], rows).astype(np.int32), weights * (weights > 0.2)


def expected(hidden: np.ndarray, matrix: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and its gradient with respect to `hidden`, in double precision."""
    logits = hidden.astype(np.float64) @ matrix.T.astype(np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    places = np.arange(len(labels)), labels
    loss = -(weights * np.log(shares[places])).sum()
    shares[places] -= 1
    return loss, (shares * weights[:, None]) @ matrix


def with_torch(hidden: np.ndarray, matrix: np.ndarray, labels: np.ndarray, weights: np.ndarray, seen: list[int]) -> Any:
    torch = pytest.importorskip("torch")
    from mlxtune.backends.torch.head import weighted_nll

    head = torch.nn.Linear(SHAPE["hidden"], SHAPE["vocabulary"], bias=False).requires_grad_(False)
    head.weight.copy_(torch.from_numpy(matrix))
    head.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    rows = torch.from_numpy(hidden).requires_grad_()
    told = torch.from_numpy(labels).long(), torch.from_numpy(weights)
    loss = weighted_nll(head, rows * 1.0, *told)
    (loss * 3).backward()
    with torch.no_grad():
        assert float(weighted_nll(head, rows, *told)) == pytest.approx(float(loss), rel=1e-6)
    return float(loss), rows.grad.numpy() / 3


def with_mlx(hidden: np.ndarray, matrix: np.ndarray, labels: np.ndarray, weights: np.ndarray, seen: list[int]) -> Any:
    mx = pytest.importorskip("mlx.core")
    from mlxtune.backends.mlx.head import weighted_nll

    def head(rows: Any) -> Any:
        seen.append(len(rows))
        return rows @ mx.array(matrix).T

    told = mx.array(labels), mx.array(weights)
    loss, gradient = mx.value_and_grad(lambda rows: weighted_nll(head, rows * 1.0, *told) * 3)(mx.array(hidden))
    assert weighted_nll(head, mx.array(hidden), *told).item() == pytest.approx(loss.item() / 3, rel=1e-6)
    return loss.item() / 3, np.array(gradient) / 3


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 600])
@pytest.mark.parametrize("side", [with_torch, with_mlx])
def test_loss_and_gradient_are_those_of_all_logits_at_once(side: Callable[..., Any], rows: int) -> None:
    given, seen = numbers(rows), []
    loss, gradient = side(*given, seen)
    right, right_gradient = expected(*given)
    assert loss == pytest.approx(right, rel=1e-5)
    np.testing.assert_allclose(gradient, right_gradient, atol=2e-6)
    assert max(seen) <= 256


def test_mlx_takes_the_powers_of_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    head = pytest.importorskip("mlxtune.backends.mlx.head")
    monkeypatch.setattr(head, "_NUMBERS", 40 * SHAPE["vocabulary"])
    taken = []
    power = head._exp
    monkeypatch.setattr(head, "_exp", lambda x: taken.append(len(x)) or power(x))
    test_loss_and_gradient_are_those_of_all_logits_at_once(with_mlx, 250)
    assert set(taken) == {40, 16, 18}, "of 96, 96 and 58 rows"
