"""The output head and its cross-entropy, some rows at a time: logits of all rows are never there at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx

from mlxtune.backends.mlx.untraced import untraced
from mlxtune.backends.mlx.vector import LN_2, LOG2_E, by_parts, exp2, fused, row_highest, row_sums

ROWS = 96  # of logits at once, 56 MiB in float32 over 150,000 tokens; MLX holds up to four arrays as large
_NUMBERS = 2**17  # of logits that are worked on at once: half of what a core caches
_PART = 128  # logits that are summed up at once; most vocabularies are multiples of it


def weighted_nll(head: Callable[[mx.array], mx.array], hidden: mx.array, labels: mx.array, weights: mx.array) -> mx.array:
    """sum(weights * nll) in nats. hidden: [N, hidden]. labels, weights: [N].

    The head is frozen, so the gradient of `hidden` is all that is needed; it is taken chunk by chunk on the way, and no logits
    are kept or computed twice for the way back. Where no gradient is asked for, none is computed: nothing reads it.
    """
    chunk = mx.value_and_grad(lambda rows, told, weight: (nll(head(rows).astype(mx.float32), told) * weight).sum())
    fixed, total, gradients = mx.stop_gradient(hidden), mx.array(0.0), []
    for start in range(0, len(labels), ROWS):
        part = slice(start, start + ROWS)
        # Nothing is computed yet: without the dependence, all chunks' logits would be there before the first gradient is.
        rows = mx.depends([fixed[part]], gradients[-1:])[0] if gradients else fixed[part]
        loss, gradient = chunk(rows, labels[part], weights[part])
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
    if by_parts(logits.dtype):
        return _nll_by_parts(labels)(logits)
    total = mx.logsumexp(mx.logsumexp(_in_parts(logits, -mx.inf), axis=-1), axis=-1)
    return total - _of_labels(logits, labels)


def _nll_by_parts(labels: mx.array) -> Callable[[mx.array], mx.array]:
    """logits -> nll, whose gradient is the softmax less 1 at the label.

    Some rows at a time: each power takes several passes, and those over arrays as large as all logits would be the most of a
    chunk's memory, and wait for it.
    """

    def apart(logits: mx.array) -> Iterator[tuple[slice, mx.array]]:
        rows = max(_NUMBERS // logits.shape[-1], 1)
        for start in range(0, len(labels), rows):
            yield slice(start, start + rows), logits[start : start + rows]

    @mx.custom_function
    def of(logits: mx.array) -> mx.array:
        return untraced(forward, logits)

    def forward(logits: mx.array) -> mx.array:
        totals = []
        for _, rows in apart(logits):
            highest = row_highest(rows)
            total = row_sums(_in_parts(_exp(rows - highest), 0.0))[..., 0].sum(-1)
            totals.append(highest[:, 0] + mx.log2(total) * LN_2)
        return mx.concatenate(totals) - _of_labels(logits, labels)

    @of.vjp
    def vjp(logits: mx.array, cotangent: mx.array, value: mx.array) -> mx.array:
        return untraced(back, logits, cotangent, value)

    def back(logits: mx.array, cotangent: mx.array, value: mx.array) -> mx.array:
        total, scale = (value + _of_labels(logits, labels))[:, None], cotangent[:, None]
        shares = [_exp(rows - total[part]) * scale[part] for part, rows in apart(logits)]
        return mx.concatenate(shares).at[mx.arange(len(labels)), labels].add(-cotangent)

    return of


@fused
def _exp(x: mx.array) -> mx.array:
    return exp2(x * LOG2_E)


def _in_parts(values: mx.array, spare: float) -> mx.array:
    """[N, V] -> [N, V / _PART, _PART], filled up with `spare`."""
    rows, width = values.shape
    if width % _PART:
        values = mx.pad(values, ((0, 0), (0, -width % _PART)), constant_values=spare)
    return values.reshape(rows, -1, _PART)


def _of_labels(logits: mx.array, labels: mx.array) -> mx.array:
    return mx.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
