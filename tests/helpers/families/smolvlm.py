"""SmolVLM2, small and random. Its published files are not at hand: tokenizer and template are those of the small Idefics3."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tests.helpers.families import idefics3

KIND = idefics3.Kind("smolvlm", "smolvlm_vision", "SmolVLM")
FIXTURE = replace(
    idefics3.FIXTURE,
    build=partial(idefics3.build, kind=KIND),
    write_files=partial(idefics3.write_files, kind=KIND),
    assets=(),
    ends={},
)
