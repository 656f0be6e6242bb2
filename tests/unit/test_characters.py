"""The bundled folk-tale figures: reproducible, apart, named in every caption, not known by their colour; and a fifth class."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import random
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mlxtune.caption.prompts import read_prompts
from mlxtune.caption.run import Ask, caption
from mlxtune.cli import main
from mlxtune.data import load_data
from mlxtune.entities import read_entities
from mlxtune.metrics import Item, score
from mlxtune.recipe import load_recipe
from tests.helpers.caption_servers import FakeServer

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data" / "characters"
RECIPE = ROOT / "recipes" / "characters-tiny.yaml"
DOCS = ROOT / "docs" / "your-own-pictures.md"


def _load(name: str) -> Any:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)  # the scripts import each other by name
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


figures, scenes, characters = map(_load, ("character_figures", "character_scenes", "draw_characters"))


def rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / "annotations.jsonl").read_text(encoding="utf-8").splitlines()]


def pixels(path: Path | io.BytesIO) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# -- the files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", characters.NAMES)
def test_bundled_pictures_are_reproducible(figure: str) -> None:
    for number, drawing in enumerate(characters.drawings(figure, count=12, seed=characters.SEED), start=1):
        bundled = pixels(DATA / "images" / figure / f"{figure}-{number:03d}.png")
        assert np.array_equal(np.asarray(drawing.image.convert("RGB")), bundled), number


def test_rows_say_what_is_drawn(tmp_path: Path) -> None:
    written = characters.write_all(tmp_path, count=3, seed=characters.SEED)
    assert len(written) == 4 * 3 * 3
    assert [row["image"] for row in written] == [
        f"images/{f}/{f}-{n:03d}.png" for f in characters.NAMES for n in (1, 2, 3) for _ in "ccq"
    ]
    for name in ("character_names.json", "base_prompts.json"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()
    drawing = characters.Drawing("yaga", "gray", "snow", "blue", "left", next(characters.drawings("yaga", count=1, seed=1)).image)
    made = [characters.rows(drawing, path="images/a.png", rng=random.Random(seed)) for seed in range(20)]
    said = {(row["question"], row["answer"]) for one in made for row in one}
    assert said == {(who, "Это Баба-Яга.") for who in characters.WHO} | {
        (characters.WHAT, "Баба-Яга в снегу."), (characters.WHERE, "Слева."), (characters.WHICH, "Серый."),
    }  # fmt: skip


def test_files_are_small_and_as_the_rows_name_them() -> None:
    listed = rows()
    assert Counter(row["class"] for row in listed) == dict.fromkeys(characters.NAMES, 3 * characters.COUNT)
    assert len({row["id"] for row in listed}) == len(listed)
    for path, digest in {(row["image"], row["image_sha256"]) for row in listed}:
        content = (DATA / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, path
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (characters.SIDE, characters.SIDE) and image.mode == "P", path
    assert {path.relative_to(DATA).as_posix() for path in DATA.glob("images/*/*")} == {row["image"] for row in listed}
    assert sum(file.stat().st_size for file in DATA.rglob("*") if file.is_file()) <= 1.5e6


def test_no_two_pictures_are_alike() -> None:
    found = {pixels(path).tobytes() for path in DATA.glob("images/*/*.png")}
    assert len(found) == 4 * characters.COUNT


@pytest.mark.parametrize("figure", figures.FIGURES)
def test_drawings_of_a_figure_vary(figure: str) -> None:
    drawn = list(characters.drawings(figure, count=24, seed=3))
    assert {one.side for one in drawn} == set(characters.SIDES)
    assert {one.color for one in drawn} == set(figures.TONES[figure])
    assert {one.place for one in drawn} == set(scenes.PLACES) and len({one.sky for one in drawn}) >= 4


# -- names and rows -----------------------------------------------------------------------------------------------------


def test_every_caption_names_its_figure_and_no_other() -> None:
    entities = read_entities(DATA / "character_names.json")
    assert list(entities) == sorted(characters.NAMES)
    for row in rows():
        _, values = score(["recognition_rate"], [Item(row["answer"], names=entity.all_names) for entity in entities.values()])
        named = [key for key, value in zip(entities, values, strict=True) if value["recognition_rate"]]
        assert named == ([row["class"]] if row["kind"] == "caption" else []), row
        names = (name for entity in entities.values() for name in entity.all_names)
        assert not any(name.casefold() in row["question"].casefold() for name in names), row


def test_splits_share_no_drawing_and_test_has_enough_of_each_class() -> None:
    splits = load_data(load_recipe(RECIPE).data).splits
    shown = {split: {image.key for example in examples for image in example.images} for split, examples in splits.items()}
    assert (
        not shown["train"] & shown["test"]
        and not shown["train"] & shown["validation"]
        and not shown["test"] & shown["validation"]
    )
    assert len(shown["test"]) >= 80
    graded = [example for example in splits["test"] if example.names]
    classes = Counter(example.meta["class"] for example in graded)
    assert set(classes) == set(characters.NAMES) and min(classes.values()) >= 2 * 15
    general = [example for example in splits["train"] if "class" not in example.meta]
    assert 0.15 < len(general) / len(splits["train"]) < 0.5


def test_colour_alone_does_not_tell_the_figure() -> None:
    """The best guess from the main colour is 77.5 %, that of the nearest picture by mean colour 68 %: the card says so."""
    tones = {figure: Counter(figures.TONES[figure]) for figure in characters.NAMES}
    shares = [{color: number / counts.total() for color, number in counts.items()} for counts in tones.values()]
    assert sum(max(share.get(color, 0) for share in shares) for color in figures.COLORS) / len(shares) < 0.8
    means = np.array([pixels(path).mean((0, 1)) for path in sorted(DATA.glob("images/*/*.png"))])
    classes = np.array([path.parent.name for path in sorted(DATA.glob("images/*/*.png"))])
    distance = np.linalg.norm(means[:, None] - means[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert np.mean(classes[distance.argmin(1)] == classes) < 0.7


def test_prompts_are_read_and_nothing_is_left_to_caption(tmp_path: Path) -> None:
    assert read_prompts(DATA / "base_prompts.json").caption(1).question == list(characters.WHO)
    plan = []
    caption(
        DATA / "images",
        names=DATA / "character_names.json",
        prompts=DATA / "base_prompts.json",
        captioner=lambda: pytest.fail("asked"),
        ask=Ask(captions=2, questions=1),
        dry_run=True,
        watch=plan.append,
    )
    assert plan[0].requests == 0 and len(plan[0].folder.pictures) == 4 * characters.COUNT


# -- a fifth class ------------------------------------------------------------------------------------------------------


def documented() -> tuple[list[str], dict[str, Any]]:
    """The five lines of the documentation: its commands, and what it adds to the names."""
    section = DOCS.read_text(encoding="utf-8").partition("## The bundled miniature")[2]
    lines = re.search(r"```\n(cp .*?)```", section, re.DOTALL)[1].strip().splitlines()
    assert len(lines) == 5
    return lines, json.loads("{" + lines[2].partition("character_names.json: ")[2] + "}")


def run(command: str, *more: str) -> str:
    result = CliRunner().invoke(main, [*command.split()[1:], *more], prog_name="mlxtune", catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_fifth_class_by_the_documented_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    (copy, draw, _, describe, finetune), name = documented()
    for folder in ("recipes", "models", "data"):
        (tmp_path / folder).symlink_to(ROOT / folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert copy.split() == ["cp", "-r", "data/characters", "mine"]
    shutil.copytree("data/characters", "mine")
    drawn = draw.partition("#")[0].split()
    assert drawn[:2] == ["python", "scripts/draw_characters.py"]
    assert CliRunner().invoke(characters.main, [*drawn[2:], "--count", "20"]).exit_code == 0
    names = json.loads(Path("mine/character_names.json").read_text(encoding="utf-8"))
    Path("mine/character_names.json").write_text(json.dumps(names | name, ensure_ascii=False), encoding="utf-8")
    with FakeServer("openai") as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        run(describe)
        assert server.total == 20 * 3  # two captions and a question of each new picture; nothing about the others
        run(describe)
        assert server.total == 20 * 3
    data = load_data(
        load_recipe("recipes/characters-tiny.yaml", overrides=[setting for setting in finetune.split() if "=" in setting]).data
    )
    for split, examples in data.splits.items():
        fifth = [one for one in examples if one.meta.get("class") == "frog" and one.names]
        assert fifth and all(set(one.names) >= {"Царевна-лягушка"} and "Царевна-лягушка" in one.target for one in fifth), split
    trained = Counter(one.meta.get("class") for one in data.splits["train"] if one.meta.get("kind") == "caption")
    assert max(trained[figure] for figure in names) - trained["frog"] <= 0.2 * max(trained.values())  # balanced: shown as often
    out = run(
        finetune, "--backend", "torch", "--set", "train.steps=2", "--set", "evaluate.limit=0", "--set", f"out={tmp_path}/runs"
    )
    assert "run folder" in out
    assert list((tmp_path / "runs").glob("*/adapter/adapter_model.safetensors"))
