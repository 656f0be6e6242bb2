"""The output head and its cross-entropy, some rows at a time: logits of all rows are never there at once."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

ROWS = 256  # of logits at once: 150 MiB in float32 over 150,000 tokens
_PART = 256  # logits that are summed up at once


def weighted_nll(head: Callable[[mx.array], mx.array], hidden: mx.array, labels: mx.array, weights: mx.array) -> mx.array:
    """sum(weights * nll) in nats. hidden: [N, hidden]. labels, weights: [N].

    The head is frozen, so the gradient of `hidden` is all that is needed; it is taken chunk by chunk on the way, and no logits
    are kept or computed twice for the way back. Where no gradient is asked for, none is computed: nothing reads it.
    """
    chunk = mx.value_and_grad(lambda rows, told, weight: (nll(head(rows).astype(mx.float32), told) * weight).sum())
    fixed, total, gradients = mx.stop_gradient(hidden), mx.array(0.0), []
    for start in range(0, len(labels), ROWS):
        part = slice(start, start + ROWS)
        loss, gradient = chunk(fixed[part], labels[part], weights[part])
        total = total + loss
        gradients.append(gradient)
    return mx.stop_gradient(total) + _attached(hidden, mx.stop_gradient(mx.concatenate(gradients)))


@mx.custom_function
def _attached(hidden: mx.array, gradient: mx.array) -> mx.array:
    """0, whose gradient with respect to `hidden` is `gradient`."""
    return mx.array(0.0)


@_attached.vjp
def _attached_vjp(primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    hidden, gradient = primals
    return (gradient.astype(mx.float32) * cotangent).astype(hidden.dtype), mx.zeros_like(gradient)


def nll(logits: mx.array, labels: mx.array) -> mx.array:
    """Cross-entropy in nats, [N], of float32 logits [N, vocabulary].

    In parts, since MLX's CPU sums a row into one float32: over 150,000 tokens loss and gradient would be off by 1e-4.
    """
    rows, vocabulary = logits.shape
    padded = mx.pad(logits, ((0, 0), (0, -vocabulary % _PART)), constant_values=-mx.inf)
    total = mx.logsumexp(mx.logsumexp(padded.reshape(rows, -1, _PART), axis=-1), axis=-1)
    return total - mx.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
