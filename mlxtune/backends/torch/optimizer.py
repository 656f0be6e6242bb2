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
        self._parameters, self._weight_decay = parameters, weight_decay
        self._moments = {key: {name: torch.zeros_like(p) for name, p in parameters.items()} for key in ("exp_avg", "exp_avg_sq")}
        self._steps = [torch.zeros((), device=p.device) for p in parameters.values()]  # alike, as the function wants them

    def step(self, *, lr: float) -> None:
        """By the gradients of the parameters."""
        adamw(
            list(self._parameters.values()),
            [p.grad for p in self._parameters.values()],
            *(list(moments.values()) for moments in self._moments.values()),
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def arrays(self) -> Arrays:
        """ "<name>.exp_avg", "<name>.exp_avg_sq" and "step"."""
        state: Arrays = {"step": np.array(int(self._steps[0]), np.int64)}
        for key, moments in self._moments.items():
            state |= {f"{name}.{key}": value.cpu().numpy().copy() for name, value in moments.items()}
        return state

    def restore(self, arrays: Arrays) -> None:
        for key, moments in self._moments.items():
            for name, value in moments.items():
                value.copy_(torch.from_numpy(arrays[f"{name}.{key}"]))
        for step in self._steps:
            step.fill_(float(arrays["step"]))
