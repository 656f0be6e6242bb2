"""What every family computes without a framework, against the published processors; and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlxtune.errors import DataError, ModelError
from mlxtune.families import FAMILIES, Processor, family_of, load_processor, read_config
from tests.helpers.families import FIXTURES
from tests.helpers.families.base import TINY, write_json
from tests.helpers.family_checks import assert_same_pixels, asset
from tests.helpers.rows import example, picture

# width, height: ordinary, tiny, at the borders of rounding, and as narrow as is allowed
SIZES = [(160, 100), (70, 120), (1, 1), (3, 2), (27, 29), (28, 28), (56, 56), (57, 55), (113, 112), (42, 70), (98, 14)]
SIZES += [(400, 2), (2, 399), (600, 4), (5, 700), (850, 600), (601, 849), (1024, 31), (333, 333), (199, 1)]
PUBLISHED = [(family, name) for family, fixture in FIXTURES.items() for name in fixture.assets]


@pytest.fixture(scope="session", params=list(FAMILIES))
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Processor:
    folder = tmp_path_factory.mktemp(request.param)
    FIXTURES[request.param].write_files(folder)
    return load_processor(folder)


def skip_unless_taken(processor: Processor, pictures: int) -> None:
    if not processor._takes(pictures):
        pytest.skip(f"a row of {processor.family.name} has {processor.family.pictures[0]} picture; another test sees it refused")


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_equal_the_published_processor_bit_for_bit(processor: Processor, size: tuple[int, int]) -> None:
    pytest.importorskip("transformers")
    assert_same_pixels(processor, picture(sum(size), size))


@pytest.mark.parametrize(("family", "name"), PUBLISHED, ids=[name for _, name in PUBLISHED])
@pytest.mark.parametrize("size", [(850, 600), (30, 41), (1300, 40), (37, 1100), (512, 512), (2100, 1500)], ids=str)
def test_pixels_with_the_published_settings(family: str, name: str, size: tuple[int, int]) -> None:
    assert_same_pixels(load_processor(asset(name)), picture(1, size))


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_training_text_begins_with_what_generation_starts_from(processor: Processor, pictures: int) -> None:
    skip_unless_taken(processor, pictures)
    row = example(2, pictures=pictures)
    prompt = processor.encode(row, max_tokens=None, answer=False)
    whole = processor.encode(row, max_tokens=None, answer=True)
    assert whole.input_ids[: len(prompt.input_ids)].tolist() == prompt.input_ids.tolist()
    assert not prompt.weights.any()
    learned = whole.input_ids[whole.weights == 1]
    assert len(learned) == len(whole.input_ids) - len(prompt.input_ids)
    assert int(learned[-1]) in processor.stop_ids and not set(learned[:-1].tolist()) & processor.stop_ids
    assert processor.decode(learned.tolist()) == row.target
    features = sum(processor.pixels(image).tokens for image in row.images)
    assert len(whole.image_rows) == (0 if processor.crossed else features)
    assert not whole.weights[whole.image_rows].any()


@pytest.mark.parametrize(("family", "name"), PUBLISHED, ids=[name for _, name in PUBLISHED])
def test_published_files_end_answers_where_training_does(family: str, name: str) -> None:
    processor = load_processor(asset(name))
    whole = processor.encode(example(3), max_tokens=None, answer=True)
    assert processor.family.name == family
    assert processor.tokenizer.convert_ids_to_tokens(int(whole.input_ids[-1])) == FIXTURES[family].ends[name]
    assert int(whole.input_ids[-1]) in processor.stop_ids
    assert processor.pad_id < 2**31


def conversation(*, pictures: int) -> Any:
    """Three questions; the first shows the pictures, the second is answered with white space around the answer."""
    row = example(1, pictures=pictures)
    later = [(" In 2003, it is\n 7. ", "And then?"), ("да", "Why?")]
    turns = [(("assistant", answer), ("user", asked)) for answer, asked in later]
    said = [{"role": role, "content": [{"type": "text", "text": text}]} for pair in turns for role, text in pair]
    return replace(row, messages=[*row.messages, *said], target="because")


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_answers_of_earlier_turns_are_learned_and_nothing_else(processor: Processor, pictures: int) -> None:
    skip_unless_taken(processor, pictures)
    if not processor.several_turns:
        with pytest.raises(DataError, match="row 1: .*turns"):
            processor.encode(conversation(pictures=pictures), max_tokens=None, answer=True)
        return
    row = conversation(pictures=pictures)
    whole = processor.encode(row, max_tokens=None, answer=True)
    edges = np.flatnonzero(np.diff(whole.weights, prepend=0, append=0)).reshape(-1, 2)
    learned = [whole.input_ids[start:end].tolist() for start, end in edges]
    assert [processor.decode(ids) for ids in learned] == ["In 2003, it is\n 7.", "да", "because"]
    assert all(ids[-1] in processor.stop_ids for ids in learned)
    # What the first answer is learned from is what generation would start from, had nobody asked on.
    alone = processor.encode(replace(row, messages=row.messages[:1]), max_tokens=None, answer=False).input_ids
    assert whole.input_ids[: edges[0][0]].tolist() == alone.tolist()
    prompt = processor.encode(row, max_tokens=None, answer=False)
    assert whole.input_ids[: len(prompt.input_ids)].tolist() == prompt.input_ids.tolist() and not prompt.weights.any()


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_what_surely_fits_fits(processor: Processor, pictures: int) -> None:
    skip_unless_taken(processor, pictures)
    texts = ["a", "Сколько стоит 12.5% of <tea>?\n  «да»", "\x00\u200bé" * 40, " " * 100, "<|im_end|><end_of_utterance>"]
    rows = [example(n, pictures=pictures, question=text, target=text or "x") for n, text in enumerate(texts)]
    for row in (*rows, *([conversation(pictures=pictures)] if processor.several_turns else [])):
        length = len(processor.encode(row, max_tokens=None, answer=True).input_ids)
        assert not processor.surely_fits(row, max_tokens=length - 1)
        assert processor.surely_fits(row, max_tokens=length + 600 + 4 * len(row.target.encode()))
    token = processor.image_token
    wrong = [replace(rows[0], target=token), replace(rows[0], images=(*rows[0].images, picture(9)))]
    assert not any(processor.surely_fits(row, max_tokens=10**6) for row in (*wrong, example(0, question=f"{token}?")))


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_row_that_is_too_long_says_what_it_is_made_of(processor: Processor) -> None:
    row = example(0)
    prompt, whole = (processor.encode(row, max_tokens=None, answer=answer) for answer in (False, True))
    length, images = len(whole.input_ids), len(whole.image_rows)
    assert len(processor.encode(row, max_tokens=length, answer=True).input_ids) == length
    with pytest.raises(DataError) as caught:
        processor.encode(row, max_tokens=length - 1, answer=True)
    parts = f"({images} of pictures, {len(prompt.input_ids) - images} of prompt, {length - len(prompt.input_ids)} of answer)"
    assert str(caught.value).startswith(f"row 0: {length} tokens {parts}, the limit is {length - 1}. Raise train.max_tokens")


def test_placeholders_and_pictures_must_agree(processor: Processor) -> None:
    token = processor.image_token
    row = example(0)
    several = processor.family.pictures == (0, None)
    cases: dict[str, dict[str, Any]] = {
        "2 pictures" + " but 1 placeholders" * several: {"images": (*row.images, picture(5))},
        "0 pictures" + " but 1 placeholders" * several: {"images": ()},
        "1 pictures but 2 placeholders": {"messages": example(0, question=f"what is {token}?").messages},
        f"the answer holds '{token}'": {"target": f"it is {token}"},
    }
    for said, change in cases.items():
        with pytest.raises(DataError) as caught:
            processor.encode(replace(row, **change), max_tokens=None, answer=True)
        assert said in str(caught.value) and str(caught.value).startswith("row 0: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ("{}", "names no 'model_type'"),
        ('{"model_type": 3}', "names no 'model_type'"),
        ('{"model_type": "bert"}', "'bert' is no family that mlxtune knows. Use one of: qwen2_5_vl, "),
    ],
)
def test_configurations_that_cannot_be_used(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        family_of(read_config(tmp_path))
    assert said in str(caught.value) and "config.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"donut", "moondream2", "moondream2_phi"}))
def test_a_llama_like_model_with_another_activation_is_refused(family: str, tmp_path: Path) -> None:
    FIXTURES[family].write_files(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config.get("text_config", config)["hidden_act"] = "gelu"
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ModelError, match="config.json: the text model's hidden_act is 'gelu'"):
        load_processor(tmp_path)


def test_a_family_says_how_many_pictures_its_rows_have(processor: Processor) -> None:
    for pictures in (0, 2):
        row = example(0, pictures=pictures)
        if processor._takes(pictures):
            processor.encode(row, max_tokens=None, answer=True)
            continue
        with pytest.raises(DataError, match=f"row 0: {pictures} pictures, but a row of {processor.family.name} has 1. Filter"):
            processor.encode(row, max_tokens=None, answer=True)


@pytest.mark.parametrize(
    ("file", "said"), [("preprocessor_config.json", "preprocessor_config.json"), ("tokenizer.json", "tokenizer")]
)
def test_a_folder_that_lacks_a_file(processor: Processor, tmp_path: Path, file: str, said: str) -> None:
    if not (processor.config.folder / file).exists():
        pytest.skip(f"{processor.family.name} publishes no {file}")
    folder = Path(shutil.copytree(processor.config.folder, tmp_path / "model"))
    for name in ("tokenizer.json", "vocab.json", "merges.txt") if file == "tokenizer.json" else (file,):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError) as caught:
        load_processor(folder).encode(example(0), max_tokens=None, answer=True)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_a_chat_template(processor: Processor, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(processor.config.folder, tmp_path / "model"))
    (folder / "chat_template.json").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    if path.exists():  # Moondream reads tokenizer.json alone
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    bare = load_processor(folder)
    if bare.default_template() is not None:
        whole = bare.encode(example(0), max_tokens=None, answer=True)
        assert bare.decode(whole.input_ids[whole.weights == 1].tolist()) == example(0).target
        return
    with pytest.raises(ModelError, match="no chat template"):
        bare.encode(example(0), max_tokens=None, answer=True)


def test_a_template_in_its_own_file_wins(processor: Processor, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(processor.config.folder, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ 'mine:' }}{% for m in messages %}{{ m['role'] }}{% endfor %}")
    row = example(0, pictures=0)
    assert load_processor(folder).prompt_text(row) == "mine:user"


# -- names ------------------------------------------------------------------------------------------------------------


def test_both_layouts_of_a_configuration_read_the_same(tmp_path: Path) -> None:
    flat = json.loads((TINY / "config.json").read_text())
    text = {k: v for k, v in flat.items() if k not in ("vision_config", "rope_theta", "rope_scaling", "model_type")}
    rope = {"rope_theta": flat["rope_theta"], "rope_type": "default", "mrope_section": flat["rope_scaling"]["mrope_section"]}
    nested = {"model_type": "qwen2_5_vl", "vision_config": flat["vision_config"], "tie_word_embeddings": True}
    nested["text_config"] = {**text, "model_type": "qwen2_5_vl_text", "rope_parameters": rope}
    (tmp_path / "config.json").write_text(json.dumps(nested))
    ours, theirs = read_config(TINY), read_config(tmp_path)
    assert ours.vision == theirs.vision and ours.tied and theirs.tied
    assert (theirs.text["rope_theta"], theirs.text["mrope_section"]) == (10_000.0, [4, 8, 8])
    keys = ("hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size", "rope_theta", "mrope_section")
    assert {key: ours.text[key] for key in keys} == {key: theirs.text[key] for key in keys}


@pytest.mark.parametrize(
    ("family", "published_name", "name"),
    [
        ("qwen2_5_vl", "visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
        ("qwen2_5_vl", "model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"),
        ("qwen2_5_vl", "model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("qwen2_5_vl", "model.norm.weight", "model.language_model.norm.weight"),
        ("qwen2_5_vl", "lm_head.weight", "lm_head.weight"),
        ("idefics3", "model.text_model.layers.0.mlp.up_proj.weight", "model.text_model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_published_names_have_one_canonical_form(family: str, published_name: str, name: str) -> None:
    assert FAMILIES[family].canonical(published_name) == name
    assert FAMILIES[family].canonical(name) == name


def test_every_site_belongs_to_one_group_and_the_head_to_none() -> None:
    groups = {"attention", "mlp", "projector", "vision"}
    for family in FAMILIES.values():
        assert set(family.sites) == groups
        assert family.group_of("lm_head") is None
    qwen, idefics3 = FAMILIES["qwen2_5_vl"], FAMILIES["idefics3"]
    assert qwen.group_of("model.visual.merger.mlp.2") == "projector"
    assert qwen.group_of("model.visual.blocks.1.mlp.up_proj") == "vision"
    assert qwen.group_of("model.language_model.layers.1.mlp.up_proj") == "mlp"
    assert idefics3.group_of("model.vision_model.encoder.layers.0.self_attn.out_proj") == "vision"
    assert idefics3.group_of("model.connector.modality_projection.proj") == "projector"


def test_pictures_with_transparency_and_grey_ones_are_read_as_color(processor: Processor) -> None:
    from mlxtune.images import image_ref

    grey = image_ref(Image.new("L", (60, 40), 200))
    clear = image_ref(Image.new("RGBA", (60, 40), (0, 0, 0, 0)))
    white = image_ref(Image.new("RGB", (60, 40), (255, 255, 255)))
    assert processor.pixels(grey).values.shape == processor.pixels(white).values.shape
    np.testing.assert_array_equal(processor.pixels(clear).values, processor.pixels(white).values)
