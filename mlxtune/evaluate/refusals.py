"""Answers without an answer, in English and Russian: what says that one will not or cannot answer, or sees no picture."""

from __future__ import annotations

import re

from mlxtune.metrics.text import words

# Not knowing is said by one word, or by a word that denies beside one for knowing, seeing or telling. Word ends are open
# where grammar changes them: "не могу", "не можем", "не смогли".
_ALONE = re.compile(
    r"unclear|unknown|unsure|unanswerable|undetermined|indetermina\w+|insufficient|uncertain|illegible|unreadable|impossible|unable"
    r"|cannot|sorry|apologi[sz]e|apologies|decline|refuse|hesitate|lack|ambiguous|regrettably|unfortunately"
    r"|невозможно|нельзя|затрудня\w*|недостаточно|неизвестн[оа]?|неясн\w*|неясен|непонят\w*|увы|сожалени\w*|сожалею|извин\w*"
    r"|прощения|прост(?:и|ите)|отказыва\w*|воздерж\w*|вынужден\w*|пас"
)
_DENIES = re.compile(
    r"not|no|nobody|none|nothing|never|without|rather|hard|difficult|tough|too|more"
    r"|(?:ca|do|does|did|is|are|was|were|could|would|wo|should)nt|не|ни|нет|без|трудно|сложно|тяжело"
)
_KNOWS = re.compile(
    r"(?:know|tell|say|stat|determin|answer|guess|read|see|find|infer|inform|idea|clue|visibl|legibl|clear|sure|certain|possibl|abl"
    r"|judg|way|enough|understand|data|means|detail|specif|provid|given|mention|avail|indicat|qualif|position|contain|context|version)\w*"
    r"|(?:знаю|знаем|знани|сказать|скаж|определ|ответ|отвеч|поня|понима|суд|вид|вижу|разобр|разбер|чита|прочит|данны|сведен|информац"
    r"|указан|ясно|уверен|возможн|способ|представл|имею|располага|хвата|нахо|найти|мог|може|можно|удал|уда[её]т|получ|смо[гж]|состояни|сил|установ"
    r"|стану|бер)\w*"
)
_BESIDE = 4  # words between the two
# "нет" and "no" are answers themselves: they deny what follows at once ("нет данных"), or a noun before them ("ответа нет").
_ANSWERS = {"no", "нет"}
_HAD = re.compile(r"ответа|данных|сведений|информации|возможности|понятия|представления|идей|сил")
_SENTENCE_END = re.compile(r"[.!?;:\n—–]+")

# A picture is missing where one sentence has a word of each: that something lacks, that it is given or seen, a picture.
_PICTURE = re.compile(
    r"images?|pictures?|photos?|photographs?|charts?|graphs?|attachments?|files?|screenshots?"
    r"|изображен\w*|картин\w*|фото\w*|сним\w*|график\w*|диаграмм\w*|рисун\w*|файл\w*|вложен\w*"
)
_LACK = re.compile(
    r"no|not|n?t|cannot|never|without|unable|please|could|forgot|didn|couldn|wasn|hasn|haven|don|isn|не|нет|без|забы\w*|пуст\w*"
)
_GIVEN = re.compile(
    r"see|view|access\w*|open\w*|load\w*|receiv\w*|got|get|find|found|upload\w*|attach\w*|provid\w*|shar\w*|sen[dt]|includ\w*|there"
    r"|display\w*|render\w*|вижу|видим|виден|видн\w*|видеть|увид\w*|посмотр\w*"
    r"|доступ\w*|откры\w*|загру\w*|получ\w*|прикреп\w*|прилож\w*|присл\w*|приш\w*|предостав\w*"
    r"|отправ\w*|переда\w*|отобра\w*|наш\w*|найд\w*|хватает|поступ\w*"
)
_MISSING = re.compile(
    r"missing|absent|blank|empty|отсутств\w*|пуст\w*|прикреп(?:и|ите)|загрузи(?:те)?|пришли(?:те)?|приложи(?:те)?"
)
# "in the picture" and "на изображении" speak of a picture that is there; so do "the picture does not show" and "a photo that".
_INSIDE = {"in", "on", "from", "of", "within", "на", "в", "по", "из", "с"}
_SHOWS = {"show", "shows", "provide", "contain", "include", "specify", "give", "содержит", "показывает", "дает", "даёт"}
_THAT = re.compile(r"that|which|where|котор\w*|где")
_NEAR = 6  # words between the picture and what is said of it


def declines(text: str) -> bool:
    """Says that it cannot or will not answer."""
    return any(_declines(words(sentence.replace("'", "").replace("’", ""))) for sentence in _SENTENCE_END.split(text))


def _declines(tokens: list[str]) -> bool:
    denials = [i for i, token in enumerate(tokens) if _DENIES.fullmatch(token)]
    knowing = [i for i, token in enumerate(tokens) if _KNOWS.fullmatch(token)]
    return any(map(_ALONE.fullmatch, tokens)) or any(_denied(tokens, a, b) for a in denials for b in knowing if a != b)


def _denied(tokens: list[str], denial: int, knowing: int) -> bool:
    if tokens[denial] not in _ANSWERS:
        return abs(denial - knowing) <= _BESIDE
    if denial < knowing:
        return knowing - denial <= 2
    return denial - knowing <= _BESIDE and bool(_HAD.fullmatch(tokens[knowing]))


def sees_no_picture(text: str) -> bool:
    """Says that there is no picture, or that it cannot be opened."""
    return any(_lacks_picture(words(sentence)) for sentence in _SENTENCE_END.split(text))


def _lacks_picture(tokens: list[str]) -> bool:
    spots = [
        i for i, token in enumerate(tokens) if _PICTURE.fullmatch(token) and not _INSIDE.intersection(tokens[max(0, i - 2) : i])
    ]
    return any(_lacks(tokens[max(0, spot - _NEAR) : spot], tokens[spot + 1 : spot + 1 + _NEAR]) for spot in spots)


def _lacks(before: list[str], behind: list[str]) -> bool:
    if _SHOWS.intersection(behind[:4]) or (any(map(_THAT.fullmatch, behind[:2])) and "so" not in behind[:1]):
        return False
    around = before + behind
    directly = {"no", "without", "нет", "без"}.intersection(before[-2:] + behind[:1])
    given = any(map(_GIVEN.fullmatch, around)) and any(map(_LACK.fullmatch, around))
    return bool(directly) or given or any(map(_MISSING.fullmatch, around))
