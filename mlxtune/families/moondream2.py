"""Moondream 2 in both published layouts: a SigLIP tower over overlapping crops, and a phi text model of its own naming.

`moondream2`, since 2025: weights `model.text.*`, `model.vision.*`; BOS and the picture see each other both ways; the picture is
one small copy and up to twelve overlapping crops, pooled together into as many tokens as the copy alone gives. Up to April 2025
with the CodeGen tokenizer, later with another one ("starmie") whose special tokens frame the question.
`moondream2_phi`, 2024: weights `text_model.transformer.*`, `vision_encoder.*`; causal throughout; up to 2 x 2 crops side by side,
or in the first revisions the small copy alone. Names of its layers are canonically those of 2025.

Source: moondream/torch and moondream/hf of github.com/vikhyat/moondream (Apache-2.0), which is also what the hub's folders hold
as code; nothing of a folder is run here. That code normalises pictures in half precision, and resizes with pyvips where it is
installed; here it is single precision and PIL, which is what it falls back to. The first revisions of 2024 used timm's tower;
its eps (1e-6) and its exact GELU differ a little from the later code, which is followed for all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlxtune.errors import DataError, ModelError, RecipeError
from mlxtune.families.base import Family, KnownModel, Processor
from mlxtune.families.config import ModelConfig, read_json
from mlxtune.families.moondream2_crops import Sizes, is_phi_layout, select_tiling, sizes
from mlxtune.images import ImageRef
from mlxtune.types import Encoded, Example

_END = "<|endoftext|>"  # begins and ends a row in every layout
_WHOLE_BELOW = 512 / 378  # 2024: a picture whose longer side is below this many crops is not cut


@dataclass(frozen=True)
class Frame:
    """What stands around a question and before an answer, and the published ids of it. tokenizer: its name, for messages."""

    tokenizer: str
    before: str
    lead: str  # before the question's text; tokenized with it
    after: str
    answer: str  # before the answer's text
    end_id: int
    before_ids: tuple[int, ...]
    after_ids: tuple[int, ...]

    @property
    def template(self) -> str:
        """For one turn: the picture stands before the text wherever the row has it."""
        return (
            f"{{{{ {_END!r} }}}}{{% for m in messages %}}{{% set parts = m['content'] %}}"
            "{% if parts is string %}{% set parts = [{'type': 'text', 'text': m['content']}] %}{% endif %}"
            "{% if m['role'] not in ['user', 'assistant'] %}"
            "{{ raise_exception('Moondream has no place for a ' ~ m['role'] ~ ' turn') }}{% endif %}"
            f"{{% if m['role'] == 'assistant' %}}{{{{ {self.answer!r} }}}}{{% endif %}}"
            "{% for part in parts if part['type'] == 'image' %}<image>{% endfor %}"
            f"{{% if m['role'] == 'user' %}}{{{{ {self.before + self.lead!r} }}}}{{% endif %}}"
            "{% for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
            f"{{{{ {self.after!r} if m['role'] == 'user' else {_END!r} }}}}{{% endfor %}}"
        )


CODEGEN = Frame(
    tokenizer="CodeGen's (until April 2025)",
    before="\n\nQuestion:",
    lead=" ",
    after="\n\nAnswer:",
    answer=" ",
    end_id=50256,
    before_ids=(198, 198, 24361, 25),
    after_ids=(198, 198, 33706, 25),
)
# Whether answers began with a space in its training is not published; its prompts have none anywhere.
STARMIE = Frame(
    tokenizer="moondream/starmie-v1 (since May 2025)",
    before="<|md_reserved_0|>query<|md_reserved_1|>",
    lead="",
    after="<|md_reserved_2|>",
    answer="",
    end_id=0,
    before_ids=(1, 15381, 2),
    after_ids=(3,),
)
_STARMIE_SINCE = "2025-05"


def _starmie_witness(folder: Path) -> str | None:
    """The file of the folder that shows weights of after May 2025, read as text; their config.json is that of before."""
    code, versions = folder / "config.py", folder / "versions.txt"
    if code.exists() and re.search(r"\bbos_id:\s*int\s*=\s*0\b", code.read_text(encoding="utf-8", errors="replace")):
        return code.name
    listed = versions.read_text(encoding="utf-8", errors="replace") if versions.exists() else ""
    return versions.name if max(re.findall(r"\b20\d\d-\d\d-\d\d\b", listed), default="") >= _STARMIE_SINCE else None


class Moondream2Processor(Processor):
    image_token = "<image>"
    settings_file = False
    several_turns = False

    def __init__(self, config: ModelConfig, family: Family, *, min_pixels: int | None, max_pixels: int | None) -> None:
        super().__init__(config, family, min_pixels=min_pixels, max_pixels=max_pixels)
        if min_pixels is not None:
            raise RecipeError(
                f"model.min_pixels: {min_pixels} has no meaning for {family.name}, which makes every picture "
                f"{self.sizes.crop} x {self.sizes.crop} pixels or larger anyway. Set it to null"
            )

    @cached_property
    def sizes(self) -> Sizes:
        return sizes(self.config)

    # -- pictures -------------------------------------------------------------------------------------------------

    def _max_crops(self) -> int:
        """`max_pixels` lowers how many crops there may be to as many as hold so many pixels, never below one."""
        published = self.sizes.max_crops
        return published if self.max_pixels is None else min(published, max(1, self.max_pixels // self.sizes.crop**2))

    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(rows, columns) of crops; (1, 1) where the small copy of the whole is the only one."""
        margins = 2 * self.sizes.margin * self.sizes.patch
        width, height = (side - margins for side in size)
        most = self._max_crops()
        rows, columns = select_tiling((width, height), window=self.sizes.crop - margins, max_crops=most)
        # Of a very narrow picture the published code makes a row of more crops than its limit; ours is kept.
        return (rows, columns) if self.max_pixels is None else (min(rows, most), min(columns, most))

    def image_tokens(self, grid: tuple[int, ...]) -> int:
        return self.sizes.side**2

    def image_text(self, grid: tuple[int, ...]) -> str:
        return self.image_token * self.image_tokens(grid)

    def pixel_values(self, image: ImageRef) -> np.ndarray:
        """[1 or 1 + rows * columns, 3, crop, crop]: the small copy of the whole, then the crops row by row.

        Where there is one crop it equals the small copy, and is left out.
        """
        crop, (rows, columns) = self.sizes.crop, self.grid(image.size)
        margins = 2 * self.sizes.margin * self.sizes.patch
        picture, lanczos = image.load(), Image.Resampling.LANCZOS
        parts = [picture.resize((crop, crop), lanczos)]
        if rows * columns > 1:
            large = picture.resize((columns * (crop - margins) + margins, rows * (crop - margins) + margins), lanczos)
            parts += _cut(large, rows=rows, columns=columns, side=crop, step=crop - margins)
        return np.stack([_normalised(part) for part in parts])

    # -- text -----------------------------------------------------------------------------------------------------

    @cached_property
    def tokenizer(self) -> Any:
        """From tokenizer.json alone, as Moondream's own code reads it: config.json names code that AutoTokenizer would want."""
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        path = self.config.folder / "tokenizer.json"
        if not path.exists():
            raise ModelError(f"{path}: no such tokenizer file; a model folder needs it. Download the model again")
        read_json(path)
        try:
            made = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            reason = " ".join(str(error).split())
            raise ModelError(f"{path}: the tokenizer cannot be loaded ({reason}). Download the model again") from error
        # Without that token transformers would add it behind the vocabulary, where the model has never seen it.
        if made.token_to_id(_END) is None:
            raise ModelError(f"{path}: knows no '{_END}', so it is no tokenizer of Moondream's. Download the model again")
        settings = {"bos_token": _END, "eos_token": _END, "clean_up_tokenization_spaces": False}
        return PreTrainedTokenizerFast(tokenizer_object=made, **settings)

    @cached_property
    def frame(self) -> Frame:
        """Which of the published prompts the tokenizer is for. Errors: ModelError where it is for none, or not the weights'."""
        found = self._known_frame()
        if is_phi_layout(self.config):
            return found  # the code of 2024 takes all ids from the tokenizer
        declared = (self.config.top.get("config") or {}).get("tokenizer") or {}
        query = (declared.get("templates") or {}).get("query") or {}
        wanted = {_END: [declared.get("eos_id", found.end_id)], found.before: list(query.get("prefix", found.before_ids))}
        wanted[found.after] = list(query.get("suffix", found.after_ids))
        for text, ids in wanted.items():
            ours = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if ours != ids:
                raise ModelError(
                    f"{self.config.folder}/tokenizer.json: reads {text!r} as {ours}, the model knows it as {ids}, so it is not "
                    f"what the weights were trained with. Put the tokenizer.json of {found.tokenizer} there"
                )
        return found

    def _known_frame(self) -> Frame:
        path, marks = self.config.folder / "tokenizer.json", [f"<|md_reserved_{n}|>" for n in range(3)]
        known = [mark in self.tokenizer.get_vocab() for mark in marks]
        if any(known) and (is_phi_layout(self.config) or not all(known)):
            raise ModelError(
                f"{path}: holds {marks[known.index(True)]}, but is not {STARMIE.tokenizer}. Use a published revision"
            )
        witness = None if is_phi_layout(self.config) or all(known) else _starmie_witness(self.config.folder)
        if witness is not None:
            raise ModelError(
                f"{path}: is {CODEGEN.tokenizer}, but {witness} shows that the weights are younger and were trained with "
                f"{STARMIE.tokenizer}, which the hub keeps apart. Put its tokenizer.json there, or set model.revision: 2025-04-14"
            )
        return STARMIE if all(known) else CODEGEN

    def default_template(self) -> str:
        """Moondream publishes none."""
        return self.frame.template

    @cached_property
    def image_token_id(self) -> int:
        """A row of the embedding that no text gives; Moondream has no placeholder of its own."""
        last = self.sizes.vocabulary - 1
        return last if len(self.tokenizer) <= last else int(self.tokenizer.convert_tokens_to_ids("<|md_reserved_4|>"))

    @cached_property
    def pad_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        # Not what generation_config.json says: the file of before May 2025 still lies beside the weights of after.
        return frozenset([self.pad_id])

    def prefix(self, input_ids: np.ndarray) -> int:
        """BOS and the picture."""
        return 1 + self.sizes.side**2

    def encode(self, example: Example, *, max_tokens: int | None, answer: bool) -> Encoded:
        made = super().encode(example, max_tokens=max_tokens, answer=answer)
        if len(made.image_rows) != len(example.images) * self.sizes.side**2:
            raise DataError(f"{example.id}: the text holds the token that stands for pictures here. Remove it from the row")
        return made

    def _prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
        """Cut where the published code tokenizes the parts apart."""
        parts = super()._prompt(messages)
        return [(piece, learned) for text, learned in parts for piece in ([text] if learned else self._parted(text))]

    def _parted(self, text: str) -> list[str]:
        fixed = [re.escape(part) for part in (_END + self.image_token, self.frame.before, self.frame.after)]
        match = re.fullmatch(f"({fixed[0]})({fixed[1]})(.*)({fixed[2]})", text, re.DOTALL)
        return [piece for piece in match.groups() if piece] if match else [text]

    def _tokenize(self, text: str) -> list[int]:
        first, *others = [
            super(Moondream2Processor, self)._tokenize(part) if part else [] for part in text.split(self.image_token)
        ]
        return first + [token for part in others for token in (self.image_token_id, *part)]


class Moondream2PhiProcessor(Moondream2Processor):
    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Source: `VisionEncoder.preprocess` of moondream/hf/vision_encoder.py, which compares heights with widths, as here."""
        width, height = size
        crop = self.sizes.crop
        if self.sizes.views == 1 or max(width, height) < _WHOLE_BELOW * crop:
            return 1, 1
        tilings = [(rows, columns) for rows in (1, 2) for columns in (1, 2) if rows * columns <= self._max_crops()]
        return min(
            tilings, key=lambda t: (abs(t[1] / t[0] - width / height), abs(t[0] * crop - width) + abs(t[1] * crop - height))
        )

    def pixel_values(self, image: ImageRef) -> np.ndarray:
        """As the layout of 2025, but the small copy is made of the large one, whose neighbours are averaged, and without PIL."""
        crop, (rows, columns) = self.sizes.crop, self.grid(image.size)
        large = image.load().resize((columns * crop, rows * crop), Image.Resampling.BICUBIC)
        parts = [_normalised(part) for part in _cut(large, rows=rows, columns=columns, side=crop, step=crop)]
        if len(parts) == 1:
            return np.stack(parts)
        values = _normalised(large)
        corners = [values[:, row::rows, column::columns] for row in range(rows) for column in range(columns)]
        whole = sum(corners[1:], corners[0]) / np.float32(len(corners))
        return np.stack([whole, *parts])

    def prefix(self, input_ids: np.ndarray) -> int:
        return 0

    def _parted(self, text: str) -> list[str]:
        start = _END + self.image_token
        return [start, text[len(start) :]] if text.startswith(start) and len(text) > len(start) else [text]


def _normalised(picture: Image.Image) -> np.ndarray:
    """[3, height, width] float32 in -1..1."""
    return (np.asarray(picture, np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5


def _cut(picture: Image.Image, *, rows: int, columns: int, side: int, step: int) -> list[Image.Image]:
    """Squares of `side` pixels that begin `step` pixels apart, row by row."""
    corners = [(column * step, row * step) for row in range(rows) for column in range(columns)]
    return [picture.crop((x, y, x + side, y + side)) for x, y in corners]


MOONDREAM2 = Family(
    name="moondream2",
    model_types=("moondream1",),
    description="Moondream 2 of 2025 (model.revision: 2025-01-09 to 2025-04-14): 729 tokens a picture, up to twelve crops",
    known_models=(KnownModel("vikhyatk/moondream2", 1.87, "Apache-2.0", 729),),
    processor=Moondream2Processor,
    sites={
        "attention": r"model\.text\.blocks\.\d+\.attn\.(qkv|proj)",
        "mlp": r"model\.text\.blocks\.\d+\.mlp\.fc[12]",
        "projector": r"model\.vision\.proj_mlp\.fc[12]",
        "vision": r"model\.vision\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])",
    },
    layer=r"model\.text\.blocks\.(\d+)\..*",
    renames=(),
    left_out=r"model\.region\..*",
    pictures=(1, 1),
    accepts=lambda config: "config" in config.top,
)

_VISUAL_2024, _BLOCK_2024 = r"^vision_encoder\.encoder\.model\.visual\.", r"^text_model\.transformer\.h\.(\d+)\."
MOONDREAM2_PHI = replace(
    MOONDREAM2,
    name="moondream2_phi",
    description="Moondream 2 of 2024 (model.revision: 2024-08-26 and before): 729 tokens a picture, up to 2 x 2 crops",
    processor=Moondream2PhiProcessor,
    renames=(
        (r"^text_model\.transformer\.embd\.wte\.weight$", "model.text.wte"),
        (_BLOCK_2024 + r"mixer\.Wqkv(?=\.|$)", r"model.text.blocks.\1.attn.qkv"),
        (_BLOCK_2024 + r"mixer\.out_proj(?=\.|$)", r"model.text.blocks.\1.attn.proj"),
        (_BLOCK_2024, r"model.text.blocks.\1."),
        (r"^text_model\.lm_head\.ln\.", "model.text.post_ln."),
        (r"^text_model\.lm_head\.linear(?=\.|$)", "model.text.lm_head"),
        (_VISUAL_2024 + r"patch_embed\.linear(?=\.|$)", "model.vision.patch_emb"),
        (_VISUAL_2024 + r"pos_embed$", "model.vision.pos_emb"),
        (_VISUAL_2024 + r"blocks\.(\d+)\.norm([12])\.", r"model.vision.blocks.\1.ln\2."),
        (_VISUAL_2024 + r"norm\.", "model.vision.post_ln."),
        (_VISUAL_2024, "model.vision."),
        (r"^vision_encoder\.projection\.mlp\.", "model.vision.proj_mlp."),
    ),
    left_out=r"region_model\..*",
    accepts=is_phi_layout,
)
