"""Words of a question, made comparable: lower case, no punctuation, plurals cut."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|“[^”]*”")
STOPWORDS = frozenset(
    "a an the of in on at for to by is are was were be do does did we our us i me my you your "
    "what which who whom whose how many much list show give tell find get please and or with "
    "from that this these those there it its as per each all have has had can could would "
    "will".split()
)


def stem(word: str) -> str:
    """Cut the plural of one lower-case word; not a full stemmer: `companies`, `orders`."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def words(text: str) -> list[str]:
    """Stemmed words in order; `_` and `.` separate."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [stem(word) for word in _WORD.findall(folded)]


def content_words(text: str) -> list[str]:
    """Without those that say nothing of the subject."""
    return [word for word in words(text) if word not in STOPWORDS]


def squeeze(text: str) -> str:
    """Lower case, one space between parts: equal where only layout differs."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def slots(question: str) -> tuple[str, ...]:
    """Its numbers and quoted values in order, as a query writes them (`1,000` is `1000`)."""
    found = re.finditer(f"{_QUOTED.pattern}|{_NUMBER.pattern}", question)
    return tuple(part[0].strip("'\"“”").replace(",", "").casefold() for part in found)


def skeleton(question: str) -> str:
    """The question without its slots: numbers and quoted values become `?`."""
    return " ".join(words_with_slots(question))


def words_with_slots(question: str) -> list[str]:
    """Words in order, with `?` where a number or a quoted value stood."""
    marked = _NUMBER.sub(" 0 ", _QUOTED.sub(" 0 ", question))
    return ["?" if word == "0" else word for word in words(marked)]
