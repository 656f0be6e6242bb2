"""The file of display names: short and long form, and a message for everything else."""

import json
import unicodedata

import pytest

from mlxtune.entities import Entity, find_entity, read_entities
from mlxtune.errors import DataError


def write(folder, content):
    file = folder / "character_names.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode())
    return file


def test_short_and_long_form(tmp_path):
    long = {"name": " Кощей ", "aliases": ["Кощей Бессмертный"], "cases": ["Кощея", "кощей"]}
    entities = read_entities(write(tmp_path, {"baba_yaga": "Baba Yaga", "koschei": long}))
    assert list(entities) == ["baba_yaga", "koschei"] and entities["baba_yaga"] == Entity("baba_yaga", "Baba Yaga")
    assert entities["koschei"] == Entity("koschei", "Кощей", ("Кощей Бессмертный",), ("Кощея", "кощей"))
    assert entities["koschei"].all_names == ("Кощей", "Кощей Бессмертный", "Кощея")


def test_all_names_keep_their_order_and_come_once():
    assert Entity("k", "A", ("b", "a"), ("B", "c")).all_names == ("A", "b", "c")


def test_a_byte_order_mark_and_either_way_of_writing_accents(tmp_path):
    key = "ёжик"
    decomposed = unicodedata.normalize("NFD", key)
    assert decomposed != key
    entities = read_entities(write(tmp_path, b"\xef\xbb\xbf" + json.dumps({decomposed: decomposed}).encode()))
    assert entities == {key: Entity(key, key)} and find_entity(entities, decomposed) == find_entity(entities, f" {key}")
    assert find_entity(entities, "еж") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a JSON file of names"),
        (b"\xff", "not a JSON file of names"),
        (b"[" * 100_000, "not a JSON file of names"),
        (b'{"a": "b", "a": "c"}', "'a' stands there twice"),
        (b'{"a": "b", " a": "c"}', "'a' stands there twice"),
        ({}, "holds no names. Write"),
        ([], "holds no names"),
        ("a", "holds no names"),
        ({"a": None}, "'a' must have a key and one name"),
        ({"": "b"}, "'' must have a key and one name"),
        ({"a": ""}, "name of 'a' is \"\", not text"),
        ({"a": 3}, "name of 'a' is 3, not text"),
        ({"a": ["b", "c"]}, 'name of \'a\' is ["b", "c"], not text'),
        ({"a": {}}, "'a' has no 'name'"),
        ({"a": {"name": "b", "alias": ["c"]}}, "'a' has an unknown part 'alias'; known are name, aliases, cases"),
        ({"a": {"name": "b", "aliases": [1]}}, "aliases of 'a' is 1, not text"),
        ({"a": {"name": "b", "cases": {"x": 1}}}, "cases of 'a' is {\"x\": 1}, not text"),
        (b'{"a": "\\ud800"}', "name of 'a' is \"\\ud800\", not text"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, message):
    with pytest.raises(DataError) as error:
        read_entities(write(tmp_path, content))
    text = str(error.value)
    assert message in text and text.startswith(f"{tmp_path}") and "\n" not in text and text.encode()


def test_one_alias_needs_no_list(tmp_path):
    assert read_entities(write(tmp_path, {"a": {"name": "b", "aliases": "c"}}))["a"].aliases == ("c",)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_entities(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_entities(tmp_path)
