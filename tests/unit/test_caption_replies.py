"""What counts as an answer: names in any form, pairs as strict JSON, prompts with the right placeholders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.caption.prompts import filled, read_prompts
from mlxtune.caption.replies import BadReplyError, Pair, caption_text, named, question_pairs
from mlxtune.errors import DataError

YAGA = ("Баба-Яга", "Яга", "Бабу-Ягу")


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("На картинке Баба-Яга в ступе.", YAGA, True),
        ("вижу бабу-ягу!", YAGA, True),
        ("«ЯГА» летит", YAGA, True),
        ("Баба\u2011Яга", YAGA, True),  # a hyphen that does not break
        ("Ягода на ветке", YAGA, False),
        ("Бродяга", YAGA, False),
        ("Баба Яга", ("Баба-Яга",), True),
        ("Бабой-Ягой", YAGA, False),  # a case that is not listed
        ("старуха в ступе", YAGA, False),
        ("Это Ёлка", ("Елка",), True),
        ("это елка", ("Ёлка",), True),
        ("Змеи\u0306 летит", ("Змей",), True),  # й as two characters
        ("Иван  \n Царевич", ("Иван Царевич",), True),
        ("Иван1", ("Иван",), False),
        ("C++ (the cat)", ("C++",), True),
        ("anything", ("",), False),
        ("anything", (), False),
    ],
)
def test_a_name_in_any_listed_form(text: str, names: tuple[str, ...], found: bool) -> None:
    assert named(text, names) is found


PAIRS = '[{"question": "Кто это?", "answer": "Яга"}, {"question": "Где она?", "answer": "В ступе"}]'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PAIRS, None),
        (f"  {PAIRS}\n", None),
        (f"```json\n{PAIRS}\n```", None),
        (f"```\n{PAIRS}\n```", None),
        ("[]", "too few questions"),
        (PAIRS[:-5], "bad JSON"),
        ("", "bad JSON"),
        (f"Вот вопросы: {PAIRS}", "bad JSON"),
        ("[" * 100_000, "bad JSON"),
        ('{"question": "Кто это?", "answer": "Яга"}', "JSON of another form"),
        ('["Кто это?", "Где?"]', "JSON of another form"),
        ('[{"question": "Кто это?"}, {"question": "Где?", "answer": "тут"}]', "JSON of another form"),
        ('[{"question": "Кто это?", "answer": 3}, {"question": "Где?", "answer": "тут"}]', "JSON of another form"),
        ('[{"question": "Кто это?", "answer": " "}, {"question": "Где?", "answer": "тут"}]', "empty reply"),
        ('[{"question": "Кто это?", "answer": "Яга"}, {"question": "кто  ЭТО?", "answer": "Баба"}]', "too few questions"),
        ('[{"question": "Кто?", "answer": "\\ud83d"}, {"question": "Где?", "answer": "тут"}]', None),
    ],
)
def test_pairs_are_parsed_strictly(text: str, reason: str | None) -> None:
    if reason is None:
        assert len(question_pairs(text, count=2)) == 2
        return
    with pytest.raises(BadReplyError) as caught:
        question_pairs(text, count=2)
    assert caught.value.reason == reason


def test_more_pairs_than_asked_are_cut_and_known_questions_do_not_count() -> None:
    assert question_pairs(PAIRS, count=1) == [Pair("Кто это?", "Яга")]
    assert question_pairs(PAIRS, count=1, known=["кто это?"]) == [Pair("Где она?", "В ступе")]


def test_text_of_a_model_is_made_safe() -> None:
    assert caption_text(" \x1b[31mЯга\x1b[0m\r\n") == "Яга"
    assert caption_text("half \ud83d") == "half ?"  # json.dumps would write it, no tokenizer would read it
    with pytest.raises(BadReplyError, match="empty reply"):
        caption_text(" \x00 ")
    with pytest.raises(BadReplyError, match="broken text"):
        caption_text("Я\ufffdа")


@pytest.mark.parametrize("language", ["ru", "en"])
def test_built_in_prompts_tell_the_name_and_never_ask_with_it(language: str) -> None:
    prompts = read_prompts(language)
    assert len(prompts.captions) >= 2
    for number in (1, 2):
        prompt = prompts.caption(number)
        assert filled(prompt.prompt, {"name": "NAME"}).count("NAME") >= 2
        assert len({prompt.asked(str(n)) for n in range(50)}) > 2
        assert prompt.asked("a") == prompt.asked("a")
    text = filled(prompts.pairs("x").prompt, {"name": "NAME", "count": "3"})
    assert "NAME" in text and "3" in text and '[{"question": "…", "answer": "…"}]' in text


def prompts_file(folder: Path, values: object) -> Path:
    file = folder / "base_prompts.json"
    file.write_text(values if isinstance(values, str) else json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return file


def test_a_file_of_prompts_takes_the_rest_from_the_built_in_ones(tmp_path: Path) -> None:
    own = {"captions": {"who": {"prompt": "На фото {name}. Назови.", "question": "Кто это?"}}}
    prompts = read_prompts(prompts_file(tmp_path, own))
    assert prompts.caption(1).prompt == prompts.caption(2).prompt == "На фото {name}. Назови."
    assert prompts.questions == read_prompts("ru").questions
    assert read_prompts(prompts_file(tmp_path, own | {"language": "en"})).questions == read_prompts("en").questions


WHO = {"prompt": "{name}", "question": "Who?"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "cannot be read as JSON"),
        ([], "holds no object"),
        ({"language": "fr"}, "language is 'fr'"),
        ({"captions": {}}, "captions: Dictionary should have at least 1 item"),
        (
            {"captions": {"who": {"prompt": "Who is it?", "question": "Who?"}}},
            "captions.who.prompt: lacks the placeholder {name}",
        ),
        ({"captions": {"who": WHO | {"prompt": "{nmae} {name}"}}}, "no placeholder {nmae}; did you mean {name}"),
        ({"captions": {"who": WHO | {"question": "Is this {name}?"}}}, "teaches nobody to recognise"),
        ({"captions": {"who": WHO | {"question": []}}}, "captions.who.question"),
        ({"questions": {"pairs": {"prompt": "{name}"}}}, "lacks the placeholder {count}"),
        ({"caption": {"who": WHO}}, "caption: Extra inputs"),
    ],
)
def test_wrong_prompts_are_refused_by_name(values: object, message: str, tmp_path: Path) -> None:
    file = prompts_file(tmp_path, values)
    with pytest.raises(DataError) as caught:
        read_prompts(file)
    assert str(caught.value).startswith(str(file)) and message in str(caught.value)


def test_braces_of_json_are_no_placeholders() -> None:
    assert filled('{name}: [{"question": "…"}] {other}', {"name": "Яга"}) == 'Яга: [{"question": "…"}] {other}'
