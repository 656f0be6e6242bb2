"""Recipes: every file loads, every error is named with its place, and what YAML gets wrong comes out right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from mlxtune.errors import RecipeError
from mlxtune.recipe import DataSpec, ModelSpec, Recipe, Splits, dump_recipe, load_recipe, recipe_name, write_schema
from mlxtune.recipe.spec import inside, is_section

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
MACHINES = sorted((ROOT / "recipes" / "base").glob("*.yaml"))
MINIMAL = "model: {path: some/model}\ndata: {path: some/rows}\n"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(files: Mapping[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")


def load(text: str, *overrides: str) -> Recipe:
    write({"r.yaml": MINIMAL + text})
    return load_recipe("r.yaml", overrides=overrides)


def value_at(recipe: Recipe, path: str) -> object:
    value: object = recipe
    for key in path.split("."):
        value = getattr(value, key)
    return value


def problems(path: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides=overrides)
    return str(caught.value).split("\n")


# ---- the shipped recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe_loads_and_survives_a_round_trip(path: Path) -> None:
    recipe = load_recipe(path)
    write({"elsewhere/recipe.yaml": dump_recipe(recipe)})
    assert load_recipe("elsewhere/recipe.yaml") == recipe


def test_all_shipped_recipes_are_seen() -> None:
    tasks = ("qwen2.5-vl-3b-chartqa", "smolvlm-chartqa")
    assert {path.stem for path in RECIPES} >= {
        "charts-tiny",
        *(f"{task}{machine}" for task in tasks for machine in ("", "-t4", "-l4")),
    }


@pytest.mark.parametrize("path", [*RECIPES, *MACHINES], ids=lambda path: path.stem)
def test_shipped_recipe_names_the_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").split("\n")[0]
    target = first.removeprefix("# yaml-language-server: $schema=")
    assert target != first and (path.parent / target).resolve() == ROOT / "recipes" / "schema.json"


def test_machine_files_set_the_same_keys() -> None:
    def keys(values: dict, at: str = "") -> set[str]:
        return {
            key
            for name, value in values.items()
            for key in (keys(value, f"{at}{name}.") if isinstance(value, dict) else [f"{at}{name}"])
        }

    sets = {path.stem: keys(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in MACHINES}
    assert len(sets) >= 3 and len(set(map(frozenset, sets.values()))) == 1, sets


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("", ("bfloat16", "mlx")), ("-t4", ("float16", "torch")), ("-l4", ("bfloat16", "torch"))],
)
@pytest.mark.parametrize("task", ["qwen2.5-vl-3b-chartqa", "smolvlm-chartqa"])
def test_machine_changes_the_device_and_not_the_training(task: str, machine: str, expected: tuple[str, str]) -> None:
    recipe, laptop = (load_recipe(ROOT / "recipes" / f"{task}{suffix}.yaml") for suffix in (machine, ""))
    assert (recipe.model.precision, recipe.backend) == expected
    kept = {"micro_batch_size"}
    assert recipe.train.model_dump(exclude=kept) == laptop.train.model_dump(exclude=kept)
    assert (recipe.data, recipe.lora) == (laptop.data, laptop.lora)


def test_default_recipe_points_into_the_repository() -> None:
    recipe = load_recipe(ROOT / "recipes" / "charts-tiny.yaml")
    assert (recipe.model.path, recipe.data.path) == (str(ROOT / "models" / "tiny-charts"), str(ROOT / "data" / "charts"))
    assert recipe.out == "runs/"


# ---- values


@pytest.mark.parametrize("from_file", [True, False], ids=["file", "set"])
@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("train.learning_rate", "1e-4", 1e-4),
        ("train.learning_rate", "2E-5", 2e-5),
        ("train.learning_rate", "1", 1.0),
        ("speed.features", "off", "off"),
        ("report.title", "on", "on"),
        ("report.title", "no", "no"),
        ("report.title", "12:30:45", "12:30:45"),
        ("model.revision", "2024-08-26", "2024-08-26"),
        ("model.quantize", "4bit", "4bit"),
        ("train.seed", "010", 10),
        ("train.seed", "0x10", 16),
        ("train.seed", "0o10", 8),
        ("lora.rslora", "true", True),
        ("train.clip", "null", None),
        ("train.clip", "~", None),
        ("lora.layers", "4", 4),
        ("lora.layers", "all", "all"),
        ("lora.sites", "[attention]", ["attention"]),
        ("data.suffix", "''", ""),
        ("data.suffix", r'"\nOne word = answer."', "\nOne word = answer."),
        ("evaluate.limit", "0", 0),
        ("data.limit.train", "7", 7),
    ],
)
def test_yaml_value(path: str, text: str, expected: object, from_file: bool) -> None:
    section, _, key = path.rpartition(".")
    if path == "data.limit.train":
        section, key, text = "data.limit", "train", text
    if from_file:
        nested = f"{{{key}: {text}}}"
        for name in reversed(section.split(".")):
            nested = f"{{{name}: {nested}}}"
        write({"base.yaml": nested, "r.yaml": "extends: base.yaml\n" + MINIMAL})
        recipe = load_recipe("r.yaml")
    else:
        recipe = load("", f"{path}={text}")
    value = value_at(recipe, path)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    "title", ["1e-4", "off", "1:30", "0o17", "010", "null", "", "2024-08-26", "Ответ: «да» #1", "a\nb", "~", "1_000"]
)
def test_text_survives_a_round_trip_in_both_versions_of_yaml(title: str) -> None:
    recipe = Recipe(model=ModelSpec(path="m"), data=DataSpec(path="d", suffix=title))
    text = dump_recipe(recipe)
    write({"r.yaml": text})
    assert load_recipe("r.yaml") == recipe
    assert yaml.safe_load(text)["data"]["suffix"] == title


def test_dump_writes_every_default() -> None:
    def missing(model: type[BaseModel], values: dict) -> list[str]:
        here = [key for key in model.model_fields if key not in values]
        sections = {key: inside(model, key) for key in model.model_fields if is_section(inside(model, key))}
        return here + [k for key, kind in sections.items() if values[key] is not None for k in missing(kind, values[key])]

    values = yaml.safe_load(dump_recipe(load("")))
    assert missing(Recipe, values) == []
    assert values["train"]["learning_rate"] == 1e-4


def test_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load("").train.steps = 3


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("recipes/charts-tiny.yaml", "charts-tiny"),
        ("qwen2.5-vl-3b.yaml", "qwen2.5-vl-3b"),
        ("qwen2.5-vl-3b", "qwen2.5-vl-3b"),
        (Path("a.b/c.yml"), "c"),
    ],
)
def test_recipe_name(path: str | Path, name: str) -> None:
    assert recipe_name(path) == name


@pytest.mark.parametrize(
    "splits",
    [
        {},
        {"train": 0.8, "validation": 0.1, "test": 0.1},
        {"train": 0.33, "validation": 0.56, "test": 0.11},  # above 1 in floats added one by one, as before Python 3.12
        {"train": 0.1, "validation": 0.2, "test": 0.7},
        {"train": 0.5, "validation": None, "test": 0.25},
        {"train": "all", "validation": None, "test": None},
        {"train": None, "validation": None, "test": "all"},
        {"train": "train", "validation": "test", "test": "test"},
        {"train": None, "validation": None, "test": None},
    ],
)
def test_splits_that_hold(splits: dict) -> None:
    Splits(**splits)


# ---- merging and paths


def test_extends_merges_mappings_replaces_lists_and_the_later_wins() -> None:
    write(
        {
            "deep/root.yaml": "train: {seed: 1, steps: 1, batch_size: 1}\nlora: {sites: [attention, mlp]}",
            "deep/task.yaml": "extends: root.yaml\nmodel: {path: m}\ndata: {path: d}\ntrain: {seed: 2, steps: 2}",
            "machine.yaml": "train: {seed: 3}\nlora: {sites: [mlp]}",
            "r.yaml": "extends: [deep/task.yaml, machine.yaml]\ntrain: {warmup: 5}",
        }
    )
    recipe = load_recipe("r.yaml", overrides=["train.clip=2", "train.clip=3", "evaluate={limit: 3}"])
    train = recipe.train
    assert (train.seed, train.steps, train.batch_size, train.warmup, train.clip) == (3, 2, 1, 5.0, 3.0)
    assert recipe.lora.sites == ["mlp"] and recipe.evaluate.limit == 3


def test_one_base_may_be_reached_on_two_ways() -> None:
    write(
        {
            "root.yaml": MINIMAL,
            "a.yaml": "extends: root.yaml",
            "b.yaml": "extends: root.yaml",
            "r.yaml": "extends: [a.yaml, b.yaml]",
        }
    )
    assert load_recipe("r.yaml") == load("")


def test_paths_in_files_are_seen_from_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    write(
        {
            "a/b/base.yaml": "model: {path: ../model}\ndata: {path: ./rows, image_folder: ..}\nout: ../../runs",
            "a/r.yaml": "extends: ./b/base.yaml\ndata: {path: some/rows}",
        }
    )
    recipe = load_recipe("a/r.yaml")
    assert recipe.model.path == str(tmp_path / "a/model")
    assert recipe.data.path == "some/rows"
    assert recipe.data.image_folder == str(tmp_path / "a")
    assert recipe.out == str(tmp_path / "runs")
    changed = load_recipe("a/r.yaml", overrides=["model.path=./here", "data.path=~/rows", "data={image_folder: ../pictures}"])
    assert changed.model.path == str(tmp_path / "here")
    assert changed.data.path == "/home/someone/rows"
    assert changed.data.image_folder == str(tmp_path.parent / "pictures")


# ---- errors


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("train: {learning_rte: 1}", "train.learning_rte", "unknown key; did you mean 'learning_rate'?"),
        ("learning_rate: 1", "learning_rate", "unknown key here; did you mean 'train.learning_rate'?"),
        ("report: {zzz: 1}", "report.zzz", "unknown key; there are: title"),
        ("1: 2", "1", "unknown key; there are: model, data"),
        ("train: {true: 2}", "train.true", "unknown key"),
        ("<<: {out: x}", "<<", "unknown key"),
        ("train: {steps: yes}", "train.steps", '"yes" is not a whole number (optimizer steps in all'),
        ("train: {steps: '5'}", "train.steps", '"5" is not a whole number'),
        ("train: {steps: 5.0}", "train.steps", "5.0 is not a whole number"),
        ("train: {steps: true}", "train.steps", "true is not a whole number"),
        ("train: {steps: 0}", "train.steps", "0 is not at least 1"),
        ("train: {learning_rate: '1e-4'}", "train.learning_rate", '"1e-4" is not a number'),
        ("train: {learning_rate: .inf}", "train.learning_rate", "Infinity is not a finite number"),
        ("train: {learning_rate: true}", "train.learning_rate", "true is not a number"),
        ("train: {learning_rate: 0}", "train.learning_rate", "0 is not above 0"),
        ("train: {warmup: 1.5}", "train.warmup", "1.5 is not a whole number of steps"),
        ("train: {schedule: cosin}", "train.schedule", "\"cosin\" is not 'cosine', 'linear' or 'constant'"),
        ("train: {epochs: null}", "train.epochs", "null, and so is train.steps; set one of the two"),
        ("train: {micro_batch_size: 3}", "train.micro_batch_size", "3 does not divide train.batch_size 8"),
        ("train: {best: ''}", "train.best", '"" is not a text of at least one character'),
        ("train: null", "train", "null is not a mapping of keys (the optimisation)"),
        ("lora: {dropout: 1}", "lora.dropout", "1 is not below 1"),
        ("lora: {rslora: off}", "lora.rslora", '"off" is not true or false'),
        ("lora: {sites: mlp}", "lora.sites", '"mlp" is not a list'),
        ("lora: {sites: []}", "lora.sites", "[] is not a list of at least one entry"),
        ("lora: {sites: [mlp, 3]}", "lora.sites[1]", "3 is not text"),
        ("lora: {layers: some}", "lora.layers", "\"some\" is not 'all' or a whole number"),
        ("lora: {layers: 0}", "lora.layers", "0 is not 'all' or at least 1"),
        ("speed: {features: false}", "speed.features", "false is not 'auto', 'memory' or 'off'"),
        ("evaluate: {limit: -1}", "evaluate.limit", "-1 is not at least 0"),
        ("backend: cuda", "backend", "\"cuda\" is not 'auto', 'mlx' or 'torch'"),
        ("out: ''", "out", '"" is not a text of at least one character'),
    ],
)
def test_wrong_key_or_value(text: str, key: str, message: str) -> None:
    write({"recipes/x.yaml": MINIMAL + text})
    (problem,) = problems("recipes/x.yaml")
    assert problem.startswith(f"recipes/x.yaml: {key}: {message}")


@pytest.mark.parametrize(
    ("splits", "key", "message"),
    [
        ("{train: 0.8, validation: dev}", "validation", "'dev' beside data.splits.train 0.8: name all splits, or give all as"),
        ("{train: 0.8, validation: 0.3, test: null}", "validation", "0.3 more than what train 0.8 leaves over"),
        ("{train: 0.8, validation: 0.1, test: 0.2}", "test", "0.2 more than what train 0.8, validation 0.1 leaves over"),
        ("{train: all, validation: null, test: 0.2}", "test", "0.2 more than what train all leaves over"),
        ("{train: train, validation: null, test: all}", "test", "'all' beside data.splits.train 'train'"),
        ("{train: 1.5, validation: null, test: null}", "train", "1.5 is not text (put it in quotes) or below 1"),
        ("{train: 0, validation: null, test: null}", "train", "0 is not text (put it in quotes) or above 0"),
        ("{train: {a: 1}, validation: null, test: null}", "train", '{"a": 1} is not text (put it in quotes) or a number'),
    ],
)
def test_splits_that_overlap(splits: str, key: str, message: str) -> None:
    write({"x.yaml": f"model: {{path: m}}\ndata: {{path: d, splits: {splits}}}"})
    assert problems("x.yaml")[0].startswith(f"x.yaml: data.splits.{key}: {message}")


def test_sections_in_lists_and_under_free_names_are_checked_like_others() -> None:
    mix, sets = "mix: [{path: a}, {path: b, wieght: 2}, {path: c, weight: 0}]", "sets: {gqa: {path: ./g, limit: x}}"
    write({"r/x.yaml": f"model: {{path: m}}\ndata: {{path: d, {mix}}}\nevaluate: {{{sets}}}"})
    assert [problem.split(" (")[0] for problem in problems("r/x.yaml")] == [
        "r/x.yaml: data.mix[1].wieght: unknown key; did you mean 'weight'?",
        "r/x.yaml: data.mix[2].weight: 0 is not above 0.0",
        'r/x.yaml: evaluate.sets.gqa.limit: "x" is not a whole number',
    ]


def test_paths_in_lists_and_under_free_names_are_seen_from_their_file() -> None:
    text = "model: {path: m}\ndata: {path: d, names: ../n.json, mix: [{path: ./a}], images: {path: ../p}}"
    write({"r/x.yaml": f"{text}\nevaluate: {{sets: {{g: {{path: ./g}}}}}}"})
    recipe = load_recipe("r/x.yaml")
    found = (recipe.data.names, recipe.data.mix[0].path, recipe.data.images.path, recipe.evaluate.sets["g"].path)
    assert [os.path.relpath(path) for path in found] == ["n.json", "r/a", "p", "r/g"]


def test_pixel_limits_out_of_order() -> None:
    write({"x.yaml": "model: {path: m, min_pixels: 100, max_pixels: 50}\ndata: {path: d}"})
    assert problems("x.yaml") == ["x.yaml: model.max_pixels: 50 is below model.min_pixels 100; raise one or lower the other"]


def test_every_problem_at_once_each_with_its_place() -> None:
    write(
        {
            "base/b.yaml": "train: {learning_rte: 1, seed: x}\nlora: {rank: 0}",
            "r.yaml": "extends: base/b.yaml\nmodel: {path: m, pth: m}\nlora: {rank: -1}\ntrain: {epochs: null}",
        }
    )
    assert [problem.split(" (")[0] for problem in problems("r.yaml", "evaluate.limt=3", "train.warmup=soon", "nonsense")] == [
        "--set: 'nonsense' is not of the form key.key=value, for example train.steps=100",
        "base/b.yaml: train.learning_rte: unknown key; did you mean 'learning_rate'?",
        "r.yaml: model.pth: unknown key; did you mean 'path'?",
        "--set: evaluate.limt: unknown key; did you mean 'limit'?",
        "r.yaml: data.path: missing",
        "r.yaml: lora.rank: -1 is not at least 1",
        "r.yaml: train.epochs: null, and so is train.steps; set one of the two",
        '--set: train.warmup: "soon" is not a number',
        'base/b.yaml: train.seed: "x" is not a whole number',
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "--set: 'train.steps' is not of the form key.key=value"),
        ("=3", "--set: '=3' is not of the form"),
        ("train..steps=3", "--set: 'train..steps=3' is not of the form"),
        ("train.steps=", "--set: train.steps: no value. Write train.steps=null"),
        ("train.steps=[1", "--set: train.steps:1:3: "),
        ("extends=x.yaml", "--set: extends: stands only in files"),
        ("train.steps.more=1", '--set: train.steps: {"more": 1} is not a whole number'),
        ("train.steps=!!int abc", "--set: train.steps: a value does not fit its '!!' tag"),
    ],
)
def test_wrong_override(override: str, message: str) -> None:
    write({"r.yaml": MINIMAL})
    (problem,) = problems("r.yaml", override)
    assert problem.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"model:\n\tpath: m", "bad.yaml:2:1: found character '\\t' that cannot start any token. Indent with spaces"),
        (b"model: {path: m", "bad.yaml:1:16: "),
        (b"model: a: b", "bad.yaml:1:9: mapping values are not allowed here. Look at the indentation"),
        (b"out: a\nout: b", "bad.yaml:2:1: key 'out' stands here twice"),
        (b"[a]: b", "bad.yaml:1:1: a list or mapping cannot be a key"),
        (b"a: &x {b: *x}", "bad.yaml:1:11: aliases are not read here; use extends"),
        (b"a: !!python/object/apply:os.getcwd []", "bad.yaml:1:4: could not determine a constructor"),
        (b"out: a\n---\nout: b", "bad.yaml:2:1: "),
        (b"out: \xff", "bad.yaml: not a text in UTF-8"),
        (b"- model", "bad.yaml: not a mapping of keys"),
        (b"extends: 3", "bad.yaml: extends: must be one path or a list of paths"),
        (b"extends: false", "bad.yaml: extends: must be one path or a list of paths"),
        (b"extends: [[a]]", "bad.yaml: extends: must be one path or a list of paths"),
    ],
)
def test_file_that_is_no_recipe(text: bytes, message: str) -> None:
    Path("bad.yaml").write_bytes(text)
    (problem,) = problems("bad.yaml")
    assert problem.startswith(message)


def test_empty_file_lacks_its_paths() -> None:
    write({"r.yaml": "# nothing\n"})
    assert [problem.split(" (")[0] for problem in problems("r.yaml")] == [
        "r.yaml: model.path: missing",
        "r.yaml: data.path: missing",
    ]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("recipes/chart-tiny.yaml", "recipes/chart-tiny.yaml does not exist. Did you mean recipes/charts-tiny.yaml?"),
        ("charts-tiny", "charts-tiny does not exist. Did you mean recipes/charts-tiny.yaml?"),
        ("recipes/t5.yaml", "recipes/t5.yaml does not exist. Did you mean recipes/base/t4.yaml?"),
        ("nowhere/qqq.yaml", "nowhere/qqq.yaml does not exist. Look at the path, or into recipes/"),
        ("recipes", "recipes is a folder, not a recipe. Name a .yaml file in it"),
    ],
)
def test_missing_recipe(path: str, message: str) -> None:
    write({"recipes/charts-tiny.yaml": MINIMAL, "recipes/base/t4.yaml": ""})
    assert problems(path) == [message]


def test_broken_links_of_extends_are_all_named() -> None:
    write({"base/t4.yaml": "", "r.yaml": "extends: [base/t5.yaml, gone.yaml, base]"})
    assert problems("r.yaml", "nonsense") == [
        "r.yaml: extends: 'base/t5.yaml' does not exist. Did you mean base/t4.yaml?",
        "r.yaml: extends: 'gone.yaml' does not exist. Look at the path, or into recipes/",
        "r.yaml: extends: 'base' is a folder, not a recipe. Name a .yaml file in it",
        "--set: 'nonsense' is not of the form key.key=value, for example train.steps=100",
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"r.yaml": "extends: r.yaml"}, "r.yaml: extends: a circle: r.yaml -> r.yaml"),
        (
            {"r.yaml": "extends: b/s.yaml", "b/s.yaml": "extends: ../r.yaml"},
            "b/s.yaml: extends: a circle: r.yaml -> b/s.yaml -> r.yaml",
        ),
    ],
)
def test_circle(files: dict[str, str], message: str) -> None:
    write(files)
    (problem,) = problems("r.yaml")
    assert problem.startswith(message)


# ---- schema and imports


def test_schema_is_up_to_date(tmp_path: Path) -> None:
    write_schema(tmp_path / "schema.json")
    fresh, kept = (
        json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "schema.json", ROOT / "recipes" / "schema.json")
    )
    assert kept == fresh, "run: python -c \"from mlxtune.recipe import write_schema; write_schema('recipes/schema.json')\""


def test_schema_describes_every_key_and_requires_none(tmp_path: Path) -> None:
    write_schema(tmp_path / "schema.json")
    schema = json.loads((tmp_path / "schema.json").read_text(encoding="utf-8"))
    for section in (schema, *schema["$defs"].values()):
        assert section["additionalProperties"] is False and section["title"] and section["description"]
        assert "required" not in section
        assert [key for key, value in section["properties"].items() if not value.get("description")] == []
    assert "extends" in schema["properties"]


def test_import_is_light() -> None:
    heavy = {"torch", "mlx", "transformers", "datasets", "numpy"}
    code = f"import sys, mlxtune.recipe; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
