"""Donut's pictures, windows and prompts against transformers and UniChart's own training code; its encoder on both backends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.adapters import new_adapter
from mlxtune.backends import installed, load_backend
from mlxtune.backends.base import Loading
from mlxtune.engine import open_engine
from mlxtune.errors import AdapterError, DataError, ModelError
from mlxtune.families import FAMILIES, load_processor, read_config
from mlxtune.families.donut import DonutProcessor, apart, parts_of, relative_places, stage_sizes, window_shift
from mlxtune.generation import generate
from mlxtune.recipe import LoraSpec, ModelSpec
from mlxtune.types import Pixels
from tests.helpers import models, oracle
from tests.helpers.families.base import patch, random_weights, write_json
from tests.helpers.families.donut import DECODER, ENCODER, inputs, write_files, write_tokenizer
from tests.helpers.family_checks import assert_same_pixels, asset
from tests.helpers.rows import example, examples, picture
from tests.helpers.training import encode, mean_loss


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="the random models are made with torch")
    return models.build("donut", tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


def processor_of(folder: Path, **pixels: int) -> DonutProcessor:
    processor = load_processor(folder, **pixels)
    assert isinstance(processor, DonutProcessor)
    return processor


def pieces(processor: DonutProcessor, row: Any) -> list[str]:
    ids = processor.encode(row, max_tokens=None, answer=True).input_ids.tolist()
    return processor.tokenizer.convert_ids_to_tokens(ids)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_chart_has_the_tokens_that_the_list_of_models_says(folder: Path) -> None:
    published = {"unichart": ([960, 960], 10), "donut-base": ([1920, 2560], 10), "cord-v2": ([960, 1280], 10)}
    published |= {"docvqa": published["donut-base"]}
    write_json(folder / "config.json", _config(ENCODER | {"depths": [2, 2, 14, 2], "num_heads": [4, 8, 16, 32]}))
    for known in FAMILIES["donut"].known_models:
        size, window = next(value for name, value in reversed(published.items()) if name in known.id)
        patch(folder / "preprocessor_config.json", size=size)
        processor = processor_of(folder)
        assert processor.image_tokens(processor.grid((850, 600))) == known.image_tokens
        assert min(stage_sizes(processor.parts.encoder, tuple(size[::-1]))[-1]) >= window


def _config(encoder: dict[str, Any]) -> dict[str, Any]:
    from tests.helpers.families.donut import published

    return published({**DECODER, "vocab_size": 192}, encoder, tied=True)


@pytest.mark.parametrize("size", [(160, 100), (100, 160), (240, 200), (1, 1), (1000, 7)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"do_align_long_axis": True},
        {"do_align_long_axis": True, "size": [240, 200]},
        {"size": {"height": 210, "width": 230}},
        {"resample": 0},
        {"resample": 3, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
    ],
    ids=str,
)
def test_pixels_with_other_settings(folder: Path, settings: dict[str, Any], size: tuple[int, int]) -> None:
    patch(folder / "preprocessor_config.json", **settings)
    assert_same_pixels(processor_of(folder), picture(3, size))


@pytest.mark.parametrize(
    ("pixels", "frame"),  # height, width; published: 240 x 200, a step is 16 pixels, a window 64
    [
        ({}, (240, 200)),
        ({"max_pixels": 48_000}, (240, 200)),
        ({"max_pixels": 47_999}, (224, 192)),
        ({"max_pixels": 12_000}, (112, 96)),
        ({"max_pixels": 100}, (64, 64)),
        ({"min_pixels": 192_000}, (480, 400)),
        ({"min_pixels": 60_000}, (272, 224)),
        ({"min_pixels": 60_000, "max_pixels": 12_000}, (112, 96)),
    ],
    ids=str,
)
def test_the_recipe_decides_the_frame(folder: Path, pixels: dict[str, int], frame: tuple[int, int]) -> None:
    processor = processor_of(folder, **pixels)
    assert processor.grid((850, 600)) == frame
    assert_same_pixels(processor, picture(2, (850, 600)))
    assert processor.pixels(picture(2)).tokens == np.prod(stage_sizes(ENCODER, frame)[-1])


def test_slivers_are_refused(folder: Path) -> None:
    processor = processor_of(folder)
    for size in ((201, 1), (1, 500)):
        with pytest.raises(DataError, match=f"{size[0]} x {size[1]} pixels is too narrow for 200 x 240"):
            processor.grid(size)
    patch(folder / "preprocessor_config.json", size=[72, 96])
    with pytest.raises(DataError, match="too narrow"):  # nothing of it would be left
        processor_of(folder).grid((5, 700))


@pytest.mark.parametrize(
    ("values", "said"),
    [({"do_pad": False}, "do_pad is false"), ({"do_thumbnail": False}, "do_thumbnail"), ({"size": 960}, "size is 960")],
)
def test_settings_that_bring_pictures_to_no_common_size(folder: Path, values: dict[str, Any], said: str) -> None:
    patch(folder / "preprocessor_config.json", **values)
    with pytest.raises(ModelError, match=f"preprocessor_config.json: .*{said}"):
        processor_of(folder).grid((30, 30))


# -- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [2, 3, 4, 7, 10])
def test_places_and_masks_are_those_of_transformers(window: int) -> None:
    pytest.importorskip("torch")
    import torch
    from transformers import DonutSwinConfig
    from transformers.models.donut.modeling_donut_swin import DonutSwinLayer

    config = DonutSwinConfig(window_size=window, embed_dim=8)
    layer = DonutSwinLayer(config, 8, (40, 40), 2, shift_size=window // 2)
    assert np.array_equal(relative_places(window), layer.attention.self.relative_position_index.numpy())
    for rows, columns in ((window, 2 * window), (3 * window, 2 * window), (4 * window, 5 * window)):
        mask = layer.get_attn_mask(rows, columns, torch.float32, torch.device("cpu"))
        assert np.array_equal(apart(rows, columns, window, window // 2), mask.numpy() != 0)
        assert 0 < apart(rows, columns, window, window // 2).mean() < 1


@pytest.mark.parametrize(("size", "block", "shift"), [((9, 12), 0, 0), ((9, 12), 1, 2), ((4, 12), 1, 0), ((5, 5), 3, 2)])
def test_every_second_block_moves_its_windows_unless_one_covers_the_stage(size: tuple[int, int], block: int, shift: int) -> None:
    assert window_shift(size, 4, block=block) == shift


@pytest.mark.parametrize("size", [(96, 72), (64, 64), (64, 128), (70, 90), (67, 81), (112, 160)], ids=str)
def test_the_encoder_equals_transformers_at_every_size(model: Path, backend: str, size: tuple[int, int]) -> None:
    """Whole windows, padded ones, a stage that is one window, odd sides, sides that no patch divides."""
    import torch

    values = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    reference = oracle.load(model)
    with torch.no_grad():
        expected = reference.enc_to_dec_proj(reference.encoder(torch.from_numpy(values)).last_hidden_state).numpy()
    tokens = int(np.prod(stage_sizes(ENCODER, size)[-1]))
    pixels = [Pixels(key=str(n), values=values[n : n + 1], grid=size, tokens=tokens) for n in range(2)]
    ours = load_backend(backend, model, Loading("float32")).vision_features(pixels)
    np.testing.assert_allclose(np.stack(ours), expected, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 1


def test_an_encoder_as_wide_as_the_decoder_has_no_layer_between_them(tmp_path: Path, backend: str) -> None:
    """As UniChart and Donut are published."""
    pytest.importorskip("torch")
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    write_files(tmp_path)
    patch(tmp_path / "preprocessor_config.json", size=[72, 96])
    write_json(tmp_path / "config.json", _config(ENCODER | {"embed_dim": 16}))
    made = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_pretrained(tmp_path))
    random_weights(made, seed=1)
    made.save_pretrained(tmp_path)
    engine = open_engine(tmp_path, ModelSpec(path=str(tmp_path), precision="float32"), backend=backend)
    assert not parts_of(engine.processor.config).projected
    rows = encode(engine, examples(3))
    assert mean_loss(engine, rows) == pytest.approx(oracle.loss(oracle.load(tmp_path), engine.processor, rows), abs=1e-5)
    with pytest.raises(AdapterError, match="'projector' names no linear layer"):
        new_adapter(engine.backend.linears(), engine.family, LoraSpec(sites=["projector"]), seed=0)


def test_the_picture_is_looked_at_anew_for_no_token(model: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of cross-attention are computed once a layer, however long the answer and however many beams."""
    engine = open_engine(model, ModelSpec(path=str(model), precision="float32"), backend=backend)
    monkeypatch.setitem(vars(engine.processor), "stop_ids", frozenset())
    calls: list[int] = []
    if backend == "torch":
        for layer in engine.backend.model.text.layers:
            layer.encoder_attn.k_proj.register_forward_hook(lambda *_: calls.append(1))
    else:
        for layer in engine.backend.model.text.layers:
            own = layer.encoder_attn.k_proj
            layer.encoder_attn.k_proj = lambda x, own=own: (calls.append(1), own(x))[1]
    prompts = encode(engine, examples(2), answer=False)
    for beams in (1, 3):
        calls.clear()
        generate(engine, prompts, batch_size=2, max_new_tokens=6, num_beams=beams)
        assert len(calls) == 2


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_unicharts_prompt(folder: Path) -> None:
    processor = processor_of(folder)
    row = example(0, question="Is it A?", target="B")
    assert processor.prompt_text(row) == "<chartqa> Is it A? <s_answer>"
    assert pieces(processor, row)[0] == "<chartqa>" and pieces(processor, row)[-4:] == ["<s_answer>", "▁", "B", "</s>"]
    learned = processor.encode(row, max_tokens=None, answer=True)
    start = learned.input_ids.tolist().index(processor.tokenizer.convert_tokens_to_ids("<s_answer>"))
    assert not learned.weights[: start + 1].any() and learned.weights[start + 1 :].all()
    assert learned.crossed and not len(learned.image_rows) and processor.stop_ids == {2}


@pytest.mark.parametrize("target", ["42.5%", "Yes, of course", "1,000", "Côte d'Ivoire"])
@pytest.mark.parametrize("question", ["How tall is the bar?", "Is 12.5% of  it\nblue ?", "Сколько стоит?", "a"])
def test_unicharts_ids_are_those_of_its_own_training_code(question: str, target: str) -> None:
    """`finetune_chartqa.py` tokenizes prompt and answer in one text; labels are what stands behind <s_answer>."""
    processor = load_processor(asset("unichart-base-960"))
    ours = processor.encode(example(0, question=question, target=target), max_tokens=None, answer=True)
    text = f"<chartqa> {question} <s_answer> {target}</s>"
    theirs = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ours.input_ids.tolist() == theirs
    end = theirs.index(processor.tokenizer.convert_tokens_to_ids("<s_answer>"))
    assert ours.weights.tolist() == [0.0] * (end + 1) + [1.0] * (len(theirs) - end - 1)
    assert processor.decode(theirs[end + 1 :]) == target


def test_what_the_published_tokenizer_does_not_know_shows() -> None:
    """No published Donut has a token for a 1 inside a word (clovaai/donut#229): learned as published, and visible."""
    processor = load_processor(asset("unichart-base-960"))
    whole = processor.encode(example(0, target="0.1"), max_tokens=None, answer=True)
    assert processor.decode(whole.input_ids[whole.weights == 1].tolist()) == "0.<unk>"


@pytest.mark.parametrize("text", ["<summarize_chart> <s_answer>", "<opencqa> Why? <s_answer>", "<chartqa> own <s_answer>"])
def test_a_text_that_begins_with_a_task_is_the_whole_prompt(folder: Path, text: str) -> None:
    """Which is how `data.prompt` asks UniChart for its other tasks."""
    assert processor_of(folder).prompt_text(example(0, question=text)) == text
    as_text = replace(example(0), messages=[{"role": "user", "content": text}], images=())
    assert processor_of(folder).rendered(as_text.messages) == text


def test_a_question_that_only_holds_a_task_is_a_question(folder: Path) -> None:
    assert (
        processor_of(folder).prompt_text(example(0, question="what is <opencqa>?")) == "<chartqa> what is <opencqa>? <s_answer>"
    )


DOCVQA = ("<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>")


def test_donut_for_documents(folder: Path) -> None:
    write_tokenizer(folder, DOCVQA)
    processor, row = processor_of(folder), example(0, question="Who?", target="A B")
    assert processor.prompt_text(row) == "<s_docvqa><s_question>Who?</s_question><s_answer>"
    assert pieces(processor, row)[-2:] == ["</s_answer>", "</s>"]
    learned = processor.encode(row, max_tokens=None, answer=True)
    assert processor.decode(learned.input_ids[learned.weights == 1].tolist()) == "A B"


def test_any_other_donut_begins_with_its_start_token_and_keeps_the_form_of_its_answers(folder: Path) -> None:
    write_tokenizer(folder, ("<s_cord>", "<s_total>", "</s_total>"))
    processor, told = processor_of(folder), "<s_total> 5.00</s_total>"
    assert processor.prompt_text(example(0, question="")) == "<s>"
    assert processor.prompt_text(example(0, question="read")) == "<s>read"
    assert processor.prompt_text(example(0, question="<s_cord>")) == "<s_cord>"
    whole = processor.encode(example(0, question="", target=told), max_tokens=None, answer=True)
    assert processor.decode(whole.input_ids[whole.weights == 1].tolist()) == told
    patch(folder / "config.json", decoder_start_token_id=processor.tokenizer.convert_tokens_to_ids("<s_cord>"))
    assert processor_of(folder).prompt_text(example(0, question="")) == "<s_cord>"
    patch(folder / "config.json", decoder_start_token_id=None)
    assert processor_of(folder).prompt_text(example(0, question="read")) == "read"


def test_receipts_of_the_published_tokenizer() -> None:
    processor = load_processor(asset("donut-base-finetuned-sroie"))
    row = example(0, question="", target="<s_total>5.00</s_total><s_date>2018</s_date>")
    whole = processor.encode(row, max_tokens=None, answer=True)
    names = processor.tokenizer.convert_ids_to_tokens(whole.input_ids.tolist())
    assert names[:2] == ["<s>", "<s_total>"] and names[-2:] == ["</s_date>", "</s>"] and "<s_date>" in names
    assert processor.decode(whole.input_ids[1:].tolist()).replace("> ", ">") == row.target


def test_a_letter_that_is_written_out_is_not_taken_for_short(folder: Path) -> None:
    processor, long = processor_of(folder), example(0, question="\ufdfa" * 20)
    length = len(processor.encode(long, max_tokens=None, answer=True).input_ids)
    assert length > sum(len(part["text"].encode()) for part in long.messages[0]["content"] if "text" in part) + 64
    assert not processor.surely_fits(long, max_tokens=length - 1)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_rows_longer_than_the_models_positions(model: Path, backend: str, tmp_path: Path) -> None:
    processor = processor_of(model)
    row = example(0, question="a" * 1100)
    for answer in (False, True):
        with pytest.raises(DataError, match="row 0: .* tokens, but this model has positions for 1024"):
            processor.encode(row, max_tokens=None, answer=answer)
    assert not processor.surely_fits(row, max_tokens=10**6)
    engine = open_engine(model, ModelSpec(path=str(model), precision="float32"), backend=backend)
    prompt = engine.processor.encode(example(0), max_tokens=None, answer=False)
    length = len(prompt.input_ids)
    for beams in (1, 2):
        with pytest.raises(
            DataError, match=rf"row 0: {length} tokens and an answer of up to {1025 - length}, .* evaluate.max_new"
        ):
            generate(engine, [prompt], batch_size=1, max_new_tokens=1025 - length, num_beams=beams)


@pytest.mark.parametrize(("part", "kind"), [("encoder", "vit"), ("decoder", "trocr"), ("encoder", None)])
def test_other_vision_encoder_decoders(model: Path, tmp_path: Path, backend: str, part: str, kind: str | None) -> None:
    config = json.loads((model / "config.json").read_text())
    config[part] = {**config[part], "model_type": kind}
    write_json(tmp_path / "config.json", config)
    for load in (lambda: load_processor(tmp_path), lambda: load_backend(backend, tmp_path, Loading("float32"))):
        (tmp_path / "preprocessor_config.json").write_text("{}")
        with pytest.raises(ModelError, match=rf"config.json: the {part} is '{kind}', but") as caught:
            load()
        assert "\n" not in str(caught.value)


def test_sizes_that_a_configuration_leaves_out_are_transformers_own(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import DonutSwinConfig, MBartConfig

    bare = {"model_type": "vision-encoder-decoder", "encoder": {"model_type": "donut-swin"}, "decoder": {"model_type": "mbart"}}
    write_json(tmp_path / "config.json", bare)
    parts = parts_of(read_config(tmp_path))
    encoder, decoder = DonutSwinConfig(), MBartConfig()
    kept = {key: value for key, value in parts.encoder.items() if key != "model_type"}
    assert {key: list(v) if isinstance(v := getattr(encoder, key), tuple) else v for key in kept} == kept
    kept = {key: value for key, value in parts.decoder.items() if key not in ("model_type", "cross_attention_hidden_size")}
    assert {key: getattr(decoder, key) for key in kept} == kept
    assert parts.encoder_width == encoder.hidden_size


def test_only_the_decoders_layers_are_quantised_on_a_card(model: Path) -> None:
    pytest.importorskip("torch")
    from transformers.quantizers.quantizers_utils import should_convert_module

    from mlxtune.backends.torch.loading import _KEPT

    family, linears = FAMILIES["donut"], load_backend("torch", model, Loading("float32")).linears()
    converted = {name for name in linears if should_convert_module(name, _KEPT)}
    assert converted == {name for name in linears if family.group_of(name) in ("attention", "mlp")}


def test_rows_of_the_oracle_are_those_of_the_batch(model: Path) -> None:
    """Two rows of one picture each: the helper that asks transformers mixes none of them up."""
    pytest.importorskip("torch")
    processor = processor_of(model)
    rows = [processor.encode(example(number), max_tokens=None, answer=True) for number in (0, 1)]
    tensors = inputs(processor, rows)
    assert tensors["pixel_values"].shape[0] == 2 and tensors["decoder_attention_mask"].sum(1).tolist() == [
        len(row.input_ids) for row in rows
    ]
