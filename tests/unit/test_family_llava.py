"""LLaVA against transformers: pixels, prompts, where a row begins and an answer ends, layouts of weights, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends import installed
from mlxtune.batching import collate
from mlxtune.engine import Engine, open_engine
from mlxtune.errors import DataError, MlxtuneError, ModelError, RecipeError
from mlxtune.families import FAMILIES, Processor, family_of, load_processor, read_config
from mlxtune.families.llava import feature_levels, filled, taken
from mlxtune.recipe import LoraSpec, ModelSpec, TrainSpec
from tests.helpers import models, oracle
from tests.helpers.families import llava
from tests.helpers.families.base import patch, rename, write_json
from tests.helpers.family_checks import assert_same_pixels, asset
from tests.helpers.layouts import assert_same_layout
from tests.helpers.rows import example, examples, picture
from tests.helpers.training import attach, encode, largest_difference, mean_loss, train
from tests.unit.test_families import conversation

SAIGA = "llava-saiga-8b"
CLIP = {"model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "patch_size": 14}
CLIP |= {"num_attention_heads": 16, "num_hidden_layers": 24, "projection_dim": 768, "vocab_size": 32_000}
# As llava-hf/llava-1.5-7b-hf has it: almost no size of the text model is named.
LLAVA_7B = {"model_type": "llava", "image_token_index": 32_000, "pad_token_id": 32_001, "vision_config": CLIP}
LLAVA_7B |= {"text_config": {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32_064}}
LLAVA_7B |= {"vision_feature_layer": -2, "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llava.write_files(tmp_path)
    return tmp_path


@pytest.fixture
def processor(folder: Path) -> Processor:
    return load_processor(folder)


def published_processor(processor: Processor) -> Any:
    """transformers' own, with the settings that LLaVA-Saiga's files lack."""
    from transformers import LlavaProcessor

    settings = {"patch_size": processor.config.vision["patch_size"], "vision_feature_select_strategy": "default"}
    shell = object.__new__(LlavaProcessor)  # its constructor wants torchvision
    vars(shell).update(settings, num_additional_image_tokens=1, image_token="<image>")
    return shell


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"size": 80}, {"size": {"height": 56, "width": 56}}, {"resample": 2}, {"crop_size": 56}])
def test_pixels_follow_the_settings(folder: Path, changes: dict[str, Any]) -> None:
    patch(folder / "preprocessor_config.json", **changes)
    processor = load_processor(folder)
    rng = np.random.default_rng(0)
    for width, height in np.exp(rng.uniform(0, np.log(190), (60, 2))).astype(int):
        assert_same_pixels(processor, picture(int(width), (int(width), int(height))))


@pytest.mark.parametrize("size", [(60, 40), (41, 60), (57, 57), (3, 100)], ids=str)
def test_pictures_are_laid_on_a_square_where_the_settings_say_so(folder: Path, size: tuple[int, int]) -> None:
    patch(folder / "preprocessor_config.json", image_processor_type="LlavaImageProcessor", do_pad=True)
    assert_same_pixels(load_processor(folder), picture(1, size))


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_as_many_placeholders_as_the_published_processor_writes(processor: Processor, pictures: int) -> None:
    row = example(1, pictures=pictures)
    text = processor.rendered(row.messages)
    shell = published_processor(processor)
    for number in range(pictures):
        values = [processor.pixels(image).values[0] for image in row.images]
        text = text.replace("<image>", shell.replace_image_token({"pixel_values": values}, number).replace("<image>", "<\0>"), 1)
    assert processor.prompt_text(row) == text.replace("<\0>", "<image>")


def test_saiga_gives_576_tokens_though_its_processor_names_no_patch_size() -> None:
    processor = load_processor(asset(SAIGA))
    assert "patch_size" not in json.loads((processor.config.folder / "processor_config.json").read_text())
    row = processor.encode(example(1), max_tokens=None, answer=True)
    assert len(row.image_rows) == 576 and set(row.input_ids[row.image_rows].tolist()) == {128_256}
    assert processor.pad_id == 128_257 and row.input_ids.max() < 128_320
    assert processor.pixels(picture(0)).values.shape == (1, 3, 336, 336)
    assert {model.image_tokens for model in processor.family.known_models} == {576}


@pytest.mark.parametrize(("strategy", "tokens"), [("default", 16), ("full", 17)])
def test_the_class_token_counts_where_it_is_kept(folder: Path, strategy: str, tokens: int) -> None:
    patch(folder / "config.json", vision_feature_select_strategy=strategy)
    assert load_processor(folder).image_tokens((4, 4)) == tokens


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [True, False], ids=["a space before every text", "a space before the first"])
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_a_row_of_llava_1_5_is_tokenized_as_one_text(folder: Path, legacy: bool, pictures: int) -> None:
    llava.write_tokenizer(folder, legacy=legacy)
    processor = load_processor(folder)
    row = example(0, pictures=pictures, question="Is it blue?", target="yes, 42")
    image = "<image>" * 16 + "\n"
    prompt = f"USER: {image * pictures}Is it blue? ASSISTANT:"
    ids = processor.tokenizer(prompt)["input_ids"]
    assert ids[0] == processor.tokenizer.bos_token_id
    assert processor.encode(row, max_tokens=None, answer=False).input_ids.tolist() == ids
    whole = processor.encode(row, max_tokens=None, answer=True)
    assert whole.input_ids.tolist() == processor.tokenizer(f"{prompt} yes, 42</s>")["input_ids"]
    assert processor.tokenizer.convert_ids_to_tokens(whole.input_ids[len(ids) :].tolist()) == ["▁yes,", "▁42", "</s>"]


@pytest.mark.parametrize("legacy", [True, False], ids=["a space before every text", "a space before the first"])
def test_each_answer_of_a_conversation_ends_as_in_training(folder: Path, legacy: bool) -> None:
    llava.write_tokenizer(folder, legacy=legacy)
    processor = load_processor(folder)
    row = conversation(pictures=1)
    row = replace(row, messages=[{"role": "system", "content": "Be brief."}, *row.messages])
    text = processor.prompt_text(row)
    asked = "Is it blue? (1)"
    image = "<image>" * 16
    said = f"Be brief. USER: {image}\n{asked} ASSISTANT:  In 2003, it is\n 7. </s>USER: And then? ASSISTANT: да</s>USER: Why? "
    assert text == f"{said}ASSISTANT:"
    ids = processor.encode(row, max_tokens=None, answer=True).input_ids.tolist()
    assert ids == processor.tokenizer(f"{text} because</s>")["input_ids"]
    assert ids.count(1) == 1 and ids.count(2) == 3


def test_a_row_of_saiga_begins_once_and_pictures_have_lines_of_their_own() -> None:
    processor = load_processor(asset(SAIGA))
    row = example(1, pictures=2, question="Что это?", target=" Чай ")
    row = replace(row, messages=[{"role": "system", "content": "Ты — Сайга."}, *row.messages])
    turn = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
    pictures = "<image>" * 576 + "\n"
    text = "<|begin_of_text|>" + turn.format("system", "Ты — Сайга.") + turn.format("user", f"{pictures * 2}Что это?")
    text += "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ids = processor.encode(row, max_tokens=None, answer=True).input_ids.tolist()
    # Apart: the stand-in tokenizer, unlike Llama 3's, would cut "\n\n" where a word follows, and generation has none there yet.
    prompt, answer = (processor.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, "Чай<|eot_id|>"))
    assert ids == prompt + answer
    assert ids.count(128_000) == 1 and processor.tokenizer(text)["input_ids"].count(128_000) == 2
    assert {128_009} <= processor.stop_ids


def test_the_order_of_pictures_and_texts_is_kept_for_a_template_of_strings() -> None:
    processor = load_processor(asset(SAIGA))
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}, {"type": "image"}, {"type": "text", "text": "?"}]
    assert "\n\none two\n<image>\n?<|eot_id|>" in processor.rendered([{"role": "user", "content": parts}])


def test_a_template_that_cannot_add_lists_is_given_strings(folder: Path) -> None:
    jinja = "{% for m in messages %}{{ m['role'] + '> ' + m['content'] + '</s>' }}{% endfor %}"
    write_json(folder / "chat_template.json", {"chat_template": jinja + "{% if add_generation_prompt %}assistant> {% endif %}"})
    processor = load_processor(folder)
    assert processor.prompt_text(example(1, question="why?")) == f"user> {'<image>' * 16}\nwhy?</s>assistant> "
    assert processor.encode(example(1), max_tokens=None, answer=True).input_ids.tolist().count(2) == 2


def test_where_a_template_may_stand(folder: Path) -> None:
    mine = "{{ 'mine ' }}{% for m in messages %}{{ m['role'] }}{% endfor %}"
    (folder / "chat_template.json").unlink()
    row = example(0, pictures=0)
    with pytest.raises(ModelError, match="no chat template"):
        load_processor(folder).prompt_text(row)
    patch(folder / "processor_config.json", chat_template=mine)
    assert load_processor(folder).prompt_text(row) == "mine user"
    write_json(folder / "chat_template.json", {"chat_template": llava.TEMPLATE})
    assert load_processor(folder).prompt_text(row).startswith("USER: ")


# -- refusals ---------------------------------------------------------------------------------------------------------


def refusal(kind: type[MlxtuneError], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("max_pixels", 56 * 56 - 1), ("min_pixels", 56 * 56 + 1), ("max_pixels", 1)])
def test_an_area_that_cannot_be_kept_is_refused(folder: Path, key: str, value: int) -> None:
    message = refusal(RecipeError, lambda: load_processor(folder, **{key: value}))
    assert message.startswith(f"model.{key}: {value} cannot be kept") and "56 x 56 = 3136 pixels. Set it to null" in message


def test_an_area_that_is_kept_anyway_is_taken(folder: Path) -> None:
    assert load_processor(folder, min_pixels=3136, max_pixels=3136).grid((9, 9)) == (4, 4)
    assert load_processor(folder, min_pixels=1, max_pixels=10**6).grid((999, 9)) == (4, 4)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("preprocessor_config.json", {"do_resize": False}, "do_resize is off"),
        ("preprocessor_config.json", {"image_mean": None}, "no 'image_mean'"),
        ("preprocessor_config.json", {"size": None}, "no 'size'"),
        ("preprocessor_config.json", {"crop_size": {"height": 56, "width": 70}}, "70 x 56 pixels, but the vision tower"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 50}}, "takes 56 x 56"),
        ("preprocessor_config.json", {"do_center_crop": False, "size": {"height": 70, "width": 70}}, "70 x 70 pixels"),
        ("config.json", {"vision_feature_layer": -5}, "vision_feature_layer -5 is no layer of a tower of 3"),
        ("config.json", {"vision_feature_layer": []}, "vision_feature_layer []"),
        ("config.json", {"vision_feature_select_strategy": "cls"}, "'cls' is neither default nor full"),
        ("config.json", {"text_config": {"model_type": "qwen2"}}, "text_config is a 'qwen2'"),
        ("config.json", {"vision_config": {"model_type": "siglip_vision_model"}}, "vision_config is a 'siglip_vision_model'"),
    ],
)
def test_files_that_cannot_be_followed(folder: Path, file: str, changes: dict[str, Any], said: str) -> None:
    patch(folder / file, **changes)
    message = refusal(ModelError, lambda: load_processor(folder))
    assert said in message and file in message


def test_a_picture_that_is_too_narrow(processor: Processor) -> None:
    processor.grid((200, 1))
    assert "1 x 201 pixels is too narrow" in refusal(DataError, lambda: processor.grid((1, 201)))


def test_a_tokenizer_without_the_placeholder(folder: Path) -> None:
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["added_tokens"] = [token for token in stored["added_tokens"] if token["content"] != "<image>"]
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    message = refusal(ModelError, lambda: load_processor(folder).encode(example(0), max_tokens=None, answer=True))
    assert "no token '<image>'" in message


# -- weights ----------------------------------------------------------------------------------------------------------


def test_sizes_that_the_hub_leaves_out_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoConfig

    write_json(tmp_path / "config.json", LLAVA_7B)
    for folder in (tmp_path, asset(SAIGA)):
        ours, theirs = filled(read_config(folder)), AutoConfig.for_model("llava").from_pretrained(folder)
        for mine, yours in ((ours.text, theirs.text_config), (ours.vision, theirs.vision_config)):
            keys = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "rms_norm_eps"}
            keys |= {"image_size", "patch_size", "hidden_act", "layer_norm_eps"}
            assert {k: v for k, v in mine.items() if k in keys} == {k: getattr(yours, k) for k in keys if k in mine}
        assert ours.text["rope_theta"] == theirs.text_config.rope_parameters["rope_theta"]
        assert not ours.tied and taken(ours) == ((23,), False)
        assert_same_layout(folder)


@pytest.mark.parametrize(
    ("published_name", "name"),
    [
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("language_model.model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"),
        ("multi_modal_projector.linear_1.bias", "model.multi_modal_projector.linear_1.bias"),
        ("vision_tower.vision_model.embeddings.class_embedding", "model.vision_tower.embeddings.class_embedding"),
        ("vision_tower.pre_layrnorm.weight", "model.vision_tower.pre_layrnorm.weight"),
        ("model.vision_tower.vision_model.encoder.layers.0.mlp.fc1", "model.vision_tower.encoder.layers.0.mlp.fc1"),
    ],
)
def test_every_naming_has_one_canonical_form(published_name: str, name: str) -> None:
    assert FAMILIES["llava"].canonical(published_name) == name
    assert FAMILIES["llava"].canonical(name) == name


@pytest.mark.parametrize("said, levels", [(-2, (2,)), (-1, (3,)), (0, (0,)), (3, (3,)), ([-2, 1], (2, 1))])
def test_levels_are_counted_as_transformers_counts_hidden_states(said: Any, levels: tuple[int, ...]) -> None:
    assert feature_levels(said, layers=3) == levels
    assert tuple(range(4)[level] for level in (said if isinstance(said, list) else [said])) == levels


def test_layers_that_never_run_get_no_adapter(folder: Path) -> None:
    patch(folder / "config.json", vision_feature_layer=-2)
    family = family_of(read_config(folder))
    sites = [f"model.vision_tower.encoder.layers.{number}.mlp.fc1" for number in range(3)]
    assert [family.group_of(site) for site in sites] == ["vision", "vision", None]
    patch(folder / "config.json", vision_feature_layer=[0, -1])
    assert family_of(read_config(folder)).group_of(sites[2]) == "vision"


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("torch", reason="the random models are made with torch")
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


def opened(folder: Path, backend: str) -> Engine:
    return open_engine(folder, ModelSpec(path=str(folder), precision="float32"), backend=backend)


def assert_same_logits(folder: Path, backend: str) -> None:
    engine, reference = opened(folder, backend), oracle.load(folder)
    rows = [engine.processor.encode(example(n, pictures=n), max_tokens=None, answer=True) for n in (1, 2)]
    for row in rows:
        row = replace(row, weights=np.r_[0, np.ones(len(row.weights) - 1)].astype(np.float32))
        ours = engine.backend.logits(collate([row], pad_id=engine.processor.pad_id, pictures=engine.pictures))
        theirs = oracle.logits(reference, engine.processor, [row])[0, :-1]
        np.testing.assert_allclose(ours[: len(theirs)], theirs, atol=1e-4, rtol=0)


NAMINGS = {
    "vision_model, as LLaVA-1.5 has it": (("vision_tower.", "vision_tower.vision_model."),),
    "as transformers 5 saves it": (),
    "by module": llava.BY_MODULE,
    "by module, of transformers 4": (
        *llava.BY_MODULE[:2],
        ("vision_tower.", "model.vision_tower.vision_model."),
        *llava.BY_MODULE[3:],
    ),
}


@pytest.mark.parametrize("prefixes", NAMINGS.values(), ids=NAMINGS)
def test_every_naming_of_weights_loads(backend: str, folder: Path, prefixes: Any) -> None:
    llava.build(folder, seed=1, tied=False, nested=True, assets=None)
    rename(folder, tuple((new, old) for old, new in llava.BY_MODULE))
    rename(folder, prefixes)
    assert_same_logits(folder, backend)


VARIANTS: dict[str, dict[str, Any]] = {
    "all tokens": {"vision_feature_select_strategy": "full"},
    "last layer": {"vision_feature_layer": -1},
    "two levels": {"vision_feature_layer": [-2, 1]},
    "another activation": {"projector_hidden_act": "gelu_pytorch_tanh"},
    "no bias": {"multimodal_projector_bias": False},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_variants_of_the_features_equal_transformers(backend: str, folder: Path, changes: dict[str, Any]) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from tests.helpers.families.base import save

    llava.build(folder, seed=1, tied=False, nested=True, assets=None)
    patch(folder / "config.json", **changes)
    save(LlavaForConditionalGeneration(LlavaConfig.from_pretrained(folder)), folder, seed=2)
    assert_same_logits(folder, backend)


@pytest.mark.parametrize("kind", ["rope_parameters", "rope_scaling"])
def test_rotary_scaling_is_read_by_torch_and_refused_by_mlx(backend: str, folder: Path, kind: str) -> None:
    nested = kind == "rope_parameters"
    llava.build(folder, seed=1, tied=False, nested=nested, assets=None)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    scaling = {"rope_theta": 20_000.0} if nested else {}
    text[kind] = {**scaling, "rope_type": "linear", "factor": 4.0}
    patch(folder / "config.json", text_config=text)
    if backend == "torch":
        assert_same_logits(folder, backend)
        return
    assert "type 'linear' are not built for MLX. Use backend: torch" in refusal(ModelError, lambda: opened(folder, backend))


SPEC = TrainSpec(steps=30, batch_size=8, micro_batch_size=4, learning_rate=5e-3, warmup=0.0, clip=1.0, seed=5)


def test_the_projector_alone_learns_and_alike_on_both_backends(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    if not installed("mlx"):
        pytest.skip("backend 'mlx' is not installed")
    folder = models.build("llava", tmp_path, tied=False)
    runs = []
    for name in ("mlx", "torch"):
        engine = opened(folder, name)
        adapter = attach(engine, LoraSpec(rank=4, alpha=8, sites=["projector"]))
        assert adapter.sites == tuple(f"model.multi_modal_projector.linear_{n}" for n in (1, 2))
        rows = encode(engine, [row for row in examples(16) if row.images])
        before = mean_loss(engine, rows)
        losses = [result.loss for result in train(engine, rows, SPEC)]
        assert mean_loss(engine, rows) < before - 0.1
        runs.append((losses, engine.backend.adapter()))
    (ours, adapter), (theirs, other) = runs
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert largest_difference(adapter, other) <= 1e-3


def test_a_folder_without_picture_settings(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copied = Path(shutil.copytree(folder, tmp_path_factory.mktemp("bare") / "model"))
    (copied / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json: no such file" in refusal(ModelError, lambda: load_processor(copied))
