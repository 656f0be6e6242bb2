"""Moondream's crops, prompts, tokenizers and layouts, against the published ids, torch and transformers."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends import installed, load_backend
from mlxtune.backends.base import Loading
from mlxtune.batching import collate
from mlxtune.errors import BackendError, DataError, ModelError, RecipeError
from mlxtune.families import FAMILIES, Processor, family_of, load_processor, read_config
from mlxtune.families.moondream2 import CODEGEN, STARMIE, Moondream2Processor
from mlxtune.families.moondream2_crops import assembly, select_tiling, sizes
from mlxtune.features import FreshPixels
from tests.helpers.families import moondream2 as made
from tests.helpers.families import moondream2_forwards as forwards
from tests.helpers.families.base import copy, patch
from tests.helpers.family_checks import assert_same_pixels, asset
from tests.helpers.rows import example, picture

QUERY = json.loads('{"prefix": [198, 198, 24361, 25], "suffix": [198, 198, 33706, 25]}')


def small(folder: Path, **settings: Any) -> Moondream2Processor:
    made.write_files(folder, **settings)
    processor = load_processor(folder)
    assert isinstance(processor, Moondream2Processor)
    return processor


def published(tmp_path: Path, *, phi: bool) -> Path:
    """The real tokenizer with the configuration of either layout."""
    source = asset("moondream2")
    copy(source, tmp_path, "tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json")
    if phi:
        shutil.copyfile(source / "config.2024.json", tmp_path / "config.json")
    return tmp_path


# -- sizes and crops ----------------------------------------------------------------------------------------------------


def test_an_empty_config_means_the_published_sizes() -> None:
    config = read_config(asset("moondream2"))
    declared = json.loads((asset("moondream2") / "config_md2.json").read_text())
    ours = sizes(config)
    spelled = replace(config, top={**config.top, "config": declared})
    assert family_of(config).name == "moondream2" and sizes(spelled) == ours
    assert (ours.side, ours.head_dim, ours.rotary_dim) == (27, 64, 32)
    assert Moondream2Processor.prefix(load_processor(asset("moondream2")), np.zeros(0)) == declared["text"]["prefix_attn"] == 730


def test_tilings_of_many_sizes() -> None:
    rng = np.random.default_rng(0)
    for width, height in np.exp(rng.uniform(0, np.log(6000), (3000, 2))).astype(int).tolist():
        for window, most in ((266, 12), (28, 6), (266, 1), (100, 3)):
            ours = select_tiling((width - 112, height - 112), window=window, max_crops=most)
            assert ours == made.published_tiling(height - 112, width - 112, window, most), (width, height, window, most)
            assert ours[0] * ours[1] <= most or 1 in ours


def test_the_picture_of_the_models_list() -> None:
    processor = load_processor(asset("moondream2"))
    assert processor.grid((850, 600)) == (2, 4) and processor.image_tokens((2, 4)) == 729
    assert processor.pixels(picture(1, (850, 600))).values.shape == (9, 3, 378, 378)
    assert {model.image_tokens for name in ("moondream2", "moondream2_phi") for model in FAMILIES[name].known_models} == {729}


def test_a_limit_of_pixels_takes_crops_away(tmp_path: Path) -> None:
    made.write_files(tmp_path)
    made.write_files_2024(tmp_path / "phi")
    limits = (None, 6 * 56**2, 4 * 56**2, 2 * 56**2, 56**2, 10)
    tiled = [load_processor(tmp_path, max_pixels=limit).grid((300, 300)) for limit in limits]
    assert tiled == [(2, 2), (2, 2), (2, 2), (1, 1), (1, 1), (1, 1)]
    assert [load_processor(tmp_path, max_pixels=n).grid((70, 3000)) for n in limits[:3]] == [(17, 1), (6, 1), (4, 1)]
    assert [load_processor(tmp_path / "phi", max_pixels=n).grid((300, 300)) for n in limits] == [(2, 2)] * 3 + [(1, 1)] * 3


@pytest.mark.parametrize("phi", [False, True])
def test_a_smallest_area_is_refused_since_every_picture_fills_a_crop(tmp_path: Path, phi: bool) -> None:
    (made.write_files_2024 if phi else made.write_files)(tmp_path)
    with pytest.raises(
        RecipeError, match=r"model.min_pixels: 3000 has no meaning for moondream2.* 56 x 56 pixels or larger.* null"
    ):
        load_processor(tmp_path, min_pixels=3000)


@pytest.mark.parametrize(("side", "margin"), [(27, 4), (27, 0), (4, 1), (5, 2)])
@pytest.mark.parametrize("tiling", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 4), (1, 12), (5, 2)])
def test_crops_become_the_grid_that_is_pasted_and_pooled(side: int, margin: int, tiling: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    crops = np.random.default_rng(0).standard_normal((tiling[0] * tiling[1], side, side, 3)).astype(np.float32)
    places, down, across = assembly(tiling, side=side, margin=margin)
    grid = crops.reshape(-1, 3)[places].reshape(down.shape[1], across.shape[1], 3)
    ours = np.einsum("ih,jw,hwd->ijd", down, across, grid)
    np.testing.assert_allclose(ours, forwards.published_grid(torch.from_numpy(crops), tiling, margin).numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [(850, 600), (500, 511), (512, 100), (100, 700), (900, 900), (30, 41), (755, 1511)], ids=str)
def test_pixels_of_2024_with_the_published_settings(tmp_path: Path, size: tuple[int, int]) -> None:
    assert_same_pixels(load_processor(published(tmp_path, phi=True)), picture(1, size))


def test_the_first_revisions_of_2024_take_the_small_copy_alone(tmp_path: Path) -> None:
    made.build_2024(tmp_path, seed=0, tied=False, nested=True, assets=None)
    processor = load_processor(tmp_path)
    assert processor.grid((400, 300)) == (1, 1)
    assert_same_pixels(processor, picture(1, (400, 300)))
    made.build_2024(tmp_path, seed=0, tied=False, nested=False, assets=None)
    assert load_processor(tmp_path).grid((400, 300)) != (1, 1)


# -- prompts ------------------------------------------------------------------------------------------------------------

QUESTIONS = [
    "How many bars?",
    "Сколько стоит «чай»?",
    "two\n\nlines",
    "ends with space ",
    " ",
    "Question: a\n\nAnswer: b",
    "  12.5%",
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_prompts_of_2025_are_the_published_ids(question: str) -> None:
    processor = load_processor(asset("moondream2"))
    plain = processor.tokenizer
    row = processor.encode(example(0, question=question, target="42"), max_tokens=None, answer=True)
    asked = plain(" " + question)["input_ids"]
    rest = [*QUERY["prefix"], *asked, *QUERY["suffix"], *plain(" 42")["input_ids"], 50256]
    assert row.input_ids[[0, 730]].tolist() == [50256, 198] and row.input_ids[730:].tolist() == rest
    assert row.image_rows.tolist() == list(range(1, 730)) and row.prefix == 730
    assert row.input_ids[row.weights == 1].tolist() == rest[-2:]


@pytest.mark.parametrize("question", QUESTIONS)
def test_prompts_of_2024_are_tokenized_in_one_piece(tmp_path: Path, question: str) -> None:
    processor = load_processor(published(tmp_path, phi=True))
    assert processor.family.name == "moondream2_phi"
    row = processor.encode(example(0, question=question, target="42"), max_tokens=None, answer=True)
    prompt, answer = (
        processor.tokenizer(text)["input_ids"] for text in (f"\n\nQuestion: {question}\n\nAnswer:", " 42<|endoftext|>")
    )
    assert row.input_ids[730:].tolist() == prompt + answer and row.input_ids[0] == 50256 and row.prefix == 0
    assert row.input_ids[row.weights == 1].tolist() == answer


def test_the_tokenizer_is_the_published_one() -> None:
    from transformers import CodeGenTokenizer

    theirs, ours = CodeGenTokenizer.from_pretrained(str(asset("moondream2"))), load_processor(asset("moondream2")).tokenizer
    for text in (*QUESTIONS, "a      b\t\t\tc", "<|endoftext|>x", "naïve ☃ 日本"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
    assert ours.decode(ours("Yes . It 's , so")["input_ids"]) == "Yes . It 's , so"


def test_after_may_2025_special_tokens_frame_the_question(tmp_path: Path) -> None:
    processor = small(tmp_path, starmie=True)
    assert processor.frame is STARMIE and processor.stop_ids == {0} and processor.pad_id == 0
    row = processor.encode(example(0, question="Is it?", target="no"), max_tokens=None, answer=True)
    plain = processor.tokenizer
    asked, word, answer = (plain(text)["input_ids"] for text in ("Is it?", "query", "no"))
    assert row.input_ids[[0, 17]].tolist() == [0, 1] and row.input_ids[17:].tolist() == [1, *word, 2, *asked, 3, *answer, 0]
    assert row.prefix == 17 and row.image_rows.tolist() == list(range(1, 17))


def test_a_full_vocabulary_leaves_a_reserved_token_for_pictures(tmp_path: Path) -> None:
    processor = small(tmp_path, starmie=True)
    assert processor.sizes.vocabulary == len(processor.tokenizer)
    assert processor.image_token_id == processor.tokenizer.convert_tokens_to_ids("<|md_reserved_4|>")
    with pytest.raises(DataError, match="row 0: the text holds the token that stands for pictures"):
        processor.encode(example(0, question="<|md_reserved_4|>?"), max_tokens=None, answer=True)


def test_the_picture_stands_first_wherever_the_row_has_it(tmp_path: Path) -> None:
    processor, row = small(tmp_path), example(0)
    ((*parts,),) = [turn["content"] for turn in row.messages]
    turned = replace(row, messages=[{"role": "user", "content": parts[::-1]}])
    assert processor.rendered(turned.messages) == processor.rendered(row.messages)
    system = [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}, *row.messages]
    with pytest.raises(DataError, match="2 turns"):
        processor.encode(replace(row, messages=system), max_tokens=None, answer=True)


# -- which tokenizer ----------------------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_processor(folder).encode(example(0), max_tokens=None, answer=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "refused"),
    [
        ("config.py", "class TokenizerConfig:\n    bos_id: int = 0\n", True),
        ("config.py", "class TokenizerConfig:\n    bos_id: int = 50256\n", False),
        ("versions.txt", "2024-08-26\n2025-04-14\n2025-06-21\n", True),
        ("versions.txt", "2024-08-26\n2025-04-14\n", False),
    ],
)
def test_younger_weights_beside_the_older_tokenizer(tmp_path: Path, file: str, content: str, refused: bool) -> None:
    small(tmp_path)
    (tmp_path / file).write_text(content)
    if refused:
        message = refusal(tmp_path)
        assert file in message and STARMIE.tokenizer in message and "model.revision: 2025-04-14" in message
    else:
        assert load_processor(tmp_path).encode(example(0), max_tokens=None, answer=True).prefix == 17


def test_a_tokenizer_that_reads_the_prompt_otherwise(tmp_path: Path) -> None:
    small(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["config"]["tokenizer"]
    patch(tmp_path / "config.json", **config)
    assert re.search(r"tokenizer.json: reads '<\|endoftext\|>' as \[\d+\], the model knows it as \[50256\]", refusal(tmp_path))


def test_tokenizers_that_are_none_of_moondreams(tmp_path: Path) -> None:
    small(tmp_path, starmie=True)
    path = tmp_path / "tokenizer.json"
    text = path.read_text()
    path.write_text(text.replace("<|md_reserved_2|>", "<|other|>"))
    assert "holds <|md_reserved_0|>, but is not moondream/starmie-v1" in refusal(tmp_path)
    path.write_text(text.replace("<|endoftext|>", "<|end|>"))
    assert "knows no '<|endoftext|>'" in refusal(tmp_path)
    path.write_text('{"model": 3}')
    assert "the tokenizer cannot be loaded" in refusal(tmp_path)
    path.unlink()
    assert "no such tokenizer file" in refusal(tmp_path)


# -- layouts ------------------------------------------------------------------------------------------------------------


def test_layouts_are_told_apart_and_other_configurations_refused(tmp_path: Path) -> None:
    made.write_files(tmp_path)
    made.write_files_2024(tmp_path / "phi")
    assert [family_of(read_config(at)).name for at in (tmp_path, tmp_path / "phi")] == ["moondream2", "moondream2_phi"]
    (tmp_path / "config.json").write_text('{"model_type": "moondream1"}')
    with pytest.raises(ModelError, match="'moondream1' is no family"):
        family_of(read_config(tmp_path))


def test_weights_in_int4_are_refused(tmp_path: Path) -> None:
    processor = small(tmp_path)
    config = {**processor.config.top["config"], "text": {"group_size": 128}}
    with pytest.raises(ModelError, match="quantised by torchao"):
        sizes(replace(processor.config, top={**processor.config.top, "config": config}))


@pytest.mark.parametrize("name", made.shapes(made.TEXT | {"vocab_size": 9, "n_kv_heads": 4}, made.VISION | made.CROPS, views=2))
def test_names_of_2024_are_those_of_2025(name: str) -> None:
    family, adapted = FAMILIES["moondream2_phi"], name.removesuffix(".weight") + ".lora_A"
    assert family.canonical(made.name_2024(name)) == family.canonical(name) == name
    if name.endswith(".weight") and (group := family.group_of(name.removesuffix(".weight"))):
        assert group in ("attention", "mlp", "projector", "vision")
        assert family.canonical(made.name_2024(adapted)) == adapted


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_weights_of_the_other_layout_are_refused(backend: str, tmp_path: Path) -> None:
    if not installed(backend):
        pytest.skip(f"{backend} is not installed")
    for folder, build in ((tmp_path / "a", made.build), (tmp_path / "b", made.build_2024)):
        folder.mkdir()
        build(folder, seed=0, tied=False, nested=False, assets=None)
    a, b = (tmp_path / name / "model.safetensors" for name in "ab")
    held = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(held)
    for folder in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(ModelError, match="weights are (missing|unknown|of another shape)"):
            load_backend(backend, folder, Loading("float32"))


def test_torch_says_that_it_cannot_quantise(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from mlxtune.backends.torch.models.moondream2 import Moondream2

    made.build(tmp_path, seed=0, tied=False, nested=False, assets=None)
    with pytest.raises(BackendError, match="model.quantize: with torch .* use backend: mlx"):
        Moondream2.build(read_config(tmp_path), dtype=torch.float32, settings={"quantization_config": object()})


# -- forwards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_mlx_vlms_own_forward_where_it_pools_nothing(backend: str, tmp_path: Path) -> None:
    """A picture of one crop goes through mlx-vlm untouched; for more crops it pools other windows than Moondream's code."""
    if not installed(backend):
        pytest.skip(f"{backend} is not installed")
    forwards.mlx_vlm_moondream2()
    import mlx.core as mx

    made.build(tmp_path, seed=1, tied=False, nested=False, assets=None)
    held = made.load(tmp_path)
    model = forwards.mlx_vlm_model(forwards.effective_weights(held), tmp_path)
    processor = load_processor(tmp_path)
    row = processor.encode(replace(example(0), images=(picture(1, (50, 40)),)), max_tokens=None, answer=True)
    batch = collate([row], pad_id=processor.pad_id, pictures=FreshPixels(processor))
    assert [p.values.shape for p in batch.pixels] == [(1, 3, 56, 56)]
    values = mx.array(batch.pixels[0].values.transpose(0, 2, 3, 1))
    places = np.flatnonzero(row.weights) - 1
    theirs = np.array(model(mx.array(row.input_ids[None]), pixel_values=values, num_crops=[1]).logits[0])[places]
    ours = load_backend(backend, tmp_path, Loading("float32")).logits(batch)[: len(places)]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_2024_with_the_published_pictures_and_vocabulary(backend: str, tmp_path: Path) -> None:
    if not installed(backend):
        pytest.skip(f"{backend} is not installed")
    source = asset("moondream2")
    copy(source, tmp_path, "tokenizer.json")
    made.build_2024(tmp_path, seed=0, tied=False, nested=False, assets=source)
    processor: Processor = load_processor(tmp_path, max_pixels=2 * 378**2)
    row = processor.encode(replace(example(0), images=(picture(1, (850, 400)),)), max_tokens=None, answer=True)
    batch = collate([row], pad_id=processor.pad_id, pictures=FreshPixels(processor))
    assert [p.grid for p in batch.pixels] == [(1, 2)]
    places = np.flatnonzero(row.weights) - 1
    theirs = forwards.LOGITS_2024(made.load_2024(tmp_path), processor, [row])[0, places]
    ours = load_backend(backend, tmp_path, Loading("float32")).logits(batch)[: len(places)]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_frame_of_codegen_is_what_its_tokenizer_reads() -> None:
    plain = load_processor(asset("moondream2")).tokenizer
    assert [tuple(plain(text)["input_ids"]) for text in (CODEGEN.before, CODEGEN.after)] == [
        CODEGEN.before_ids,
        CODEGEN.after_ids,
    ]
