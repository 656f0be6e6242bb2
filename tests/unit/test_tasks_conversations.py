"""Conversations: every published form becomes the same turns, each picture at its place."""

import base64

import pytest

from tests.helpers.published import picture
from tests.helpers.tasks import find_in, make, parts, refusal

URI = "data:image/png;base64," + base64.b64encode(picture(1)).decode()
PART = {"type": "text", "text": "What?"}


def said(*texts):
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def chat(*contents):
    return [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]


# -- llava ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("<image>\nWhat?", ["<picture>", "What?"]),
        ("What?\n<image>", ["What?", "<picture>"]),
        ("Look: <image> What?", ["Look:", "<picture>", "What?"]),
        ("What?", ["<picture>", "What?"]),
        ("<image>", ["<picture>"]),
    ],
)
def test_a_picture_stands_where_its_placeholder_does(asked, expected):
    example = make("llava", {"conversations": said(asked, "A cat."), "image": "a.jpg", "type": "detail", "id": "1"})
    assert parts(example) == [("user", expected)] and example.target == "A cat." and example.references == ("A cat.",)
    assert (example.id, example.meta, [image.key for image in example.images]) == ("1", {"type": "detail"}, ["a.jpg"])
    assert "<image>" not in example.question


def test_all_turns_up_to_the_last_question_are_the_prompt():
    row = {"conversations": said("<image>\nWhat?", "A cat.", "Which color?", "Black.", "Sure?", "Yes."), "image": "a.jpg"}
    example = make("llava", row, suffix="\nBriefly.", system="Be kind.")
    assert parts(example) == [
        ("system", ["Be kind."]),
        ("user", ["<picture>", "What?"]),
        ("assistant", ["A cat."]),
        ("user", ["Which color?"]),
        ("assistant", ["Black."]),
        ("user", ["Sure?\nBriefly."]),
    ]
    assert (example.question, example.target) == ("Sure?", "Yes.")


def test_the_last_question_is_asked_as_the_recipe_says():
    row = {
        "conversations": said("<image>\nWhat?", "A cat.", "Sure? <image>", "Yes."),
        "image": ["a.jpg", "b.jpg"],
        "type": "talk",
    }
    example = make("llava", row, prompt="({type}) {question}")
    assert parts(example)[-1] == ("user", ["<picture>", "(talk) Sure?"]) and example.question == "Sure?"
    assert parts(make("llava", row, suffix="\nBriefly."))[-1] == ("user", ["Sure?", "<picture>", "Briefly."])


@pytest.mark.parametrize("roles", [("user", "assistant"), ("Human", "GPT"), ("human", "model")])
def test_roles_by_any_usual_name(roles):
    turns = [{"from": roles[0], "value": "What?"}, {"from": roles[1], "value": "A cat."}]
    assert parts(make("llava", {"conversations": turns})) == [("user", ["What?"])]
    assert parts(make("llava", {"conversations": [{"role": r, "content": c} for r, c in zip(roles, "ab", strict=True)]}))


def test_a_record_of_lists_is_a_list_of_records():
    row = {"conversations": {"from": ["human", "gpt"], "value": ["What?", "A cat."]}}
    assert make("llava", row) == make("llava", {"conversations": said("What?", "A cat.")})


def test_the_recipes_system_turn_takes_the_place_of_the_rows():
    row = {"conversations": [{"from": "system", "value": "You are a bot."}, *said("What?", "A cat.")]}
    assert parts(make("llava", row))[0] == ("system", ["You are a bot."])
    assert [turn for turn in parts(make("llava", row, system="Be kind.")) if turn[0] == "system"] == [("system", ["Be kind."])]


def test_rows_without_a_picture_are_kept_unless_the_recipe_says_otherwise():
    row = {"conversations": said("Two and two?", "Four."), "image": None}
    assert make("llava", row).images == ()
    refusal("llava", row, text_only="skip", reason="no picture")


def test_a_lost_picture_leaves_the_text(tmp_path):
    row = {"conversations": said("Look: <image> What?", "A cat.", "Sure?", "Yes."), "image": "gone.jpg"}
    refusal("llava", row, find=find_in(tmp_path), reason="picture missing")
    example = make("llava", row, find=find_in(tmp_path), missing_image="text_only")
    assert parts(example)[0] == ("user", ["Look:", "What?"]) and example.images == ()
    only = {"conversations": said("<image>", "A cat."), "image": "gone.jpg"}
    message = refusal("llava", only, find=find_in(tmp_path), missing_image="text_only", reason="picture missing")
    assert "a turn is only a picture, which is missing" in message


@pytest.mark.parametrize(
    ("conversations", "image", "message", "reason"),
    [
        (None, None, "field 'conversations' is not a list of turns but null", "field missing"),
        ([], None, "is not a list of turns but list []", "field missing"),
        ("What?", None, "is not a list of turns but str 'What?'", "field wrong"),
        ({"from": "human"}, None, "is not a list of turns but dict", "field wrong"),
        (["What?"], None, "turn conversations[0] is not an object but str 'What?'", "field wrong"),
        ([{"value": "What?"}], None, "turn conversations[0] is said by null; known are human, user, gpt", "field wrong"),
        ([{"from": "tool", "value": "a"}], None, "is said by str 'tool'", "field wrong"),
        ([{"from": ["a"], "value": "a"}], None, "is said by list ['a']", "field wrong"),
        (said("What?", None), None, "turn conversations[1] is not text but null", "field missing"),
        (said("What?", ""), None, "turn conversations[1] says nothing", "field missing"),
        (said("What?", {"a": 1}), None, "turn conversations[1] is not text but dict {'a': 1}", "field wrong"),
        (said("\ud800", "a"), None, "field 'conversations[0]' holds broken Unicode at character 0", "broken text"),
        (said("What?"), None, "ends with a question that has no answer", "field missing"),
        (said("What?", "A cat.", "Sure?"), None, "ends with a question that has no answer", "field missing"),
        (said("What?", "A cat.")[1:], None, "has turns assistant; user and assistant must take turns", "field wrong"),
        (said("a", "b") + said("c", "d")[1:], None, "has turns user, assistant, assistant;", "field wrong"),
        ([*said("a", "b"), {"from": "system", "value": "c"}], None, "has turns user, assistant, system;", "field wrong"),
        ([{"from": "system", "value": "c"}], None, "has turns system; user and assistant", "field wrong"),
        (said("<image>\nWhat?", "A cat."), None, "the turns have 1 places for pictures (<image>), but the row names none", None),
        (said("<image><image>", "A cat."), "a.jpg", "the turns have 2 places for pictures, but the row names 1", "field wrong"),
        (
            said("<image>", "A cat."),
            ["a.jpg", "b.jpg"],
            "the turns have 1 places for pictures, but the row names 2",
            "field wrong",
        ),
    ],
)
def test_a_conversation_that_cannot_be_read(conversations, image, message, reason):
    assert message in refusal("llava", {"conversations": conversations, "image": image}, reason=reason)


def test_an_answer_may_speak_of_images_in_angle_brackets():
    assert make("llava", {"conversations": said("A tag?", "Write <image>.")}).target == "Write <image>."


# -- chartllama -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "meta"),
    [
        ("ours/box_chart/png/box_chart_100examples_0.png", {"chart": "box_chart"}),
        ("data/ours/polar_chart/png/a.png", {"chart": "polar_chart"}),
        ("a.png", {}),
        ("yours/box_chart/png/a.png", {}),
    ],
)
def test_chartllama_takes_the_charts_kind_from_the_path(path, meta):
    example = make("chartllama", {"id": "box_0", "image": path, "conversations": said("<image>\nHow many?", "3")})
    assert example.meta == meta and parts(example) == [("user", ["<picture>", "How many?"])]
    assert (example.id, example.target, example.images[0].key) == ("box_0", "3", path)


def test_chartllama_needs_its_chart():
    refusal("chartllama", {"conversations": said("How many?", "3"), "image": None}, reason="no picture")


# -- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "images", "expected", "keys"),
    [
        ("What?", None, ["What?"], []),
        ("What?", "a.png", ["<picture>", "What?"], ["a.png"]),
        ("What?", ["a.png", "b.png"], ["<picture>", "<picture>", "What?"], ["a.png", "b.png"]),
        ("This <image> or <image>?", ["a.png", "b.png"], ["This", "<picture>", "or", "<picture>", "?"], ["a.png", "b.png"]),
        ([PART], ["a.png"], ["<picture>", "What?"], ["a.png"]),
        ([PART, {"type": "image"}], ["a.png"], ["What?", "<picture>"], ["a.png"]),
        ([{"type": "image", "text": None, "index": None}, PART | {"index": None}], ["a.png"], ["<picture>", "What?"], ["a.png"]),
        (
            [{"type": "image", "index": 1}, PART, {"type": "image", "index": 0}],
            ["a", "b"],
            ["<picture>", "What?", "<picture>"],
            "ba",
        ),
        ([{"type": "image", "index": 0}, {"type": "image", "index": 0}, PART], ["a"], ["<picture>", "<picture>", "What?"], "aa"),
        ([{"type": "image", "image": "a.png"}, PART], None, ["<picture>", "What?"], ["a.png"]),
        ([{"type": "image", "path": "a.png"}, PART], [], ["<picture>", "What?"], ["a.png"]),
        ([{"type": "image", "url": "file:///a.png"}, PART], None, ["<picture>", "What?"], ["/a.png"]),
        ([{"type": "image_url", "image_url": "a.png"}, PART], None, ["<picture>", "What?"], ["a.png"]),
        (
            [{"type": "input_image", "image_url": "a.png"}, {"type": "input_text", "text": "Q"}],
            None,
            ["<picture>", "Q"],
            ["a.png"],
        ),
        (
            [{"type": "image", "image": "a.png"}, {"type": "image"}, PART],
            ["b.png"],
            ["<picture>", "<picture>", "What?"],
            ["a.png", "b.png"],
        ),
        (["What?", {"type": "image"}], "a.png", ["What?", "<picture>"], ["a.png"]),
        ([{"type": "text", "text": ""}, PART], None, ["What?"], []),
    ],
)
def test_messages_in_every_form(content, images, expected, keys):
    example = make("messages", {"messages": chat(content, "A cat."), "images": images})
    assert parts(example) == [("user", expected)] and [image.key for image in example.images] == list(keys)
    assert example.target == "A cat."


def test_a_picture_in_a_data_uri_is_known_by_its_content():
    example = make(
        "messages", {"messages": chat([{"type": "image_url", "image_url": {"url": URI, "detail": "low"}}, PART], "A.")}
    )
    assert example.images[0].load().size == (48, 32) and example.images[0].key.startswith("sha256:")


def test_several_turns_with_a_picture_each():
    shown = [{"type": "image"}, PART]
    turns = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
    turns += chat(shown, [{"type": "text", "text": "A cat."}], shown, "A dog.")
    example = make("messages", {"messages": turns, "images": ["a.png", {"bytes": picture(2), "path": "b.png"}]})
    assert [role for role, _ in parts(example)] == ["system", "user", "assistant", "user"] and len(example.images) == 2
    assert example.target == "A dog."


@pytest.mark.parametrize(
    ("messages", "images", "message"),
    [
        (chat([{"type": "video"}], "a"), None, "part messages[0].content[0] is neither text nor picture but str 'video'"),
        (chat([3], "a"), None, "is neither text nor picture but int 3"),
        (chat([{"type": "text", "text": None}], "a"), None, "turn messages[0].content[0] is not text but null"),
        (chat([{"type": "image_url"}], "a"), None, "part messages[0].content[0] holds no 'image_url'"),
        (chat([{"type": "image_url", "image_url": {"url": ""}}], "a"), None, "holds no 'image_url'"),
        (chat([{"type": "image", "index": "0"}], "a"), ["a"], "index str '0' is no number"),
        (chat([{"type": "image", "index": 1}], "a"), ["a"], "the turns have 1 places for pictures, but the row names 1"),
        (chat([{"type": "image", "index": -1}], "a"), ["a"], "1 places for pictures, but the row names 1"),
        (chat([{"type": "image"}], "a"), None, "the row names none. Set data.image"),
        (chat("What?", [{"type": "image"}]), ["a"], "turn messages[1] of the assistant holds a picture"),
        (chat("What?", []), None, "turn messages[1] says nothing"),
        (chat([{"type": "image", "image": [["a"]]}, PART], "a"), None, "a picture cannot be list [['a']]"),
    ],
)
def test_messages_that_cannot_be_read(messages, images, message):
    assert message in refusal("messages", {"messages": messages, "images": images})


def test_pictures_that_no_place_speaks_of_are_not_dropped():
    row = {"messages": chat([{"type": "image", "image": "a.png"}, PART], "A."), "images": ["b.png"]}
    assert "the turns have 0 places for pictures, but the row names 1" in refusal("messages", row, reason="field wrong")
