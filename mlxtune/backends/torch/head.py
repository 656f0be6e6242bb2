"""The output head and its cross-entropy, some rows at a time: logits of all rows are never there at once."""

from __future__ import annotations

import torch
from torch import nn

from mlxtune.backends.torch.products import packed_of, product

# Of logits at once: 150 MiB in float32 over 150,000 tokens. The head is read anew for every chunk; with half as many rows both
# products took a quarter longer.
ROWS = 256


def weighted_nll(head: nn.Linear, hidden: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum(weights * nll) in nats. hidden: [N, hidden]. labels, weights: [N].

    The head is frozen, so the gradient of `hidden` is all that is needed; it is taken chunk by chunk on the way, and no logits
    are kept or computed twice for the way back.
    """
    wanted = torch.is_grad_enabled() and hidden.requires_grad
    total, gradients = weights.new_zeros(()), []
    with torch.no_grad():
        for chunk in zip(*(array.split(ROWS) for array in (hidden, labels, weights)), strict=True):
            loss, gradient = _chunk(head, *chunk, wanted=wanted)
            total += loss
            gradients.append(gradient)
    # Worth nothing, with the gradient that was just computed.
    return total + _Attached.apply(hidden, torch.cat(gradients)) if wanted else total


class _Attached(torch.autograd.Function):
    """0, whose gradient with respect to `hidden` is `gradient`."""

    @staticmethod
    def forward(ctx, hidden: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return gradient.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx, outer: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient.float() * outer).to(gradient.dtype), None


def _chunk(
    head: nn.Linear, hidden: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, *, wanted: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The chunk's loss, and its gradient with respect to `hidden`: weights * (softmax - one hot) @ W."""
    logits = head(hidden).float()
    # In the array of the logits: it is the largest of a step, and a fresh one costs about as much as filling it.
    torch.log_softmax(logits, -1, out=logits)
    places = labels[:, None]
    loss = -(logits.gather(1, places)[:, 0] * weights).sum()
    if not wanted:
        return loss, None
    outer = logits.exp_().scatter_add_(1, places, torch.full_like(places, -1, dtype=logits.dtype)).mul_(weights[:, None])
    return loss, product(outer.to(hidden.dtype), head.weight.T, packed=packed_of(head).back)
