"""Rotary positions: queries or keys turned by the angles of a token's place."""

from __future__ import annotations

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The first dimensions of each head, as many as `cos` has, turned by the angles of their positions.

    Source: Su et al. 2021 (arXiv 2104.09864); phi turns the first dimensions of a head alone.
    """
    turned, rest = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], dim=-1)
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)
