"""Each published data set in its own layout, row by row: columns, types and file names as on the hub or in the archive."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mlxtune.data import load_data
from mlxtune.errors import DataError
from mlxtune.images import ImageRef, image_ref
from mlxtune.recipe.spec import DataSpec, RowsSpec
from mlxtune.tasks import get_task
from mlxtune.types import Example
from tests.helpers import published
from tests.helpers.tasks import find_in, make, parts

LAYOUTS: dict[str, Callable[..., published.Published]] = {
    "chartqa_hub": published.chartqa_hub,
    "chartqa_json": published.chartqa_json,
    "pjn_charts": published.pjn_charts,
    "chartllama": published.chartllama,
    "llava_instruct_ru": published.llava_instruct_ru,
    "gqa_ru": published.gqa_ru,
    "mmbench_ru": published.mmbench_ru,
    "characters": published.characters,
} | {
    f"messages_{form}": (lambda folder, form=form, **given: published.messages(folder, form=form, **given))
    for form in published.MESSAGE_FORMS
}


def rows_of(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    text = file.read_text(encoding="utf-8")
    return json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def examples(made: published.Published, file: Path, *, folder: Path | None = None, **given: Any) -> list[Example]:
    find = find_in(folder or made.root)
    keys = {key: value for key, value in made.data.items() if key not in ("path", "task", "splits")}
    return [make(made.data["task"], row, find=find, **keys | given) for row in rows_of(file)]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_seed_gives_the_same_bytes(layout: str, tmp_path: Path) -> None:
    write = LAYOUTS[layout]
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(tmp_path / name, rows=2, seed=seed)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


@pytest.mark.parametrize("label", ["list", "string"])
def test_chartqa_on_the_hub(label: str, tmp_path: Path) -> None:
    made = published.chartqa_hub(tmp_path, rows=4, label=label)
    files = sorted(file.name for file in (tmp_path / "data").iterdir())
    assert [name.split("-")[0] for name in files] == ["test", "train", "val"]
    found = examples(made, tmp_path / "data" / files[1])
    assert [example.target for example in found][0] == "Yes" and all(len(example.references) == 1 for example in found)
    assert [example.meta["human_or_machine"] for example in found] == ["human", "machine"] * 2
    assert found[0].images == found[1].images != found[2].images and found[0].images[0].load().size == (48, 32)


def test_pjn_charts(tmp_path: Path) -> None:
    for label in ("list", "string"):
        made = published.pjn_charts(tmp_path / label, rows=3, label=label)
        found = examples(made, tmp_path / label / "data" / "val-00000-of-00001.parquet")
        assert len(found) == 3 and not found[0].meta and found[0].target == "Yes"


def test_chartqa_in_its_original_files(tmp_path: Path) -> None:
    made = published.chartqa_json(tmp_path, rows=4)
    found = examples(made, Path(made.data["path"]), folder=Path(made.data["image_folder"]))
    assert [example.references for example in found] == [("[2003, 2004]",), ("Yes",), ("0.57",), ("14",)]
    assert [example.images[0].load().size for example in found] == [(48, 32)] * 4


@pytest.mark.parametrize("place", ["ChartQA Dataset", "."])
def test_chartqa_is_named_by_its_original_folder(place: str, tmp_path: Path) -> None:
    """Both files of each split; pictures of one name in several splits are each split's own."""
    published.chartqa_json(tmp_path, rows=4)
    data = load_data(DataSpec(task="chartqa", path=str(tmp_path / place)))
    assert {split: len(examples) for split, examples in data.splits.items()} == {"train": 8, "validation": 8, "test": 8}
    for split, folder in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert {example.images[0].key.split("/")[0] for example in data.splits[split]} == {folder}


def test_chartllama(tmp_path: Path) -> None:
    published.chartllama(tmp_path, rows=2)
    files = sorted(tmp_path.glob("*_100examples_simplified_qa.json"))
    assert len(files) == 7
    with zipfile.ZipFile(tmp_path / "ours.zip") as archive:

        def find(value: Any, *, where: str) -> ImageRef:
            return image_ref(archive.read(value), where=where)

        for file in files:
            kind = file.name.removesuffix("_100examples_simplified_qa.json")
            for row in rows_of(file):
                example = make("chartllama", row, find=find)
                assert example.meta == {"chart": kind} and example.images[0].load()
                assert parts(example)[0][1][0] == "<picture>" and example.target.startswith("It shows")


def test_llava_instruct_ru(tmp_path: Path) -> None:
    made = published.llava_instruct_ru(tmp_path, rows=12)
    for split in ("train", "validation"):
        found = examples(made, tmp_path / f"hub/data/{split}-00000-of-00001.parquet", folder=tmp_path / "coco")
        assert Counter(len(example.images) for example in found) == {1: 10, 0: 2}
        assert {example.meta["type"] for example in found} == {"conversation", "detail_description", "complex_reasoning"}
        assert len({example.id for example in found}) == 6
        assert [len(example.messages) for example in found[:3]] == [5, 1, 1]
        assert parts(found[1]) == [("user", ["Что на картинке?", "<picture>"])]


def test_gqa_ru(tmp_path: Path) -> None:
    made = published.gqa_ru(tmp_path, rows=6)
    for split in ("train", "testdev"):
        task, (rows, pictures) = get_task("gqa_ru"), (f"{split}_balanced_instructions", f"{split}_balanced_images")
        spec_images = task.default_images(RowsSpec(path=made.data["path"], config=rows))
        assert spec_images is not None and (spec_images.config, spec_images.key) == (pictures, "id")
        stored = {row["id"]: row["image"] for row in rows_of(tmp_path / pictures / f"{split}-00000-of-00001.parquet")}

        def find(value: Any, *, where: str, stored: dict[str, Any] = stored) -> ImageRef:
            return image_ref(stored[value], where=where)

        found = [make("gqa_ru", row, find=find) for row in rows_of(tmp_path / rows / f"{split}-00000-of-00001.parquet")]
        assert len(found) == 6 and len({example.images[0].key for example in found}) == 2
        assert {example.meta["structural"] for example in found} == {"query", "verify"}
        assert parts(found[0])[0][1][1].endswith("\nОтветь одним словом.") and found[0].target == "красный"


@pytest.mark.parametrize("level_2", ["l2-category", "L2-category"])
def test_mmbench_ru(level_2: str, tmp_path: Path) -> None:
    made = published.mmbench_ru(tmp_path, rows=3, level_2=level_2)
    found = examples(made, tmp_path / "data/dev-00000-of-00001.parquet")
    assert Counter(example.group for example in found) == {"0": 4, "1": 4, "2": 2}
    for example in found:
        assert example.choices[example.target] == {"0": "красный", "1": "синий", "2": "кошка"}[example.group]
        assert example.meta["l2-category"] == "finegrained_perception" and set(example.meta) == {
            "category",
            "l2-category",
            "index",
        }
        assert "nan" not in parts(example)[0][1][1] and "None" not in parts(example)[0][1][1]


def test_characters(tmp_path: Path) -> None:
    made = published.characters(tmp_path, rows=2)
    found = examples(made, tmp_path / "annotations.jsonl")
    assert len(found) == 8 and {example.meta["kind"] for example in found} == {"caption", "question"}
    assert [example.names for example in found if example.meta["class"] == "koschei"][0][0] == "Кощей"
    files = sorted((tmp_path / "images").glob("*/*.jpg"))
    folder = [make("characters", {"image": str(f), "class": f.parent.name}, names=made.data["names"]) for f in files]
    assert {example.target for example in folder} == set(published.CHARACTERS.values())


@pytest.mark.parametrize("form", published.MESSAGE_FORMS)
def test_messages(form: str, tmp_path: Path) -> None:
    made = published.messages(tmp_path, form=form, rows=2)
    (file,) = [path for path in tmp_path.rglob("train*") if path.is_file()]
    found = examples(made, file)
    for example in found:
        turns = [turn for turn in parts(example) if turn[0] != "system"]
        assert [role for role, _ in turns] == ["user", "assistant", "user"] and sorted(turns[0][1]) == ["<picture>"] * 2 + [
            "Compare:"
        ]
        assert example.target == "The left one." and [image.load().size for image in example.images] == [(40, 24), (40, 32)]


# -- from the recipe's section to examples ----------------------------------------------------------------------------

LOADED = {
    "chartqa_hub": {"train": 4, "validation": 4, "test": 4},
    "chartqa_json": {"train": 4},
    "pjn_charts": {"train": 4, "validation": 4, "test": 4},
    "gqa_ru": {"train": 6},
    "mmbench_ru": {"test": 14},
}
TOTALS = {"chartllama": 28, "llava_instruct_ru": 12, "characters": 12, "messages_openai": 12, "messages_huggingface": 12}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_naming_the_data_is_enough(layout: str, tmp_path: Path) -> None:
    made = LAYOUTS[layout](tmp_path)
    data = load_data(DataSpec(**made.data))
    counts = {split: len(rows) for split, rows in data.splits.items()}
    assert LOADED.get(layout, counts) == counts and all(counts.values()) and not len(data.skipped)
    assert sum(counts.values()) == TOTALS.get(layout, sum(counts.values()))
    for rows in data.splits.values():
        for example in rows:
            assert all(image.load().size in ((48, 32), (40, 24), (40, 32)) for image in example.images)
            assert example.images or made.data["task"] == "llava"


@pytest.mark.parametrize("config", ["train_balanced_instructions", "testdev_balanced_instructions"])
def test_gqa_ru_is_joined_from_its_two_tables(config: str, tmp_path: Path) -> None:
    made = published.gqa_ru(tmp_path, rows=6)
    examples = load_data(DataSpec(**made.data | {"config": config})).splits["train"]
    assert len(examples) == 6
    pictures = [example.images[0].load().tobytes() for example in examples]
    assert pictures[0] == pictures[1] == pictures[2] != pictures[3] == pictures[5]


def test_a_renamed_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    made = published.mmbench_ru(tmp_path, rows=3)
    file = tmp_path / "data/dev-00000-of-00001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.rename_columns({"answer": "gold_answer"}), file)
    with pytest.raises(DataError) as error:
        load_data(DataSpec(**made.data))
    assert "no field 'answer'; it has 'index', 'question'" in str(error.value)
    assert "Set data.target: gold_answer" in str(error.value)
    assert len(load_data(DataSpec(**made.data | {"target": "gold_answer"})).splits["test"]) == 10


def test_pictures_that_are_gone_are_refused_or_left_out_as_the_recipe_says(tmp_path: Path) -> None:
    made = published.llava_instruct_ru(tmp_path, rows=12)
    for file in (tmp_path / "coco/train2014").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="COCO_train2014"):
        load_data(DataSpec(**made.data))
    spec = DataSpec(**made.data | {"missing_image": "text_only", "splits": {"train": "train", "validation": None, "test": None}})
    examples = load_data(spec).splits["train"]
    assert len(examples) == 12 and not any(example.images for example in examples)
    assert not any(part["type"] == "image" for example in examples for turn in example.messages for part in turn["content"])
