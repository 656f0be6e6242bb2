"""The published data sets in small: each function writes one into a folder, in the layout that it has where it is published.

Columns, types, file names and the odd corners are the originals' (hub schema of the Parquet files, pictures as
``struct<bytes, path>``, ids that repeat, hints that are "nan", labels that look like lists); pictures and words are made up.
The same `seed` gives the same bytes. `rows` is the number of rows of each split (of each file where there are no splits).

>>> made = chartqa_hub(tmp_path, rows=4)
>>> load_data(DataSpec(**made.data))          # `data` is the recipe's section that reads it
"""

from __future__ import annotations

import base64
import io
import json
import random
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

CHARTLLAMA_KINDS = (
    "box_chart",
    "candlestick_chart",
    "funnel_chart",
    "gantt_chart",
    "heatmap_chart",
    "polar_chart",
    "scatter_chart",
)
CHARACTERS = {"baba_yaga": "Баба-яга", "firebird": "Жар-птица", "koschei": "Кощей", "kolobok": "Колобок"}
MESSAGE_FORMS = ("openai", "huggingface", "mlx_vlm")
_BASE_PROMPTS = {
    "language": "ru",
    "captions": {"scene": {"prompt": "На картинке {name}. Опиши её и назови имя: {name}.", "question": "Опиши картинку."}},
    "questions": {"pairs": {"prompt": "На картинке {name}. Задай вопросов: {count}, с ответами."}},
}
_WHOLE = {"train": "all", "validation": None, "test": None}
_WORDS = ("красный", "синий", "кошка", "да", "нет", "стол", "два слова", "слева")


class Published(NamedTuple):
    """root: the folder that was written.

    data: the `data` section of a recipe that reads it; it has `splits` where the data has no training rows, or where the few rows
    that are made could not be divided without tearing a picture's questions apart.
    """

    root: Path
    data: dict[str, Any]


def picture(number: int, *, size: tuple[int, int] = (48, 32), form: str = "PNG") -> bytes:
    """An encoded picture: a few bars in colors that only `number` decides."""
    draw_from = random.Random(number)
    image = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(image)
    for left in range(4, size[0] - 8, 12):
        color = tuple(draw_from.randrange(256) for _ in range(3))
        canvas.rectangle((left, draw_from.randrange(size[1] - 4), left + 7, size[1] - 1), fill=color)
    stream = io.BytesIO()
    image.save(stream, form, **({"quality": 90} if form == "JPEG" else {}))
    return stream.getvalue()


# -- charts -----------------------------------------------------------------------------------------------------------


def chartqa_hub(folder: Path, *, rows: int = 4, seed: int = 0, label: str = "list") -> Published:
    """HuggingFaceM4/ChartQA: Parquet shards with a hash in their names. label: "list" as published, or "string"."""
    return _charts(folder, rows=rows, seed=seed, label=label, asked_by=True, shard="-00000-of-00001-{mark:016x}")


def pjn_charts(folder: Path, *, rows: int = 4, seed: int = 0, label: str = "string") -> Published:
    """krowiemlekommm/PJN_CHARTS: the same columns without `human_or_machine`."""
    return _charts(folder, rows=rows, seed=seed, label=label, asked_by=False, shard="-00000-of-00001")


def _charts(folder: Path, *, rows: int, seed: int, label: str, asked_by: bool, shard: str) -> Published:
    import pyarrow as pa

    labels = pa.list_(pa.string()) if label == "list" else pa.string()
    fields = [("image", _picture_type()), ("query", pa.string()), ("label", labels)]
    schema = pa.schema(fields + ([("human_or_machine", pa.int64())] if asked_by else []))
    for place, split in enumerate(("train", "val", "test")):
        table = []
        for number in range(rows):
            draw = random.Random(f"{seed} {split} {number}")
            chart = f"{seed}{place}{number // 2:04}"  # two questions a chart
            answer = str(draw.randrange(100)) if number % 3 else "Yes"
            row = {"image": _cell(int(chart), path=f"{chart}.png"), "query": f"How tall is bar {number}?"}
            row["label"] = [answer] if label == "list" else answer
            table.append(row | ({"human_or_machine": number % 2} if asked_by else {}))
        name = f"{split}{shard.format(mark=random.Random(split).getrandbits(64))}.parquet"
        _write_parquet(folder / "data" / name, table, schema=schema)
    return Published(folder, {"task": "chartqa", "path": str(folder)})


def chartqa_json(folder: Path, *, rows: int = 4, seed: int = 0) -> Published:
    """vis-nlp/ChartQA, the original: ChartQA Dataset/<split>/{<split>_human.json, <split>_augmented.json, png/}."""
    base = folder / "ChartQA Dataset"
    for split in ("train", "val", "test"):
        for kind in ("human", "augmented"):
            table = []
            for number in range(rows):
                name = f"{kind[0]}{seed}{number // 2:05}.png"
                _write(base / split / "png" / name, picture(number // 2 + 100 * len(split)))
                answer = ("[2003, 2004]", "Yes", "0.57", "14")[number % 4]
                table.append({"imgname": name, "query": f"What is bar {number}?", "label": answer})
            _write_json(base / split / f"{split}_{kind}.json", table)
    train = base / "train"
    data = {"path": str(train / "train_human.json"), "image_folder": str(train / "png"), "splits": dict(_WHOLE)}
    return Published(folder, {"task": "chartqa", **data})


def chartllama(folder: Path, *, rows: int = 4, seed: int = 0) -> Published:
    """listen2you002/ChartLlama-Dataset: seven JSON files of conversations, and ours.zip with ours/<kind>/png/."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "ours.zip", "w") as archive:
        for place, kind in enumerate(CHARTLLAMA_KINDS):
            table = []
            for number in range(rows):
                path = f"ours/{kind}/png/{kind}_100examples_{number}.png"
                archive.writestr(zipfile.ZipInfo(path), picture(1000 * place + number + seed))
                asked = f"What does box {number} show?"
                turns = [("human", f"<image>\n{asked}" if number % 2 == 0 else asked), ("gpt", f"It shows {number}.")]
                table.append({"id": f"{kind}_{number}", "image": path, "conversations": _said(turns)})
            _write_json(folder / f"{kind}_100examples_simplified_qa.json", table)
    return Published(
        folder,
        {
            "task": "chartllama",
            "path": str(folder),
            "image_folder": str(folder / "ours.zip"),
        },
    )


# -- photographs, in Russian ------------------------------------------------------------------------------------------


def llava_instruct_ru(folder: Path, *, rows: int = 6, seed: int = 0) -> Published:
    """deepvk/LLaVA-Instruct-ru with a local COCO folder beside it (coco/train2014, coco/val2014).

    Types take turns; every third row is of several turns, every sixth is without a picture; ids repeat.
    """
    import pyarrow as pa

    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    fields = [("type", pa.string()), ("conversations", pa.list_(turn)), ("id", pa.string()), ("image", pa.string())]
    for split, year, first in (
        ("train", "train2014", 0),
        ("validation", "val2014", 500),
    ):  # a number is one picture in all of COCO
        table = []
        for number in range(rows):
            image = f"{year}/COCO_{year}_{seed * 1000 + first + number // 2:012}.jpg" if number % 6 != 5 else None
            if image:
                _write(folder / "coco" / image, picture(first + number // 2, form="JPEG"))
            kind = ("conversation", "detail_description", "complex_reasoning")[number % 3]
            table.append({"type": kind, "conversations": _dialogue(number, image), "id": f"{number // 2:012}", "image": image})
        _write_parquet(folder / "hub" / "data" / f"{split}-00000-of-00001.parquet", table, schema=pa.schema(fields))
    return Published(folder, {"task": "llava", "path": str(folder / "hub"), "image_folder": str(folder / "coco")})


def _dialogue(number: int, image: str | None) -> list[dict[str, str]]:
    asked = "Что на картинке?" if image else "Сколько будет два плюс два?"
    first = (f"<image>\n{asked}", f"{asked}\n<image>")[number % 2] if image else asked
    turns = [("human", first), ("gpt", f"На картинке {_WORDS[number % len(_WORDS)]}.")]
    if number % 3 == 0:
        turns += [("human", "А справа?"), ("gpt", "Справа ничего нет."), ("human", "Точно?"), ("gpt", "Да, точно.")]
    return _said(turns)


def gqa_ru(folder: Path, *, rows: int = 6, seed: int = 0) -> Published:
    """deepvk/GQA-ru: four configurations, a folder each, named in the card; instructions join images on imageId = id."""
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    step = pa.struct([("operation", text), ("argument", text), ("dependencies", pa.list_(pa.int32()))])
    types = pa.struct([("detailed", text), ("semantic", text), ("structural", text)])
    instructions = [("id", text), ("imageId", text), ("question", text), ("answer", text), ("fullAnswer", text)]
    instructions += [("isBalanced", pa.bool_()), ("groups", pa.struct([("global", text), ("local", text)]))]
    instructions += [("entailed", text), ("equivalent", text), ("types", types), ("semantic", pa.list_(step)), ("tags", texts)]
    for split in ("train", "testdev"):
        questions = [_gqa_row(number, split=split, seed=seed) for number in range(rows)]
        keys = dict.fromkeys(row["imageId"] for row in questions)
        pictures = [{"id": key, "image": _cell(number, path=f"{key}.jpg", form="JPEG")} for number, key in enumerate(keys)]
        for part, table, schema in (
            ("instructions", questions, pa.schema(instructions)),
            ("images", pictures, pa.schema([("id", text), ("image", _picture_type())])),
        ):
            _write_parquet(folder / f"{split}_balanced_{part}" / f"{split}-00000-of-00001.parquet", table, schema=schema)
    names = {f"{split}_balanced_{part}": split for split in ("train", "testdev") for part in ("images", "instructions")}
    _write_card(folder, {name: {split: f"{name}/{split}-*"} for name, split in names.items()})
    return Published(
        folder, {"task": "gqa_ru", "path": str(folder), "config": "train_balanced_instructions", "splits": dict(_WHOLE)}
    )


def _gqa_row(number: int, *, split: str, seed: int) -> dict[str, Any]:
    answer = _WORDS[number % len(_WORDS)]
    kind = {"detailed": "exist", "semantic": "obj", "structural": ("verify", "query")[number % 2]}
    row = {"id": f"{seed}2{number:07}", "imageId": f"n{len(split)}{number // 3:05}", "question": f"Что под номером {number}?"}
    row |= {"answer": answer, "fullAnswer": f"Это {answer}.", "isBalanced": True, "entailed": "[]", "equivalent": "[]"}
    steps = [{"operation": "select", "argument": "предмет", "dependencies": []}]
    return row | {"types": kind, "groups": {"global": None, "local": f"06-{number}"}, "semantic": steps, "tags": []}


def mmbench_ru(folder: Path, *, rows: int = 4, seed: int = 0, level_2: str = "l2-category") -> Published:
    """deepvk/MMBench-ru, split dev: `rows` questions, each with all its rotations (index + a million a turn).

    Hints are texts, null or "nan"; every third question has only two options. level_2: the name of that column.
    """
    import pyarrow as pa

    text = pa.string()
    fields = [("index", pa.int64()), ("question", text), ("hint", text), *((letter, text) for letter in "ABCD"), ("answer", text)]
    fields += [
        ("category", text),
        ("image", _picture_type()),
        ("source", text),
        (level_2, text),
        ("comment", text),
        ("split", text),
    ]
    table = []
    for number in range(rows):
        options = [f"{_WORDS[(number + seed + shift) % len(_WORDS)]}" for shift in range(2 if number % 3 == 2 else 4)]
        for turn in range(len(options)):
            rotated = options[turn:] + options[:turn]
            row: dict[str, Any] = dict(zip("ABCD", rotated + [None] * (4 - len(options)), strict=True))
            row |= {
                "index": number + 1_000_000 * turn,
                "question": f"Что верно ({number})?",
                "answer": "ABCD"[-turn % len(options)],
            }
            row |= {"hint": ("Смотри на стол.", None, "nan")[number % 3], "category": ("ocr", "image_style")[number % 2]}
            row |= {level_2: "finegrained_perception", "source": "made up", "comment": None, "split": "dev"}
            table.append(row | {"image": _cell(number, path=None, form="JPEG")})
    _write_parquet(folder / "data" / "dev-00000-of-00001.parquet", table, schema=pa.schema(fields))
    return Published(
        folder, {"task": "mmbench_ru", "path": str(folder), "splits": {"train": None, "validation": None, "test": "dev"}}
    )


# -- own pictures and chats -------------------------------------------------------------------------------------------


def characters(folder: Path, *, rows: int = 3, seed: int = 0) -> Published:
    """Regional entities: images/<class>/*.jpg (`rows` a class), character_names.json, base_prompts.json, annotations.jsonl."""
    annotations = []
    for place, (key, name) in enumerate(CHARACTERS.items()):
        for number in range(rows):
            path = f"images/{key}/{key}_{number:03}.jpg"
            _write(folder / path, picture(1000 * place + number + seed, form="JPEG"))
            row = {"image": path, "class": key, "kind": "caption", "question": "Опиши картинку.", "answer": f"{name} на поляне."}
            annotations.append(row if number % 2 == 0 else row | {"kind": "question", "question": "Кто это?", "answer": name})
    names: dict[str, Any] = dict(CHARACTERS)
    names["koschei"] = {"name": "Кощей", "aliases": ["Кощей Бессмертный"], "cases": ["Кощея", "Кощею"]}
    _write_json(folder / "character_names.json", names)
    _write_json(folder / "base_prompts.json", _BASE_PROMPTS)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in annotations)
    _write(folder / "annotations.jsonl", lines.encode())
    return Published(
        folder, {"task": "characters", "path": str(folder / "images"), "names": str(folder / "character_names.json")}
    )


def messages(folder: Path, *, form: str, rows: int = 12, seed: int = 0) -> Published:
    """Chats of two questions about two pictures, in one of `MESSAGE_FORMS`.

    openai: JSONL, content parts, pictures as data: URIs. huggingface: Parquet, content parts that number the pictures of the
    column `images`. mlx_vlm: JSONL, content as text, `images` as paths.
    """
    write = {"openai": _openai, "huggingface": _huggingface, "mlx_vlm": _mlx_vlm}[form]
    write(folder, rows, seed)
    return Published(folder, {"task": "messages", "path": str(folder)})


def _openai(folder: Path, rows: int, seed: int) -> None:
    lines = []
    for number in range(rows):
        uris = ["data:image/png;base64," + base64.b64encode(_image(number, which, seed)).decode() for which in range(2)]
        parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
        turns = _chat([[{"type": "text", "text": "Compare:"}, *parts], [{"type": "text", "text": f"Which of {number}?"}]])
        lines.append({"messages": [{"role": "system", "content": "Be brief."}, *turns]})
    _write(folder / "train.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def _huggingface(folder: Path, rows: int, seed: int) -> None:
    import pyarrow as pa

    part = pa.struct([("index", pa.int64()), ("text", pa.string()), ("type", pa.string())])
    turn = pa.struct([("content", pa.list_(part)), ("role", pa.string())])
    table = []
    for number in range(rows):
        first = [_part(index=0), _part(index=1), _part(text="Compare:")]
        chat = [
            turn | {"content": turn["content"] if isinstance(turn["content"], list) else [_part(text=turn["content"])]}
            for turn in _chat([first, [_part(text=f"Which of {number}?")]])
        ]
        cells = [{"bytes": _image(number, which, seed), "path": None} for which in range(2)]
        table.append({"messages": chat, "images": cells})
    schema = pa.schema([("messages", pa.list_(turn)), ("images", pa.list_(_picture_type()))])
    _write_parquet(folder / "data" / "train-00000-of-00001.parquet", table, schema=schema)


def _part(*, text: str | None = None, index: int | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "type": "text" if index is None else "image"}


def _mlx_vlm(folder: Path, rows: int, seed: int) -> None:
    lines = []
    for number in range(rows):
        paths = [f"pictures/{number}-{which}.png" for which in range(2)]
        for which, path in enumerate(paths):
            _write(folder / path, _image(number, which, seed))
        lines.append({"images": paths, "messages": _chat(["Compare:", f"Which of {number}?"])})
    _write(folder / "train.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def _chat(asked: Iterable[Any]) -> list[dict[str, Any]]:
    answers = iter(("They differ.", "The left one."))
    return [
        turn
        for content in asked
        for turn in ({"role": "user", "content": content}, {"role": "assistant", "content": next(answers)})
    ]


def _image(number: int, which: int, seed: int) -> bytes:
    return picture(10 * number + which + 1000 * seed, size=(40, 24 + 8 * which))


# -- writing ----------------------------------------------------------------------------------------------------------


def _said(turns: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"from": role, "value": text} for role, text in turns]


def _cell(number: int, *, path: str | None, form: str = "PNG") -> dict[str, Any]:
    return {"bytes": picture(number, form=form), "path": path}


def _picture_type() -> Any:
    import pyarrow as pa

    return pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _write_parquet(file: Path, rows: list[dict[str, Any]], *, schema: Any) -> None:
    """With what the hub's own files say beside the schema: which columns are pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    info = {"info": {"features": {field.name: _feature(field.type) for field in schema}}}
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), file, row_group_size=100)


def _feature(kind: Any) -> dict[str, Any]:
    import pyarrow as pa

    if kind == _picture_type():
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        return {part.name: _feature(part.type) for part in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": str(kind), "_type": "Value"}


def _write_card(folder: Path, configs: Mapping[str, Mapping[str, str]]) -> None:
    lines = ["---", "configs:"]
    for name, files in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, path in files.items():
            lines += [f"  - split: {split}", f"    path: {path}"]
    _write(folder / "README.md", "\n".join([*lines, "---", ""]).encode())


def _write_json(file: Path, content: Any) -> None:
    _write(file, json.dumps(content, ensure_ascii=False, indent=1).encode())


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
