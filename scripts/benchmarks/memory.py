"""Peak memory above the loaded model: what the framework counts, and what the process holds."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """framework: "mlx", "torch" or "cuda". All in bytes; None where it cannot be told."""

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self._resident: int | None = None
        self._counted: int | None = None

    def start(self) -> None:
        gc.collect()
        self._touch()
        if self.framework == "mlx":
            import mlx.core as mx

            mx.clear_cache()
            mx.reset_peak_memory()
            self._counted = mx.get_active_memory()
        elif self.framework == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._counted = torch.cuda.memory_allocated()
        if sys.platform.startswith("linux"):
            _CLEAR.write_text("5")  # the high-water mark starts anew
            self._resident = _status("VmRSS")

    def result(self) -> dict[str, int | None]:
        """loaded, peak: with the model; above: without."""
        peak = self._peak()
        resident = _status("VmHWM") if self._resident is not None else None
        counted = (self._counted, peak) if self.framework in ("mlx", "cuda") else (self._resident, resident)
        found = {"loaded": counted[0], "peak": counted[1], "loaded_resident": self._resident, "peak_resident": resident}
        for name in ("", "_resident"):
            low, high = found[f"loaded{name}"], found[f"peak{name}"]
            found[f"above{name}"] = high - low if low is not None and high is not None else None
        return found

    def _peak(self) -> int | None:
        if self._counted is None:
            return None
        if self.framework == "mlx":
            import mlx.core as mx

            return mx.get_peak_memory()
        import torch

        return torch.cuda.max_memory_allocated()

    def _touch(self) -> None:
        """Weights that lie in a mapped file come into memory when they are first read; here that is before the line is drawn."""
        for module in [thing for thing in gc.get_objects() if _is_model(thing, self.framework)]:
            if self.framework == "mlx":
                import mlx.core as mx

                mx.eval(module.parameters())
            else:
                for parameter in module.parameters():
                    parameter.detach().sum().item()


def _is_model(thing: Any, framework: str) -> bool:
    # Not isinstance: lazy modules and proxies would be woken by it.
    names = [f"{kind.__module__}.{kind.__name__}" for kind in type(thing).__mro__]
    if framework == "mlx":
        return "mlx.nn.layers.base.Module" in names and bool(getattr(thing, "config", None))
    return "torch.nn.modules.module.Module" in names and "transformers.modeling_utils.PreTrainedModel" in names


def _status(name: str) -> int:
    with _STATUS.open() as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
