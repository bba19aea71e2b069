"""What no release brings in, whatever a tenant's own cases say: near-misses and a poison set.

An entry stays behind that today's lint would refuse, a caution that comes for questions which name
nothing (then it comes for everything), and a query that answers a question like a neighbour which
asks for something else. Patterns and pairs of words: they find the obvious, not everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from stepwell.knowledge.entry import Entry
from stepwell.knowledge.errors import UnsafeEntry
from stepwell.knowledge.payload import Template
from stepwell.knowledge.safety import lint
from stepwell.knowledge.words import words

NAME_NOTHING = (
    "Hello.",
    "Thank you, that is all.",
    "Yes.",
    "Please say that again.",
    "And now?",
    "What can you do?",
)
_OPPOSITES = frozenset(
    frozenset(pair.split())
    for pair in (
        "top bottom", "most least", "highest lowest", "largest smallest", "first last",
        "before after", "open closed", "active inactive", "more less", "above below",
        "newest oldest", "maximum minimum", "max min", "with without", "paid unpaid",
    )
)  # fmt: skip
_NEGATIONS = frozenset({"not", "no", "never", "without", "except", "excluding"})


def unsafe(entry: Entry) -> str:
    """What today's lint has against an entry, or nothing."""
    try:
        codes = lint(entry)
    except UnsafeEntry as error:
        return f"no longer safe: {error.message}"
    return f"no longer safe: {', '.join(codes)}" if codes else ""


def uncalled(given: Callable[[str], Iterable[str]]) -> dict[str, str]:
    """Cautions that come for questions which name nothing -> why they stay behind. `given`:
    question -> ids of what would be selected for it."""
    found: dict[str, str] = {}
    for question in NAME_NOTHING:
        for name in given(question):
            found.setdefault(name, f"comes for a question that names nothing: {question!r}")
    return found


def twisted(added: Iterable[str], entries: Mapping[str, Entry]) -> dict[str, str]:
    """Templates among `added` whose query is that of a near-miss in `entries` -> why."""
    by_query: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries.values():
        if isinstance(entry.payload, Template):
            by_query.setdefault((entry.area, _plain(entry.payload.sql)), []).append(entry)
    found: dict[str, str] = {}
    for name in sorted(added):
        payload = entries[name].payload
        if not isinstance(payload, Template):
            continue
        for other in by_query[entries[name].area, _plain(payload.sql)]:
            asked = other.payload
            if isinstance(asked, Template) and near_miss(payload.question, asked.question):
                found[name] = f"the query of {other.id}, which asks for something else"
    return found


def near_miss(question: str, other: str) -> bool:
    """Whether two questions differ in numbers, opposites or a negation, and in nothing else."""
    ours, theirs = set(words(question)), set(words(other))
    left, right = ours - theirs, theirs - ours
    if not left and not right:
        return False
    pairs = {frozenset({one, two}) for one in left for two in right}
    told = frozenset().union(*(pair for pair in pairs if pair in _OPPOSITES)) | _NEGATIONS
    return all(word in told or word.isdigit() for word in left | right)


def _plain(sql: str) -> str:
    return " ".join(sql.casefold().split())
