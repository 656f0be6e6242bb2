"""Donut in MLX: a Swin encoder over shifted windows, and an mBART decoder that looks at its features through cross-attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.backends.mlx.attention import Mask, attention
from mlxtune.backends.mlx.cache import KVCache
from mlxtune.backends.mlx.course import Course, Leg, at
from mlxtune.backends.mlx.model import Inputs, Model
from mlxtune.backends.mlx.models.idefics3 import ACTIVATIONS, convolved
from mlxtune.families import ModelConfig
from mlxtune.families.donut import apart, parts_of, relative_places, stage_sizes, window_shift
from mlxtune.types import Pixels

_OFFSET = 2  # rows of mBART's table of positions before the first position
_APART = -100.0  # added to scores between tokens of different parts of the picture, as published

# -- encoder ----------------------------------------------------------------------------------------------------------


class PatchEmbeddings(nn.Module):
    def __init__(self, encoder: Mapping[str, Any]) -> None:
        super().__init__()
        patch = encoder["patch_size"]
        self.projection = nn.Conv2d(encoder["num_channels"], encoder["embed_dim"], patch, stride=patch)

    def __call__(self, pictures: mx.array) -> mx.array:
        """[P, 3, H, W] -> [P, patches, width]; the last patches may reach over the edge."""
        patch = self.projection.weight.shape[1]
        rest = [(0, -side % patch) for side in pictures.shape[2:]]
        return convolved(mx.pad(pictures, [(0, 0), (0, 0), *rest]), self.projection.weight) + self.projection.bias


class Embeddings(nn.Module):
    def __init__(self, encoder: Mapping[str, Any]) -> None:
        super().__init__()
        self.patch_embeddings = PatchEmbeddings(encoder)
        self.norm = nn.LayerNorm(encoder["embed_dim"])

    def __call__(self, pictures: mx.array) -> mx.array:
        return self.norm(self.patch_embeddings(pictures))


class WindowAttention(nn.Module):
    """Attention within each window, with a learned bias for each pair of places."""

    def __init__(self, width: int, heads: int, window: int, *, bias: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query, self.key, self.value = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.relative_position_bias_table = mx.zeros(((2 * window - 1) ** 2, heads))

    def __call__(self, x: mx.array, separate: np.ndarray | None) -> mx.array:
        """x: [P, windows, window^2, width]. separate: [windows, window^2, window^2] bool, pairs that do not belong together."""
        pictures, windows, places, width = x.shape
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        bias = self.relative_position_bias_table[mx.array(relative_places(self.window))].transpose(2, 0, 1)[None]
        if separate is not None:
            bias = bias + mx.where(mx.array(separate), _APART, 0.0).astype(bias.dtype)[:, None]
        # Windows stand beside the heads, so that the mask is made once for all pictures.
        mask = mx.broadcast_to(bias, (windows, self.heads, places, places)).reshape(1, -1, places, places)
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)
        out = out.reshape(pictures, windows, self.heads, places, -1).transpose(0, 1, 3, 2, 4)
        return out.reshape(pictures, windows, places, width)

    def _split(self, x: mx.array) -> mx.array:
        """[P, windows, places, width] -> [P, windows * heads, places, head_dim]."""
        pictures, windows, places, _ = x.shape
        x = x.reshape(pictures, windows, places, self.heads, -1).transpose(0, 1, 3, 2, 4)
        return x.reshape(pictures, windows * self.heads, places, -1)


class Dense(nn.Module):
    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size_in, size_out)

    def __call__(self, x: mx.array) -> mx.array:
        return self.dense(x)


class BlockAttention(nn.Module):
    def __init__(self, width: int, heads: int, window: int, *, bias: bool) -> None:
        super().__init__()
        self.self = WindowAttention(width, heads, window, bias=bias)
        self.output = Dense(width, width)

    def __call__(self, x: mx.array, separate: np.ndarray | None) -> mx.array:
        return self.output(self.self(x, separate))


class Block(nn.Module):
    def __init__(self, encoder: Mapping[str, Any], width: int, heads: int, *, number: int) -> None:
        super().__init__()
        self.number, self.window = number, encoder["window_size"]
        eps, inner = encoder["layer_norm_eps"], int(encoder["mlp_ratio"] * width)
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attention = BlockAttention(width, heads, self.window, bias=encoder["qkv_bias"])
        self.intermediate, self.output = Dense(width, inner), Dense(inner, width)
        self._activation = ACTIVATIONS[encoder["hidden_act"]]

    def __call__(self, x: mx.array, size: tuple[int, int]) -> mx.array:
        """x: [P, rows * columns, width]."""
        x = x + self._attended(self.layernorm_before(x).reshape(len(x), *size, -1), size).reshape(x.shape)
        return x + self.output(self._activation(self.intermediate(self.layernorm_after(x))))

    def _attended(self, x: mx.array, size: tuple[int, int]) -> mx.array:
        """[P, rows, columns, width], window by window; what fills up the last windows is zero and is seen."""
        window, shift = self.window, window_shift(size, self.window, block=self.number)
        x = mx.pad(x, [(0, 0), *((0, -side % window) for side in size), (0, 0)])
        pictures, rows, columns, width = x.shape
        across, down = columns // window, rows // window
        x = mx.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x
        x = x.reshape(pictures, down, window, across, window, width).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(pictures, down * across, window * window, width)
        x = self.attention(x, apart(rows, columns, window, shift) if shift else None)
        x = x.reshape(pictures, down, across, window, window, width).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(pictures, rows, columns, width)
        x = mx.roll(x, (shift, shift), axis=(1, 2)) if shift else x
        return x[:, : size[0], : size[1]]


class Merging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def __call__(self, x: mx.array, size: tuple[int, int]) -> mx.array:
        """[P, rows * columns, width] -> [P, half the rows * half the columns, 2 * width], rounded up."""
        x = mx.pad(x.reshape(len(x), *size, -1), [(0, 0), *((0, side % 2) for side in size), (0, 0)])
        pictures, rows, columns, width = x.shape
        x = x.reshape(pictures, rows // 2, 2, columns // 2, 2, width).transpose(0, 1, 3, 4, 2, 5)  # column by column
        return self.reduction(self.norm(x.reshape(pictures, -1, 4 * width)))


class Stage(nn.Module):
    def __init__(self, encoder: Mapping[str, Any], *, number: int) -> None:
        super().__init__()
        width, heads = encoder["embed_dim"] * 2**number, encoder["num_heads"][number]
        self.blocks = [Block(encoder, width, heads, number=block) for block in range(encoder["depths"][number])]
        if number + 1 < len(encoder["depths"]):
            self.downsample = Merging(width)

    def __call__(self, x: mx.array, size: tuple[int, int]) -> mx.array:
        for block in self.blocks:
            x = block(x, size)
        return self.downsample(x, size) if "downsample" in self else x


class Stages(nn.Module):
    def __init__(self, encoder: Mapping[str, Any]) -> None:
        super().__init__()
        self.layers = [Stage(encoder, number=number) for number in range(len(encoder["depths"]))]


class Encoder(nn.Module):
    def __init__(self, encoder: Mapping[str, Any]) -> None:
        super().__init__()
        self._config = encoder
        self.embeddings = Embeddings(encoder)
        self.encoder = Stages(encoder)

    def __call__(self, pictures: mx.array) -> mx.array:
        """[P, 3, H, W] -> [P, tokens, width]."""
        x = self.embeddings(pictures)
        for stage, size in zip(self.encoder.layers, stage_sizes(self._config, pictures.shape[2:]), strict=True):
            x = stage(x, size)
        return x


# -- decoder ----------------------------------------------------------------------------------------------------------


class LayerCache:
    """Of one layer: keys and values of the tokens read so far, and those of the picture, which are computed once."""

    def __init__(self, room: int) -> None:
        self.own = KVCache(room)
        self.picture: tuple[mx.array, mx.array] | None = None

    def select(self, rows: mx.array) -> None:
        self.own.select(rows)
        if self.picture is not None:
            keys, values = self.picture
            self.picture = keys[rows], values[rows]


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(hidden, hidden) for _ in range(4))

    def keys_values(self, x: mx.array) -> tuple[mx.array, mx.array]:
        return self._split(self.k_proj(x)), self._split(self.v_proj(x))

    def __call__(self, x: mx.array, keys: mx.array, values: mx.array, mask: Mask) -> mx.array:
        q = self._split(self.q_proj(x))
        out = attention(q, keys, values, scale=q.shape[-1] ** -0.5, mask=mask)
        return self.out_proj(out)

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)


class DecoderLayer(nn.Module):
    def __init__(self, decoder: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, heads = decoder["d_model"], decoder["decoder_attention_heads"]
        self.self_attn, self.encoder_attn = Attention(hidden, heads), Attention(hidden, heads)
        self.self_attn_layer_norm, self.encoder_attn_layer_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.fc1, self.fc2 = nn.Linear(hidden, decoder["decoder_ffn_dim"]), nn.Linear(decoder["decoder_ffn_dim"], hidden)
        self.final_layer_norm = nn.LayerNorm(hidden)
        self._activation = ACTIVATIONS[decoder["activation_function"]]

    def __call__(self, x: mx.array, features: mx.array | None, mask: Mask, cache: LayerCache | None) -> mx.array:
        """features: [B, T, hidden]; None after the prompt, when `cache` holds what was computed from them."""
        normed = self.self_attn_layer_norm(x)
        keys, values = self.self_attn.keys_values(normed)
        if cache is not None:
            keys, values = cache.own.append(keys, values)
        x = x + self.self_attn(normed, keys, values, mask)
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), *self._picture(features, cache), None)
        return x + self.fc2(self._activation(self.fc1(self.final_layer_norm(x))))

    def _picture(self, features: mx.array | None, cache: LayerCache | None) -> tuple[mx.array, mx.array]:
        if features is None:
            assert cache is not None and cache.picture is not None, "a prompt comes with its picture"
            return cache.picture
        found = self.encoder_attn.keys_values(features)
        if cache is not None:
            cache.picture = found
        return found


class Decoder(nn.Module):
    def __init__(self, decoder: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = decoder["d_model"]
        self._scale = math.sqrt(hidden) if decoder["scale_embedding"] else 1.0
        self.embed_tokens = nn.Embedding(decoder["vocab_size"], hidden)
        self.embed_positions = nn.Embedding(decoder["max_position_embeddings"] + _OFFSET, hidden)
        self.layers = [DecoderLayer(decoder) for _ in range(decoder["decoder_layers"])]
        self.layernorm_embedding, self.layer_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def course(self, inputs: Inputs) -> Course:
        def start(features: mx.array | None) -> mx.array:
            x = self.embed_tokens(inputs.input_ids) * self._scale + self.embed_positions(inputs.positions[0] + _OFFSET)
            return self.layernorm_embedding(x)

        def leg(layer: nn.Module, cache: LayerCache | None) -> Leg:
            def run(x: mx.array, features: mx.array | None) -> mx.array:
                shown = None if features is None else features.astype(x.dtype)[inputs.crossed_rows]
                return layer(x, shown, inputs.mask, cache)

            return Leg(layer, run)

        caches = inputs.caches or [None] * len(self.layers)
        legs = [leg(*pair) for pair in zip(self.layers, caches, strict=True)]
        return Course(start, legs, lambda x: self.layer_norm(x if inputs.rows is None else at(x, inputs.rows.places)))


class DecoderModel(nn.Module):
    def __init__(self, decoder: Mapping[str, Any]) -> None:
        super().__init__()
        self.decoder = Decoder(decoder)


class CausalDecoder(nn.Module):
    def __init__(self, decoder: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = DecoderModel(decoder)
        if not decoder["tie_word_embeddings"]:
            self.lm_head = nn.Linear(decoder["d_model"], decoder["vocab_size"], bias=False)


class Donut(Model):
    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)  # the head stands inside the decoder, under its published name
        parts = parts_of(config)
        self.encoder, self.decoder = Encoder(parts.encoder), CausalDecoder(parts.decoder)
        if parts.projected:
            self.enc_to_dec_proj = nn.Linear(parts.encoder_width, parts.decoder["d_model"])

    @property
    def text(self) -> Decoder:
        return self.decoder.model.decoder

    def takes(self, name: str) -> bool:
        return name != "decoder.lm_head.weight" or "lm_head" in self.decoder

    def vision(self, pixels: Sequence[Pixels], dtype: mx.Dtype) -> mx.array:
        features = self.encoder(mx.array(np.concatenate([p.values for p in pixels])).astype(dtype))
        features = self.enc_to_dec_proj(features) if "enc_to_dec_proj" in self else features
        return features.reshape(-1, features.shape[-1])

    def head(self, hidden: mx.array) -> mx.array:
        return self.decoder.lm_head(hidden) if "lm_head" in self.decoder else self.text.embed_tokens.as_linear(hidden)

    def new_caches(self, room: int) -> list[Any]:
        return [LayerCache(room) for _ in self.text.layers]

    def course(self, inputs: Inputs) -> Course:
        return self.text.course(inputs)
