"""Products with frozen weights by oneDNN, which processors of other makers than Intel get, against torch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlxtune.engine import Engine
from mlxtune.recipe import TrainSpec
from tests.helpers.rows import examples
from tests.helpers.training import attach, encode, train

Open = Callable[..., Engine]
torch = pytest.importorskip("torch")
products = pytest.importorskip("mlxtune.backends.torch.products")

if not torch.backends.mkldnn.is_available():
    pytest.skip("this torch brings no oneDNN", allow_module_level=True)


@pytest.fixture(autouse=True)
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_BY_ONEDNN", True)


def _random(*shape: int):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "x",
    [_random(2, 11, 24), _random(1, 24), _random(24, 7).T, _random(5, 48)[:, ::2], _random(0, 24)],
    ids=["batch", "one row", "turned", "with gaps", "none"],
)
def test_a_frozen_layer(x, bias: bool) -> None:
    plain = torch.nn.Linear(24, 15, bias=bias).requires_grad_(False)
    wanted = plain(x.requires_grad_())
    products.multiply_well(torch.nn.Sequential(plain))
    assert type(plain) is products.Linear
    found, outer = plain(x), _random(*wanted.shape)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(out, x, outer)[0] for out in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_only_what_is_plain_becomes_another_layer() -> None:
    class Quantised(torch.nn.Linear):
        pass

    model = torch.nn.ModuleDict({"plain": torch.nn.Linear(3, 2), "other": Quantised(3, 2), "table": torch.nn.Embedding(3, 2)})
    names = list(model.state_dict())
    products.multiply_well(model)
    assert [type(module) for module in model.values()] == [products.Linear, Quantised, torch.nn.Embedding]
    assert list(model.state_dict()) == names


def test_every_product_of_a_step_goes_this_way() -> None:
    """Forward and back of an adapted and of a frozen layer: none is left to torch's own but what is added in place."""
    from mlxtune.backends.torch.lora import LoraLinear

    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)).requires_grad_(False)
    products.multiply_well(model)
    model.insert(0, LoraLinear(model.pop(0), lora_a=_random(2, 6), lora_b=_random(6, 2), scale=1.0, dropout=0.0))
    with torch.profiler.profile() as profile:
        model(_random(4, 6)).sum().backward()
    names = [event.key for event in profile.key_averages()]
    assert "mkldnn::_linear_pointwise" in names and not {"aten::mm", "aten::addmm", "aten::linear"} & set(names), names


def test_other_number_formats_stay_with_torch() -> None:
    x, weight = _random(3, 8).bfloat16(), _random(5, 8).bfloat16()
    torch.testing.assert_close(products.product(x, weight), torch.nn.functional.linear(x, weight), rtol=0, atol=0)


@pytest.mark.parametrize("adapted", [False, True])
def test_packed_copies_stand_for_the_weights(adapted: bool) -> None:
    from mlxtune.backends.torch.lora import LoraLinear

    plain = torch.nn.Linear(64, 48).requires_grad_(False)
    base = torch.nn.Linear(64, 48).requires_grad_(False)
    base.load_state_dict(plain.state_dict())
    products.multiply_well(torch.nn.Sequential(base))
    products.pack([base], most_bytes=2 * 64 * 48 * 4)
    base.weight.data.zero_()  # what follows comes from the copies
    low = {"lora_a": _random(4, 64), "lora_b": _random(48, 4), "scale": 0.7, "dropout": 0.0}
    layers = [LoraLinear(layer, **low) for layer in (base, plain)] if adapted else [base, plain]
    for rows in (1, 4, 600):
        x, outer = _random(rows, 64).requires_grad_(), _random(rows, 48)
        outs = [layer(x) for layer in layers]
        torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(*(torch.autograd.grad(out, x, outer)[0] for out in outs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("most_bytes", "dtype"), [(2 * 64 * 48 * 4 - 1, torch.float32), (1 << 20, torch.bfloat16)])
def test_no_copies_where_they_take_too_much_or_serve_nothing(most_bytes: int, dtype) -> None:
    layer = torch.nn.Linear(64, 48, bias=False, dtype=dtype)
    products.multiply_well(torch.nn.Sequential(layer))
    products.pack([layer], most_bytes=most_bytes)
    assert products.packed_of(layer) == (None, None)


@pytest.mark.parametrize("savings", [{}, {"checkpointing": True}, {"compiled": True}], ids=["plain", "least memory", "compiled"])
def test_a_training_packs_text_layers_and_head(savings: dict[str, bool], open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda layer: layer)  # takes minutes, and a C++ compiler
    engine = open_("torch")
    model = engine.backend.model

    def packed() -> set:
        return {module for module in model.model.modules() if products.packed_of(module) != (None, None)}

    attach(engine, **savings)
    assert not packed(), "who only asks needs none"
    train(engine, encode(engine, examples(2)), TrainSpec(steps=1, batch_size=2))
    text = {module for part in (model.text, model.head) for module in part.modules() if isinstance(module, products.Linear)}
    assert text and packed() == (set() if savings else text)


def test_losses_with_and_without_copies(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses() -> list[float]:
        engine = open_("torch")
        attach(engine, random_b=True)
        return [result.loss for result in train(engine, encode(engine, examples(4)), TrainSpec(steps=3, batch_size=2))]

    with_copies = losses()
    monkeypatch.setattr("mlxtune.backends.torch.backend.pack", lambda *_, **__: None)
    assert with_copies == pytest.approx(losses(), abs=1e-5)
