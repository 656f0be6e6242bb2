"""The families' models in MLX, by family name. A family joins with one line here."""

from mlxtune.backends.mlx.model import Inputs, Model
from mlxtune.backends.mlx.models.donut import Donut
from mlxtune.backends.mlx.models.idefics3 import Idefics3
from mlxtune.backends.mlx.models.llava import Llava
from mlxtune.backends.mlx.models.moondream2 import Moondream2
from mlxtune.backends.mlx.models.qwen2_5_vl import Qwen2_5_VL
from mlxtune.backends.mlx.models.qwen2_vl import Qwen2VL
from mlxtune.backends.mlx.models.qwen3_vl import Qwen3VL
from mlxtune.backends.mlx.models.smolvlm import SmolVLM

MODELS: dict[str, type[Model]] = {
    "qwen2_5_vl": Qwen2_5_VL,
    "qwen2_vl": Qwen2VL,
    "qwen3_vl": Qwen3VL,
    "idefics3": Idefics3,
    "moondream2": Moondream2,
    "moondream2_phi": Moondream2,
    "smolvlm": SmolVLM,
    "llava": Llava,
    "donut": Donut,
}

__all__ = ["MODELS", "Inputs", "Model"]
