"""Normalisers of answers. All of them are Unicode-aware: the classic ones silently drop or keep what is not ASCII."""

from __future__ import annotations

import re
import string
import unicodedata

_ENGLISH_ARTICLES = re.compile(r"\b(a|an|the)\b")
_LEADING_POINT = re.compile(r"(?<![\w.])\.(?=\d)")
_LOOSE_JOINER = re.compile(r"(?<!\d)[.,:/]|[.,:/](?!\d)|(?<=\S)-|-(?!\d)")
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_DECIMAL = re.compile(r"-?\d+\.\d+")


class _WordCharacters(dict[int, str]):
    """Table for `str.translate`: letters, marks and digits stay, invisible format characters vanish, the rest turns into a space.

    `\\w` will not do: it leaves out combining marks and so cuts Hindi or Thai words at every vowel sign.
    """

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        self[code] = chr(code) if category[0] in "LMN" else "" if category == "Cf" else " "
        return self[code]


class _NoPunctuation(dict[int, str]):
    """Table for `str.translate` that deletes Unicode punctuation and the ASCII symbols of `string.punctuation`."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = "" if unicodedata.category(char)[0] == "P" or char in string.punctuation else char
        return self[code]


_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = _WordCharacters()
# U+2212 is the minus sign and U+2044 the slash that NFKC makes of "½".
_WORDS_AND_NUMBERS = _WordCharacters({ord(char): char for char in ".,:/-"} | {0x2212: "-", 0x2044: "/"})
_NO_PUNCTUATION = _NoPunctuation()


def fold(text: str) -> str:
    """NFKC, case folded, outer white space off and inner runs made one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def no_ascii_punctuation(text: str) -> str:
    """Outer white space off, lower case, the characters of `string.punctuation` deleted; what is inside stays."""
    return text.strip().lower().translate(_ASCII_PUNCTUATION)


def words(text: str) -> list[str]:
    """Lower-case runs of letters, marks and digits of any script; on ASCII text the same tokens as rouge-score's own."""
    return unicodedata.normalize("NFKC", text).lower().translate(_WORDS).split()


def squad_words(text: str) -> list[str]:
    """SQuAD's `normalize_answer`, split: lower case, punctuation deleted, English articles out.

    Punctuation is ASCII's (as in SQuAD) and every Unicode P* category (as in MLQA).
    """
    bare = unicodedata.normalize("NFKC", text).lower().translate(_NO_PUNCTUATION)
    return _ENGLISH_ARTICLES.sub(" ", bare).split()


def words_and_numbers(text: str) -> list[str]:
    """Case-folded words and whole numbers: ``"About −1,200.50 km."`` gives ``["about", "-1200.5", "km"]``.

    Digits joined by ``. , : /`` and a minus directly before a digit stay one token. Thousands commas are dropped, a decimal comma
    becomes a point, zeros at the end of a decimal fraction go. All other punctuation, ``%`` and currency signs are dropped.
    """
    kept = fold(text).translate(_WORDS_AND_NUMBERS)
    bare = _LOOSE_JOINER.sub(" ", _LEADING_POINT.sub("0.", kept))
    return [_canonical(token) for token in bare.split()]


def _canonical(token: str) -> str:
    if _THOUSANDS.fullmatch(token):
        token = token.replace(",", "")
    elif _DECIMAL_COMMA.fullmatch(token):
        token = token.replace(",", ".")
    return token.rstrip("0").rstrip(".") if _DECIMAL.fullmatch(token) else token
