"""Peak memory of a checkpointed gradient; to be called in a process of its own, where nothing else comes and goes."""

from __future__ import annotations

WIDTH, LENGTH = 32, 256


def checkpointed_peak(layers: int) -> int:
    """Bytes above the model, of a decoder whose features a gradient goes back to, so that every layer runs again."""
    import mlx.core as mx

    from mlxtune.backends.mlx.course import Course, layerwise_gradients
    from mlxtune.backends.mlx.decoder import Decoder
    from mlxtune.backends.mlx.lora import Weights

    text = {"hidden_size": WIDTH, "intermediate_size": 8 * WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"rms_norm_eps": 1e-6, "vocab_size": 8, "rope_theta": 1e4, "num_hidden_layers": layers}
    decoder = Decoder(text, attention_bias=False)
    x, features = mx.random.normal((1, LENGTH, WIDTH)), mx.zeros((1, LENGTH, WIDTH))
    legs = decoder.legs(mx.zeros((1, 1, LENGTH), mx.int32), "causal", None)
    mx.eval(decoder.parameters(), x, features)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    course = Course(lambda given: x + given, legs, decoder.norm)
    loss, _, back = layerwise_gradients(
        course, features, weights=Weights({}), loss=lambda hidden: hidden.square().sum(), back_to_features=True
    )
    mx.eval(loss, back)
    return mx.get_peak_memory() - before
