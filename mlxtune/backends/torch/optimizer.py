"""AdamW by torch's function of that name: torch's class would load torch's compiler, for a second, though nothing is compiled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.optim.adamw import adamw

from mlxtune.backends.base import BETAS, EPSILON
from mlxtune.types import Arrays


class AdamW:
    """Over named parameters. Source: Loshchilov and Hutter 2019 (arXiv 1711.05101)."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], *, weight_decay: float) -> None:
        self.parameters, self.weight_decay = parameters, weight_decay
        self.moments = {
            key: {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
            for key in ("exp_avg", "exp_avg_sq")
        }
        self.steps = [torch.zeros((), device=p.device) for p in parameters.values()]  # alike, as the function wants them

    def step(self, *, lr: float) -> None:
        """By the gradients of the parameters."""
        adamw(
            list(self.parameters.values()),
            [p.grad for p in self.parameters.values()],
            *(list(moments.values()) for moments in self.moments.values()),
            [],
            self.steps,
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def arrays(self) -> Arrays:
        """ "<name>.exp_avg", "<name>.exp_avg_sq" and "step"."""
        state: Arrays = {"step": np.array(int(self.steps[0]), np.int64)}
        for key, moments in self.moments.items():
            state |= {f"{name}.{key}": value.cpu().numpy().copy() for name, value in moments.items()}
        return state

    def restore(self, arrays: Arrays) -> None:
        for key, moments in self.moments.items():
            for name, value in moments.items():
                value.copy_(torch.from_numpy(arrays[f"{name}.{key}"]))
        for step in self.steps:
            step.fill_(float(arrays["step"]))
