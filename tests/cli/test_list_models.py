"""`mlxtune list models`: what a person needs to choose a model, from the families themselves."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mlxtune.backends import installed
from mlxtune.cli import main
from mlxtune.families import FAMILIES, KnownModel, load_processor
from mlxtune.ui.models import BITS, gigabytes
from tests.helpers.families import FIXTURES
from tests.helpers.family_checks import asset
from tests.helpers.layouts import of_mlx

MODELS = [(family, model) for family in FAMILIES.values() for model in family.known_models]
# By the name of their folder: those whose files may be at hand.
PUBLISHED = {
    name: model for family, model in MODELS for name in FIXTURES[family.name].assets if name == model.id.rpartition("/")[2]
}


def listed(monkeypatch: pytest.MonkeyPatch, *, columns: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = CliRunner().invoke(main, ["list", "models"], prog_name="mlxtune")
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("columns", [80, 120])
def test_it_fits_and_tells_every_model_in_one_line(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = listed(monkeypatch, columns=columns)
    assert max(map(len, lines)) <= columns
    rows = [line.split() for line in lines if "/" in line.split(" ")[0]]
    for (family, model), row in zip(MODELS, rows, strict=True):
        figures = [f"{model.parameters:.2f}", *(f"{gigabytes(model, bits=bits):.1f}" for bits in BITS.values())]
        assert row[:5] == [model.id, *figures, str(model.image_tokens)], family.name
        assert row[5] == model.licence.split()[0]


def test_a_narrow_terminal_cuts_no_number_off(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = (
        [line.split()[:5] for line in listed(monkeypatch, columns=columns) if "/" in line.split(" ")[0]] for columns in (120, 40)
    )
    assert narrow == wide and len(wide) == len(MODELS)


def test_every_family_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = listed(monkeypatch, columns=200)
    for family in FAMILIES.values():
        assert f"{family.name}  {family.description}" in lines
        assert family.known_models, "a family without a published model that it was written for"
    text = " ".join(lines)
    for part in ("both backends, mlx and torch", "computed from the parameters, not measured", "Left out:", "850 x 600"):
        assert part in text


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_every_family_is_on_both_backends_as_it_says(name: str) -> None:
    if not installed(name):
        pytest.skip(f"backend '{name}' is not installed")
    assert set(importlib.import_module(f"mlxtune.backends.{name}.models").MODELS) == set(FAMILIES)


@pytest.mark.parametrize(("name", "model"), PUBLISHED.items(), ids=PUBLISHED)
def test_sizes_and_tokens_are_those_of_the_published_files(name: str, model: KnownModel) -> None:
    folder = asset(name)
    assert sum(map(math.prod, of_mlx(folder).values())) / 1e9 == pytest.approx(model.parameters, abs=0.005)
    processor = load_processor(folder)
    assert processor.image_tokens(processor.grid((850, 600))) == model.image_tokens


@pytest.mark.parametrize(("bits", "expected"), [(BITS["16 bit"], 7.5), (BITS["4 bit"], 3.75 * 4.5 / 8)])
def test_memory_is_parameters_times_bits(bits: float, expected: float) -> None:
    assert gigabytes(KnownModel("a/b", 3.75, "MIT", 1), bits=bits) == pytest.approx(expected)


def test_no_framework_is_loaded_for_it() -> None:
    code = "import sys; from mlxtune.cli import main; main(['list', 'models'], standalone_mode=False); "
    code += "print(sorted({'torch', 'mlx', 'transformers', 'datasets'} & set(sys.modules)), file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.strip()) == (0, "[]")
