"""One fixture for each family of the registry; a family joins with one line here."""

from tests.helpers.families import donut, idefics3, llava, moondream2, qwen2_5_vl, qwen2_vl, qwen3_vl, smolvlm
from tests.helpers.families.base import Fixture

FIXTURES: dict[str, Fixture] = {
    "qwen2_5_vl": qwen2_5_vl.FIXTURE,
    "qwen2_vl": qwen2_vl.FIXTURE,
    "qwen3_vl": qwen3_vl.FIXTURE,
    "idefics3": idefics3.FIXTURE,
    "moondream2": moondream2.FIXTURE,
    "moondream2_phi": moondream2.FIXTURE_2024,
    "smolvlm": smolvlm.FIXTURE,
    "llava": llava.FIXTURE,
    "donut": donut.FIXTURE,
}
