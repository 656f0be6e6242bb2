"""The output head and its cross-entropy, some rows at a time: logits of all rows are never there at once."""

from __future__ import annotations

import torch
from torch import nn

ROWS = 128  # of logits at once: 75 MiB in float32 over 150,000 tokens


def weighted_nll(head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum(weights * nll) in nats. hidden: [N, hidden]. labels, weights: [N].

    The head is frozen, so the gradient of `hidden` is all that is needed; it is taken chunk by chunk on the way, and no logits
    are kept or computed twice for the way back.
    """
    if not (torch.is_grad_enabled() and hidden.requires_grad):
        return sum((_chunk(head, *parts) for parts in _chunks(hidden, labels, weights)), start=weights.new_zeros(()))
    total, gradients = weights.new_zeros(()), []
    for rows, *told in _chunks(hidden.detach(), labels, weights):
        with torch.enable_grad():
            loss = _chunk(head, rows.requires_grad_(), *told)
        gradients.append(torch.autograd.grad(loss, rows)[0])
        total += loss.detach()
    # Worth nothing, with the gradient that was just computed.
    return total + _Attached.apply(hidden, torch.cat(gradients))


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


def _chunks(*arrays: torch.Tensor):
    return zip(*(array.split(ROWS) for array in arrays), strict=True)


def _chunk(head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    nll = nn.functional.cross_entropy(head(hidden).float(), labels, reduction="none")
    return (nll * weights).sum()
