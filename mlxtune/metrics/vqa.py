"""VQA accuracy over several annotators, and ANLS for text read from documents."""

from __future__ import annotations

import re
from statistics import fmean

from mlxtune.metrics.base import Item, Metric

# The evaluation script writes these out one by one, with each single apostrophe missing; "somebody'd" is its own oddity.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd've he's how'd how'll
how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't
she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas
wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've he'd
""".split()
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in _CONTRACTED for place, char in enumerate(word) if char == "'"
} | {"somebody'd": "somebodyd"}
_NUMBERS = {word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_NUMBERS |= {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")


def vqa_answer(text: str) -> str:
    """An answer as the VQA challenge compares it: lower case, ``, ?`` and articles out, number words as digits, apostrophes put
    back, other punctuation deleted where it touches a space and made a space where it does not."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").replace("\n", " ").replace("\t", " ").strip()
    bare = text
    for mark in _PUNCTUATION:
        bare = bare.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    words = (_NUMBERS.get(word, word) for word in _PERIOD.sub("", bare).split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(item: Item) -> float:
    answer = vqa_answer(item.prediction)
    same = [vqa_answer(reference) == answer for reference in item.references]
    if len(same) == 1:
        return float(same[0])
    enough = min(3, len(same) - 1)
    return fmean(min(1.0, (sum(same) - own) / enough) for own in same)


def anls(item: Item) -> float:
    return max(_similarity(item.prediction, reference) for reference in item.references)


def _similarity(prediction: str, reference: str) -> float:
    from rapidfuzz.distance import Levenshtein

    distance = Levenshtein.distance(*(" ".join(text.strip().lower().split()) for text in (prediction, reference)))
    longest = max(len(prediction), len(reference))  # of the texts as they came: the script has it so
    similarity = 1.0 - distance / longest if longest else 1.0
    return similarity if similarity >= 0.5 else 0.0


VQA = (
    Metric(
        name="vqa_accuracy",
        item=vqa_accuracy,
        definition="An answer that three annotators gave is right, one that two gave counts 2/3, one counts 1/3: each annotator "
        "is left out once and min(1, matches among the others / 3) is averaged. Both sides normalised: lower case, punctuation "
        "and English articles out, number words to ten as digits, missing apostrophes put back. With fewer than four references, "
        "all the others must agree; with one, 1 if it is the same.",
        source="Antol et al. 2015, Goyal et al. 2017; normalisation of the EvalAI answer processor as in TextVQA and lmms-eval.",
        caveat="Needs all ten answers as references, repeated ones repeated. VQA v2's own script leaves references as they are "
        "where all ten agree; here they are always normalised. Number words and articles are English only ('two' is '2', 'два' "
        "stays), and 'none' becomes '0'. The hyphen counts as punctuation: 't-shirt' is 't shirt'.",
    ),
    Metric(
        name="anls",
        item=anls,
        definition="1 minus the Levenshtein distance divided by the length of the longer text, 0 where that is below 0.5; lower "
        "case, white space collapsed. Best over the references, mean over items.",
        source="Biten et al. 2019 (ST-VQA, DocVQA); details as in the published script and lmms-eval.",
        caveat="Forgives misread characters, so '1000' for '1008' scores 0.75: not for numbers that must be right. Exactly 0.5 "
        "stays 0.5. Lengths are taken before white space is collapsed, as in the script.",
    ),
)
