"""Moondream 2: our own modules, since transformers has none and the hub's folders want their own code to be run.

Parameter names are those published in 2025; the layout of 2024 has the same modules under other names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import embedding, gelu

from mlxtune.backends.torch.attention import Mask, by_reach, in_blocks, narrowed
from mlxtune.backends.torch.models.base import Inputs, TorchModel, check_weights
from mlxtune.backends.torch.models.layer import at
from mlxtune.backends.torch.rotary import rotate
from mlxtune.errors import BackendError, ModelError
from mlxtune.families import Family, ModelConfig, family_of
from mlxtune.families.moondream2_crops import Sizes, assembly, sizes
from mlxtune.types import Pixels
from mlxtune.wanted_rows import WantedRows

_THETA = 10_000.0
Rotary = tuple[torch.Tensor, torch.Tensor]  # cos and sin, each [B, 1, S, rotary_dim]


class Attention(nn.Module):
    """One projection for queries, keys and values."""

    def __init__(self, hidden: int, *, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, hidden // heads
        self.num_key_value_groups = heads // kv_heads
        self.qkv = nn.Linear(hidden, (heads + 2 * kv_heads) * self.head_dim)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(self.attended(x))

    def attended(
        self,
        x: torch.Tensor,
        *,
        rotary: Rotary | None = None,
        mask: Mask = None,
        cache: Any = None,
        layer: int = 0,
        rows: WantedRows | None = None,
    ) -> torch.Tensor:
        """What the output projection takes, of all tokens or at `rows`. rotary: for text, which is causal where there is no mask;
        without it all see all."""
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache.update(k, v, layer)
        if rows is None:
            return by_reach(self, q, k, v, mask, is_causal=rotary is not None)[0].flatten(2)
        asking = at(q.transpose(1, 2).flatten(2), rows.queries)
        seen = in_blocks(narrowed(mask, rows.queries, width=x.shape[1], keys=k.shape[2]), asking)
        out, _ = by_reach(self, asking.unflatten(-1, (-1, self.head_dim)).transpose(1, 2), k, v, seen, is_causal=False)
        return at(out.flatten(2), rows.back)


class Mlp(nn.Module):
    def __init__(self, size_in: int, inner: int, size_out: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size_in, inner), nn.Linear(inner, size_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(gelu(self.fc1(x), approximate="tanh"))


class TextBlock(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(s.hidden)
        self.attn = Attention(s.hidden, heads=s.heads, kv_heads=s.kv_heads)
        self.mlp = Mlp(s.hidden, s.inner, s.hidden)

    def forward(self, x: torch.Tensor, rows: WantedRows | None, **how: Any) -> torch.Tensor:
        """x: [B, S, hidden]. Gives the same, or [N, hidden] at `rows`. how: of `Attention.attended`."""
        normed = self.ln(x)
        seen = self.attn.attended(normed, rows=rows, **how)
        if rows is not None:
            x, normed = at(x, rows.places), at(normed, rows.places)
        return x + self.attn.proj(seen) + self.mlp(normed)


class Text(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.wte = nn.Parameter(torch.empty(s.vocabulary, s.hidden))
        self.blocks = nn.ModuleList(TextBlock(s) for _ in range(s.layers))
        self.post_ln = nn.LayerNorm(s.hidden)
        self.lm_head = nn.Linear(s.hidden, s.vocabulary)

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        return embedding(ids, self.wte)


class VisionBlock(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(s.vision_hidden), nn.LayerNorm(s.vision_hidden)
        self.attn = Attention(s.vision_hidden, heads=s.vision_heads, kv_heads=s.vision_heads)
        self.mlp = Mlp(s.vision_hidden, s.vision_inner, s.vision_hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Vision(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.sizes = s
        self.patch_emb = nn.Linear(3 * s.patch**2, s.vision_hidden)
        self.pos_emb = nn.Parameter(torch.empty(1, s.side**2, s.vision_hidden))
        self.blocks = nn.ModuleList(VisionBlock(s) for _ in range(s.vision_layers))
        self.post_ln = nn.LayerNorm(s.vision_hidden)
        self.proj_mlp = Mlp(s.views * s.vision_hidden, s.projector_inner, s.hidden)

    def forward(self, crops: torch.Tensor, pixels: Sequence[Pixels]) -> torch.Tensor:
        """crops: [C, 3, crop, crop] of all pictures. Gives [sum of tokens, hidden]."""
        tower = self.tower(crops).split([len(p.values) for p in pixels])
        whole = torch.cat([crops[0] for crops in tower])
        if self.sizes.views == 1:
            return self.proj_mlp(whole)
        cut = torch.cat(
            [self._pooled(crops[1:], p.grid) if len(crops) > 1 else crops[0] for crops, p in zip(tower, pixels, strict=True)]
        )
        return self.proj_mlp(torch.cat([whole, cut], dim=-1))

    def tower(self, crops: torch.Tensor) -> torch.Tensor:
        """[C, 3, crop, crop] -> [C, side * side, vision_hidden]."""
        side, patch = self.sizes.side, self.sizes.patch
        patches = crops.view(-1, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(len(crops), side**2, -1)
        x = self.patch_emb(patches) + self.pos_emb
        for block in self.blocks:
            x = block(x)
        return self.post_ln(x)

    def _pooled(self, crops: torch.Tensor, tiling: tuple[int, ...]) -> torch.Tensor:
        """[rows * columns, side * side, width] of one picture's crops -> [side * side, width]."""
        how = assembly(tiling, side=self.sizes.side, margin=self.sizes.margin)
        places, down, across = (torch.from_numpy(array).to(crops.device) for array in how)
        grid = crops.flatten(0, 1)[places.long()].view(down.shape[1], across.shape[1], -1)
        return torch.einsum("ih,jw,hwd->ijd", down.to(crops.dtype), across.to(crops.dtype), grid).flatten(0, 1)


class Moondream(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"text": Text(s), "vision": Vision(s)})


class Moondream2(TorchModel):
    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__(model, device)
        dim = self.model.model["vision"].sizes.rotary_dim
        # Source: rotary position embedding, Su et al. 2021 (arXiv 2104.09864); phi turns the first dimensions of a head alone.
        self._frequencies = (_THETA ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)).to(device)

    @classmethod
    def build(cls, config: ModelConfig, *, dtype: torch.dtype, settings: dict[str, Any]) -> nn.Module:
        if settings:
            raise BackendError(
                "model.quantize: with torch it goes through transformers, which has no Moondream. "
                "Set it to null, or use backend: mlx"
            )
        with torch.device("meta"):
            model = Moondream(sizes(config))
        _fill(model, config.folder, family_of(config), dtype=dtype)
        return model

    @property
    def text(self) -> Any:
        return self.model.model["text"]

    @property
    def head(self) -> nn.Module:
        return self.text.lm_head

    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        return self.model.model["vision"](self._values(pixels), pixels)

    def hidden(self, inputs: Inputs) -> torch.Tensor:
        x = self.embed(inputs)
        angles = (inputs.positions[0].float()[..., None] * self._frequencies).repeat(1, 1, 2)[:, None]
        rotary = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        mask = self.cut(inputs.mask, x)
        for number, block in enumerate(self.text.blocks):
            last = number == len(self.text.blocks) - 1 and inputs.rows is not None
            seen, rows = (inputs.mask, inputs.rows) if last else (mask, None)
            x = self.through(block, x, rows, rotary=rotary, mask=seen, cache=inputs.cache, layer=number)
        return self.text.post_ln(x)


def _fill(model: nn.Module, folder: Path, family: Family, *, dtype: torch.dtype) -> None:
    """Puts the folder's weights in place of the module's empty ones. Errors: ModelError unless every weight is there and fits."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no .safetensors files. Only safetensors are read, since other weight files can run code")
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            weights |= {family.canonical(name): value.to(dtype) for name, value in load_file(file).items()}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: cannot be read ({str(error).splitlines()[0]}). Download the file again") from error
    weights = {name: value for name, value in weights.items() if not family.leaves_out(name)}
    expected = model.state_dict()
    check_weights(
        folder,
        missing=expected.keys() - weights.keys(),
        unknown=weights.keys() - expected.keys(),
        wrong={name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape},
    )
    model.load_state_dict(weights, assign=True)
