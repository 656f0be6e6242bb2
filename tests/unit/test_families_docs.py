"""docs/add-a-family.md names what there is, and shows a family as it is."""

import re
from pathlib import Path

from mlxtune.backends import base as backends_base
from mlxtune.families import FAMILIES, Family, Processor
from tests.helpers.families import FIXTURES, Fixture

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/add-a-family.md").read_text(encoding="utf-8")


def test_every_file_it_names_is_there_for_every_family() -> None:
    paths = re.findall(r"`((?:tests|mlxtune)/[\w/]+\.py)`", PAGE)
    assert len(paths) >= 8
    homes = {"moondream2_phi": "moondream2"}  # two layouts, one module
    for path in paths:
        for family in FAMILIES if "NAME" in path and "test_family" not in path else ("any",):
            assert (ROOT / path.replace("NAME", homes.get(family, family))).is_file() or "test_family" in path, (path, family)


def test_the_example_is_the_family_itself() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert block in (ROOT / "mlxtune/families/smolvlm.py").read_text(encoding="utf-8")


def test_the_names_are_there() -> None:
    for name in ("grid", "image_tokens", "image_text", "pixel_values", "positions", "prefix", "crossed", "default_template"):
        assert f"`{name}`" in PAGE and hasattr(Processor, name), name
    for name in ("renames", "pictures", "known_models"):
        assert f"`{name}`" in PAGE and name in Family.__dataclass_fields__, name
    for name in ("load", "logits", "answer", "assets"):
        assert f"`{name}`" in PAGE and name in Fixture.__dataclass_fields__, name
    assert set(FAMILIES) == set(FIXTURES) and backends_base.Backend
