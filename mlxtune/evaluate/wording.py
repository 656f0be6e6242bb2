"""What an answer says, apart from how it says it: small questions about English and Russian texts that causes are made of."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache, lru_cache
from typing import Any

from mlxtune.metrics.text import fold, words, words_and_numbers

_OUTER = " \t\n.,;:!?…'\"`«»„“”‘’()[]{}*"
_HIDDEN = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
# Cyrillic letters that look like Latin ones, small or capital; both sides are folded before.
_LOOK_ALIKES = str.maketrans("авекмнорстухіѕј", "abekmhopctyxisj")
_YES_NO = {
    "en": (("yes", "yeah", "yep"), ("no", "nope")),
    "ru": (("да", "ага"), ("нет",)),
    "pl": (("tak",), ("nie",)),
    "de": (("ja",), ("nein",)),
    "fr": (("oui",), ("non",)),
    "es": (("sí", "si"), ()),  # its "no" is the English one
}
_NEGATIONS = {"not", "isn't", "never", "isn", "aren", "wasn", "don", "doesn", "t", "не", "ни", "вовсе"}
_OR = {"or", "either", "или", "либо"}
# Words that carry no answer of their own: an answer may have them and the reference not.
_FUNCTION_WORDS = frozenset("a an the of in on at to from by with".split())
_FUNCTION_WORDS |= frozenset("в во на из с со к ко у о об от по под над за для и".split())
_ENDINGS = frozenset(["", *"а я ы и у ю е о ь ом ем ой ей ами ями ах ях ов ев ам ям ый ий ая яя ое ее ые ие".split()])
_ENDINGS |= frozenset("ого его ому ему ым им ых их ую юю".split())


# -- forms ------------------------------------------------------------------------------------------------------------


def trimmed(text: str) -> str:
    """Folded, ё as е, hidden characters and outer punctuation off; % and signs stay."""
    return fold(_HIDDEN.sub("", text)).replace("ё", "е").strip(_OUTER)


def same_letters(a: str, b: str) -> bool:
    """Equal but for case, punctuation, articles and ё. Numbers must be written alike: "1.5" is not "15", "62%" not "62"."""
    left, right = trimmed(a), trimmed(b)
    if left == right:
        return bool(left)
    if any(char.isdigit() or char == "%" for char in left + right):
        return False
    return bool(bare_words(a)) and bare_words(a) == bare_words(b)


def bare_words(text: str) -> tuple[str, ...]:
    """Folded words and numbers without English articles, ё as е."""
    return tuple(
        word
        for word in words_and_numbers(_HIDDEN.sub("", text).replace("ё", "е").replace("Ё", "Е"))
        if word not in ("a", "an", "the")
    )


def look_alike(a: str, b: str) -> bool:
    """Equal only once Cyrillic letters stand for the Latin ones that they look like."""
    left, right = trimmed(a), trimmed(b)
    return left != right and left.translate(_LOOK_ALIKES) == right.translate(_LOOK_ALIKES)


def is_noisy(text: str) -> bool:
    """Has what nobody means to write: hidden characters, words of two scripts, outer quotes or stops, a float's long tail."""
    mixed = any(_LATIN.search(word) and _CYRILLIC.search(word) for word in words(text))
    tail = re.fullmatch(r"[-+]?\d+[.,](?:0+|\d{9,})", text.strip())
    return bool(_HIDDEN.search(text) or mixed or tail or text.strip() != text.strip().strip(_OUTER))


def script_share(text: str, like: str) -> float | None:
    """Share of the text's letters that are of a script that `like` is written in; None where one of them has no letters."""
    known, own = _scripts(like), _scripts(text)
    return sum(own[script] for script in known) / own.total() if known and own else None


@lru_cache(maxsize=8192)
def _scripts(text: str) -> Counter[str]:
    letters = (char for char in text if char.isalpha())
    return Counter(
        "latin" if _LATIN.match(c) else "cyrillic" if _CYRILLIC.match(c) else unicodedata.name(c, "?").split()[0] for c in letters
    )


# -- what is said -----------------------------------------------------------------------------------------------------


def yes_or_no(text: str) -> tuple[bool, frozenset[str]] | None:
    """(yes?, languages in which its first word says so); None for anything else."""
    first = next(iter(words(text)), "")
    for value, place in ((True, 0), (False, 1)):
        if languages := {language for language, pair in _YES_NO.items() if first in pair[place]}:
            return value, frozenset(languages)
    return None


def yes_or_no_said(text: str) -> bool | None:
    """What a text answers to a yes/no question: its first word, else the only such word in it; None where both or neither."""
    if first := yes_or_no(text):
        return first[0]
    said = {yes_or_no(word)[0] for word in words(text) if word not in ("si", "non", "nie", "ja") and yes_or_no(word)}
    return said.pop() if len(said) == 1 else None


def stems(text: str) -> tuple[str, ...]:
    """Stems of the words in their order, without function words: "из пластика" and "пластик" are the same."""
    return tuple(_stem(word) for word in _content(text))


def _content(text: str) -> list[str]:
    return [word for word in words(_HIDDEN.sub("", text).lower().replace("ё", "е")) if word not in _FUNCTION_WORDS]


def same_but_for_endings(a: str, b: str) -> bool:
    """The same words in other grammatical forms."""
    return stems(a) == stems(b) != ()


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    if not _CYRILLIC.search(word):
        return _english().stem(word)
    # Not Snowball's: it takes every noun in -ан for a participle, so that "диван" and "диване" have different stems.
    endings = (ending for ending in _ENDINGS if word.endswith(ending) and len(word) - len(ending) >= 3)
    return word.removesuffix(max(endings, key=len, default=""))


@cache
def _english() -> Any:
    from nltk.stem.snowball import SnowballStemmer

    return SnowballStemmer("english")


def occurs(needle: tuple[str, ...], hay: tuple[str, ...]) -> bool:
    """The words of `needle` stand in `hay` one behind the other, neither denied ("not blue") nor offered ("blue or red")."""
    size = len(needle)
    for i in range(len(hay) - size + 1):
        if hay[i : i + size] == needle and size:
            around = hay[max(0, i - 1) : i] + hay[i + size : i + size + 1]
            if not (_OR.intersection(around) or _NEGATIONS.intersection(hay[max(0, i - 1) : i])):
                return True
    return False


def loops(text: str) -> bool:
    """Says the same again and again: one or two words four times on end, three to eight words three times, or half of the
    word triples of a long text come twice."""
    tokens = words(text)
    for size in range(1, 9):
        same = run = 0
        for i in range(size, len(tokens)):
            run = run + 1 if tokens[i] == tokens[i - size] else 0
            same = max(same, run)
        if same + size >= max((4 if size < 3 else 3) * size, 0.3 * len(tokens)):
            return True
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    if len(triples) >= 20 and len(set(triples)) < 0.5 * len(triples):
        return True
    return bool(re.search(r"([^\W\d]{1,12}?)\1{5,}|([^\w\s])\2{11,}", fold(text)))
