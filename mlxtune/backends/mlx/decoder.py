"""The decoder that Llama-like text models share: RMSNorm, grouped-query attention with rotary positions, SwiGLU.

Parameter names are those of the published weights. Positions and masks come from outside, so nothing here looks at token
ids, keeps state between calls, or waits for a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.activations import swiglu
from mlxtune.backends.mlx.attention import Mask, attention, narrowed
from mlxtune.backends.mlx.cache import KVCache
from mlxtune.backends.mlx.course import Leg, at, legs_of
from mlxtune.backends.mlx.lora import together
from mlxtune.backends.mlx.norm import RMSNorm
from mlxtune.backends.mlx.rotary import Rotary, frequency_axes, inverse_frequencies, rotary, rotate, turns_at
from mlxtune.wanted_rows import WantedRows

_ROWS = 1024  # tokens that go through an MLP at once


class Attention(nn.Module):
    def __init__(self, text: Mapping[str, Any], *, bias: bool, head_norms: bool) -> None:
        super().__init__()
        hidden, heads = text["hidden_size"], text["num_attention_heads"]
        kv_heads = text.get("num_key_value_heads") or heads
        self.head_dim = text.get("head_dim") or hidden // heads
        self.q_proj = nn.Linear(hidden, heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden, bias=False)
        if head_norms:
            self.q_norm = RMSNorm(self.head_dim, eps=text["rms_norm_eps"])
            self.k_norm = RMSNorm(self.head_dim, eps=text["rms_norm_eps"])

    def __call__(self, x: mx.array, turns: Rotary, mask: Mask, cache: KVCache | None, rows: WantedRows | None) -> mx.array:
        """x: [B * S, hidden]. Gives the same, or [N, hidden] of the wanted rows."""
        if rows is None:
            q, k, v = together(x, self.q_proj, self.k_proj, self.v_proj)
        else:
            q, (k, v) = self.q_proj(at(x, rows.queries)), together(x, self.k_proj, self.v_proj)
        batch, width = turns[0].shape[:2]
        q, k, v = (part.reshape(batch, -1, part.shape[-1] // self.head_dim, self.head_dim) for part in (q, k, v))
        if "q_norm" in self:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, *(turns if rows is None else turns_at(turns, rows.queries))), rotate(k, *turns)
        q, k, v = (part.swapaxes(1, 2) for part in (q, k, v))
        if cache is not None:
            k, v = cache.append(k, v)
        if rows is not None:
            mask = narrowed(mask, rows.queries, width=width, keys=k.shape[2])
        out = attention(q, k, v, scale=self.head_dim**-0.5, mask=mask)
        return self.o_proj(out.reshape(-1, out.shape[-1]) if rows is None else at(out, rows.back))


class Mlp(nn.Module):
    """Its inner arrays are the widest of a layer: many tokens go through in parts, and where a layer runs again on the way back,
    only one part's are there. Source: the tiled MLP of Bekman et al. 2025 (arXiv 2506.13996)."""

    def __init__(self, hidden: int, inner: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) <= _ROWS:
            return self._of(x)
        each = math.ceil(len(rows) / math.ceil(len(rows) / _ROWS))
        return mx.concatenate([self._of(part) for part in mx.split(rows, [*range(each, len(rows), each)])]).reshape(x.shape)

    def _of(self, x: mx.array) -> mx.array:
        return self.down_proj(swiglu(*together(x, self.gate_proj, self.up_proj)))


class Layer(nn.Module):
    def __init__(self, text: Mapping[str, Any], *, bias: bool, head_norms: bool) -> None:
        super().__init__()
        self.self_attn = Attention(text, bias=bias, head_norms=head_norms)
        self.mlp = Mlp(text["hidden_size"], text["intermediate_size"])
        self.input_layernorm = RMSNorm(text["hidden_size"], eps=text["rms_norm_eps"])
        self.post_attention_layernorm = RMSNorm(text["hidden_size"], eps=text["rms_norm_eps"])

    def __call__(self, x: mx.array, turns: Rotary, mask: Mask, cache: KVCache | None, rows: WantedRows | None) -> mx.array:
        """x: [B, S, hidden]. Gives the same, or [N, hidden] of the wanted rows."""
        tokens = x.reshape(-1, x.shape[-1])  # once: each of the parts would do so for itself, and turn its result back
        seen = self.self_attn(self.input_layernorm(tokens), turns, mask, cache, rows)
        tokens = (tokens if rows is None else at(tokens, rows.places)) + seen
        tokens = tokens + self.mlp(self.post_attention_layernorm(tokens))
        return tokens.reshape(x.shape) if rows is None else tokens


class Decoder(nn.Module):
    """attention_bias: whether the query, key and value projections have one (Qwen2 does, Llama does not).

    head_norms: whether queries and keys are normalised head by head (Qwen3). interleaved: see `frequency_axes`.
    """

    def __init__(
        self, text: Mapping[str, Any], *, attention_bias: bool, head_norms: bool = False, interleaved: bool = False
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(text["vocab_size"], text["hidden_size"])
        self.layers = [Layer(text, bias=attention_bias, head_norms=head_norms) for _ in range(text["num_hidden_layers"])]
        self.norm = RMSNorm(text["hidden_size"], eps=text["rms_norm_eps"])
        self._frequencies = inverse_frequencies(self.layers[0].self_attn.head_dim, theta=text["rope_theta"])
        self._axes = frequency_axes(len(self._frequencies), text.get("mrope_section"), interleaved=interleaved)

    def legs(
        self, positions: mx.array, mask: Mask, caches: Sequence[KVCache] | None, rows: WantedRows | None = None
    ) -> list[Leg]:
        """Of the layers. positions: [A, B, S]. rows: see `Inputs`."""
        turns = self._rotary(positions, self.norm.weight.dtype)
        return legs_of(self.layers, lambda layer, x, cache, rows: layer(x, turns, mask, cache, rows), caches, rows)

    def _rotary(self, positions: mx.array, dtype: mx.Dtype) -> Rotary:
        """Of [B, S, 1, head_dim / 2] angles."""
        axes, frequencies = mx.array(self._axes), mx.array(self._frequencies)
        angles = positions.astype(mx.float32)[axes].transpose(1, 2, 0) * frequencies  # [B, S, head_dim / 2]
        return rotary(angles[:, :, None], dtype)
