"""A made-up evaluation whose wrong answers have known causes: 40 of each, half English and half Russian, among right ones."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from tests.helpers import planted_texts as texts

EACH = 40
COLORS_EN = ("red", "blue", "green", "yellow", "purple", "orange", "gray", "black", "white", "brown")
COLORS_RU = ("красный", "синий", "зелёный", "жёлтый", "фиолетовый", "оранжевый", "серый", "чёрный", "белый", "коричневый")
THINGS_EN = ("Kiwi", "Salt", "Beef", "Corn", "Wine", "Rice", "Nuts", "Tea", "South Korea", "light oil")
THINGS_RU = ("стол", "шкаф", "кровать", "тарелка", "холодильник", "медведь", "зонт", "дорожный знак", "поезд", "ножницы")
ENTITIES = ("Баба-Яга", "Кощей Бессмертный", "Змей Горыныч", "Firebird", "Snow Maiden", "Father Frost", "Водяной", "Леший")
# (reference with a slip, what was answered); the "c" of "cтол" is Latin
SLIPS = (
    ("Yes.", "Yes"),
    ('"Kiwi"', "Kiwi"),
    ("12.0", "12"),
    ("Corn;", "corn"),
    ("0.30000000000000004", "0.3"),
    ("«шкаф»", "шкаф"),
    ("нет.", "нет"),
    ("cтол", "стол"),
    ("Tea\u200b", "Tea"),
    ("зонт!", "Зонт"),
)
# kind -> (question, answers)
KINDS = {
    "color": ("What color is the {0} bar?", COLORS_EN),
    "цвет": ("Какого цвета предмет номер {0}?", COLORS_RU),
    "extreme": ("Which label has series {0} highest?", THINGS_EN),
    "предмет": ("Что находится слева от предмета {0}?", THINGS_RU),
    "verify": ("Is series {0} above the average?", ("Yes", "No")),
    "проверка": ("Верно ли, что предмет {0} новый?", ("да", "нет")),
}
VALUE = {"value": "What is the value of series Q{0}?", "значение": "Чему равно значение ряда Р{0}?"}


def planted() -> tuple[list[dict[str, Any]], dict[str, str]]:
    """(lines of predictions.jsonl, id of each wrong one -> its cause). `exact_match` says what is right."""
    draw = random.Random(5)
    lines = [*_right(draw)]
    truth: dict[str, str] = {}
    for cause, maker in MAKERS.items():
        for number, made in zip(range(EACH), maker(draw), strict=False):
            row = {**_line(f"{cause}-{number}", **made), "scores": {"exact_match": 0.0}}
            lines.append(row)
            truth[row["id"]] = cause
    draw.shuffle(lines)
    return lines, truth


def _line(id: str, *, question: str, reference: str | Sequence[str], prediction: str | None, **more: Any) -> dict[str, Any]:
    references = [reference] if isinstance(reference, str) else list(reference)
    kind = more.pop("kind", None)
    return {
        "id": id,
        "question": question,
        "target": references[0],
        "references": references,
        "prediction": prediction,
        "finish": "stop",
        "new_tokens": len(prediction or ""),
        "images": [f"{id}.png"],
        "scores": {"exact_match": 1.0},
        **({"meta": {"kind": kind}} if kind else {}),
        **more,
    }


def _right(draw: random.Random) -> Iterator[dict[str, Any]]:
    for kind, (question, answers) in KINDS.items():
        for number in range(30):
            answer = answers[number % len(answers)]
            yield _line(
                f"right-{kind}-{number}", question=question.format(number), reference=answer, prediction=answer, kind=kind
            )
    for kind, question in VALUE.items():
        for number in range(30):
            value = str(draw.randrange(10, 400))
            yield _line(f"right-{kind}-{number}", question=question.format(number), reference=value, prediction=value, kind=kind)
    for number, name in enumerate(ENTITIES):
        yield _line(f"right-name-{number}", question="Кто это?", reference=name, prediction=name, names=[name])


def _asked(draw: random.Random, kind: str, number: int) -> dict[str, Any]:
    question, answers = KINDS[kind]
    return {"question": question.format(number), "reference": draw.choice(answers), "kind": kind}


def _words(draw: random.Random, number: int) -> dict[str, Any]:
    return _asked(draw, ("color", "предмет", "extreme", "цвет")[number % 4], number)


def _any(draw: random.Random, number: int, *, english: bool | None = None) -> dict[str, Any]:
    """A question of any kind; english: only those asked in English, or only those that are not."""
    if number % 5 == 4:
        return _number(draw, number)
    kinds = [kind for kind in KINDS if english is None or kind.isascii() is english]
    return _asked(draw, kinds[number % len(kinds)], number)


def _number(draw: random.Random, number: int) -> dict[str, Any]:
    kind = tuple(VALUE)[number % 2]
    return {"question": VALUE[kind].format("xyz"[number % 3]), "reference": str(draw.randrange(20, 900)), "kind": kind}


# -- one maker for each cause: endless, or at least 40 rows -----------------------------------------------------------


def _pictures(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(texts.NO_PICTURE):
        yield {**_any(draw, number, english=text.isascii()), "prediction": text}
        yield {**_any(draw, number), "prediction": ("A bench", "не знаю", "17", "", "на столе")[number % 5], "images": []}


def _empties(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(EACH):
        yield {**_any(draw, number), "prediction": ("", "  ", "\n\n", "...", "—", "*", "?", "«»", "\u200b", "- -")[number % 10]}


def _each(values: Sequence[str], **more: Any):
    def make(draw: random.Random) -> Iterator[dict[str, Any]]:
        for number, text in enumerate(values):
            yield {**_any(draw, number, english=text.isascii()), "prediction": text, **more}

    return make


def _others(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(texts.OTHER):
        kinds = ("color", "extreme") if text.isascii() else ("цвет", "предмет")
        yield {**_asked(draw, kinds[number % 2], number), "prediction": text}


def _pairs(values: Sequence[str], question: str, kind: str):
    def make(draw: random.Random) -> Iterator[dict[str, Any]]:
        for reference, answer in zip(values[::2], values[1::2], strict=True):
            yield {"question": question, "reference": reference, "prediction": answer, "kind": kind}

    return make


def _slips(draw: random.Random) -> Iterator[dict[str, Any]]:
    """References with a fault of their own; answers that have none."""
    for reference, answer in SLIPS:
        yield {"question": "Что здесь?" if answer[0] > "z" else "What is it?", "reference": reference, "prediction": answer}
    for number in range(10):  # ten pairs of rows that deny each other; both are answered wrongly
        asked = _words(draw, number)
        for answer in _two(draw, KINDS[asked["kind"]][1]):
            yield {**asked, "reference": answer, "prediction": "something else", "images": [f"twice-{number}.png"]}
    for number in range(5):
        yield {**_asked(draw, "verify", number), "reference": ("Yes", "No"), "prediction": "Perhaps"}
        choices = {"A": "стол", "B": "Стол", "C": "зонт"} if number % 2 else {"A": "Kiwi", "B": "Corn"}
        yield {"question": "Which?", "reference": "A" if number % 2 else "E", "prediction": "B", "choices": choices}


def _two(draw: random.Random, values: Sequence[str]) -> list[str]:
    return draw.sample(list(values), 2)


def _options(draw: random.Random, number: int) -> tuple[dict[str, Any], str, str]:
    """(a row with options, the right letter, a wrong letter)."""
    things = draw.sample(THINGS_RU if number % 2 else THINGS_EN, 4)
    right, wrong = _two(draw, "ABCD")
    question = "Что на картинке?" if number % 2 else "What does the picture show?"
    return {"question": question, "reference": right, "choices": dict(zip("ABCD", things, strict=True))}, right, wrong


def _letters(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(EACH):
        row, right, _ = _options(draw, number)
        text = row["choices"][right]
        if number % 4 == 3:  # the other way round: the question lists the options and wants the text
            listed = "\n".join(f"{letter}. {choice}" for letter, choice in row.pop("choices").items())
            yield {**row, "question": f"{row['question']}\n{listed}", "reference": text, "prediction": f"({right})"}
        else:
            yield {
                **row,
                "prediction": (text, f"{text.upper()}.", f"It is {text}" if number % 2 == 0 else f"Это {text}!")[number % 3],
            }


def _other_options(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(EACH):
        row, _, wrong = _options(draw, number)
        text = row["choices"][wrong]
        yield {**row, "prediction": (wrong, f"{wrong}.", text, f"({wrong}) {text}", f"Мой выбор: {text}")[number % 5]}


def _sentences(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(EACH):
        row = (_words, _number, _any, _words)[number % 4](draw, number)
        english = row["kind"].isascii()
        template = (texts.SENTENCES_EN if english else texts.SENTENCES_RU)[number // 4]
        yield {**row, "prediction": template.format(row["reference"])}


def _near(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(EACH):
        row = _number(draw, number)
        value = float(row["reference"])
        off = value * (1 + draw.choice((-1, 1)) * draw.uniform(0.02, 0.095))
        yield {**row, "prediction": _wrapped(f"{off:.1f}", number)}


def _wrapped(value: str, number: int) -> str:
    return (value, f"It is {value}.", f"{value} %", f"Примерно {value} по шкале", f"{value} кг")[number % 5]


def _numbers(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(EACH):
        row = _number(draw, number)
        off = float(row["reference"]) * draw.choice((0.3, 0.55, 0.8, 1.25, 1.9, 4.0)) + 0.7
        years = {"question": "In which year was it highest?" if number % 2 else "В каком году был пик?", "reference": "2014"}
        yield (
            {**row, **years, "prediction": str(2015 + number % 4)}
            if number % 8 == 7
            else {**row, "prediction": _wrapped(f"{off:.1f}", number)}
        )


def _items(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(EACH):
        row = _asked(draw, tuple(KINDS)[number % len(KINDS)], number)
        other = draw.choice([answer for answer in KINDS[row["kind"]][1] if answer != row["reference"]])
        sentence = texts.SENTENCES_EN[number // 4] if row["kind"].isascii() else texts.SENTENCES_RU[number // 4]
        yield {**row, "prediction": sentence.format(other) if number % 3 == 2 else other}


def _names(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(EACH):
        own, other = _two(draw, [name for name in ENTITIES if name.isascii() is (number % 2 == 0)])
        said = (other, f"На рисунке {other}, персонаж сказок.", f"This is {other}.", f"{other}?")[number % 4]
        question = "Кто это?" if number % 2 else "Who is shown?"
        reference = f"{own} стоит у леса и смотрит вдаль" if number % 2 else f"{own} stands near a wood and looks far away"
        yield {"question": question, "reference": reference, "prediction": said, "names": [own]}


def _off(draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(EACH):
        kind = ("verify", "value", "проверка", "значение")[number % 4]
        row = _asked(draw, kind, number) if kind in KINDS else {**_number(draw, 0 if kind == "value" else 1)}
        english = ("the tall one", "a dotted line", "between the bars", "pink slice")[number // 4 % 4]
        russian = ("высокая полоса", "где-то рядом", "тонкая линия", "розовый сектор")[number // 4 % 4]
        yield {**row, "prediction": english if kind.isascii() else russian}


MAKERS = {
    "image_missing": _pictures,
    "empty": _empties,
    "refusal": _each(texts.REFUSALS),
    "repetition": _each(texts.LOOPS, finish="length"),
    "reference_doubtful": _slips,
    "form_writing": _pairs(texts.WRITING, "Which one?", "writing"),
    "form_number": _pairs(texts.NUMBER_FORMS, "How much is it?", "amount"),
    "form_letter": _letters,
    "form_language": _pairs(texts.LANGUAGE, "What?", "language"),
    "form_word": _pairs(texts.WORD_FORMS, "Что?", "forms"),
    "form_sentence": _sentences,
    "cut_off": _each(texts.CUT_OFF, finish="length"),
    "near_miss": _near,
    "wrong_option": _other_options,
    "wrong_name": _names,
    "wrong_number": _numbers,
    "wrong_item": _items,
    "off_question": _off,
    "other": _others,
}
