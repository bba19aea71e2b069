"""Questions about a world, with their true SQL.

Every question has four wordings: the first two are asked while learning, the last two only in the
test, so no tested text was ever seen. `named`: facts whose subject the question names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stepwell.evaluate.knowledge_world import (
    CHANNELS,
    COLOURS,
    METHODS,
    REGIONS,
    WORDS,
    YEARS,
    World,
)

LEARNT_WORDINGS = 2


@dataclass(frozen=True, slots=True)
class Question:
    """`intent`: the same for siblings, which differ in the slot alone. `traps`: what a naive reader
    of the schema falls into; empty: untouched. `held_out`: its slot is never asked while
    learning."""

    world: int
    intent: str
    slot: str
    wordings: tuple[str, ...]
    sql: str
    traps: tuple[str, ...]
    named: tuple[str, ...]
    held_out: bool

    @property
    def key(self) -> tuple[int, str, str]:
        return self.world, self.intent, self.slot

    @property
    def learnt(self) -> tuple[str, ...]:
        return self.wordings[:LEARNT_WORDINGS]

    @property
    def tested(self) -> tuple[str, ...]:
        return self.wordings[LEARNT_WORDINGS:]


def questions(number: int, world: World) -> tuple[Question, ...]:
    """Of the world with this number; the last slot of each intent is held out."""
    out = []
    for intent, slots, wordings, sql, traps, named in (*_trapped(world), *_untouched(world)):
        for slot in slots:
            sql_of = sql.format(v=slot, next=_next(slot), code=world.codes.get(slot, ""))
            texts = tuple(text.format(v=slot) for text in wordings)
            last = len(slots) > 1 and slot == slots[-1]
            out.append(Question(number, intent, slot, texts, sql_of, traps, named, last))
    return tuple(out)


def _next(slot: str) -> str:
    return str(int(slot) + 1) if slot.isdigit() else ""


_Shape = tuple[str, Sequence[str], tuple[str, ...], str, tuple[str, ...], tuple[str, ...]]


def _trapped(w: World) -> Iterator[_Shape]:
    c, p, day = w.children, w.parents, f"{w.month:02}-01"
    own = f"{c[:-1]}_id"
    years = tuple(str(year) for year in YEARS)
    yield (
        "stale",
        w.states,
        (
            f"How many {c} are {{v}}?",
            f"Count the {c} that are {{v}}.",
            f"What is the number of {{v}} {c}?",
            f"Tell me how many {c} are currently {{v}}.",
        ),
        f"SELECT COUNT(*) FROM {c} WHERE {w.state} = '{{v}}'",
        ("stale",),
        ("stale",),
    )
    yield (
        "code",
        tuple(w.codes),
        (
            f"How many {p} have the {{v}} {w.level}?",
            f"Count {p} of {w.level} {{v}}.",
            f"What is the number of {p} whose {w.level} is {{v}}?",
            f"With {w.level} {{v}}, how many {p} are there?",
        ),
        f"SELECT COUNT(*) FROM {p} WHERE {w.level} = {{code}}",
        ("code",),
        ("code",),
    )
    yield (
        "join",
        REGIONS,
        (
            f"How many {c} belong to {p} in the {{v}}?",
            f"Count {c} of {p} from the {{v}}.",
            f"What is the number of {c} that {p} of the {{v}} have?",
            f"For {p} in the {{v}}, how many {c} are there?",
        ),
        f"SELECT COUNT(*) FROM {c} WHERE {w.link} IN (SELECT id FROM {p} WHERE region = '{{v}}')",
        ("join",),
        (),
    )
    yield (
        "metric",
        REGIONS,
        (
            f"How many active {p} are in the {{v}}?",
            f"Count the active {p} of the {{v}}.",
            f"What is the number of active {p} from the {{v}}?",
            f"In the {{v}}, how many {p} are active?",
        ),
        f"SELECT COUNT(*) FROM {p} WHERE active = 1 AND {w.staff} = 0 AND region = '{{v}}'",
        ("metric",),
        (),
    )
    yield (
        "cents",
        CHANNELS,
        (
            f"What is the total {w.amount} of {c} through the {{v}} channel?",
            f"Sum the {w.amount} of {c} by {{v}}.",
            f"How large is the overall {w.amount} of {{v}} {c}?",
            f"Add up the {w.amount} over {c} that came by {{v}}.",
        ),
        f"SELECT SUM({w.amount}) / 100.0 FROM {c} WHERE channel = '{{v}}'",
        ("cents",),
        ("cents",),
    )
    yield (
        "removed",
        COLOURS,
        (
            f"How many {w.lines} are {{v}}?",
            f"Count the {{v}} {w.lines}.",
            f"What is the number of {w.lines} of colour {{v}}?",
            f"How many {{v}} {w.lines} do we have?",
        ),
        f"SELECT COUNT(*) FROM {w.lines} WHERE colour = '{{v}}' AND {w.removed} = 0",
        ("removed",),
        ("removed",),
    )
    yield (
        "fan_out",
        WORDS,
        (
            f"What is the total {w.fee} of {c} with {w.tags} saying {{v}}?",
            f"Sum the {w.fee} of {c} that have {{v}} {w.tags}.",
            f"Over {c} with {{v}} {w.tags}, add up the {w.fee}.",
            f"How large is the overall {w.fee} for {c} whose {w.tags} say {{v}}?",
        ),
        f"SELECT SUM({w.fee}) FROM {c} WHERE id IN "
        f"(SELECT {own} FROM {w.tags} WHERE word = '{{v}}')",
        ("fan_out",),
        ("fan_out",),
    )
    yield (
        "currency",
        METHODS,
        (
            f"What is the total paid in {w.payments} by {{v}}, in euros?",
            f"Sum what was paid by {{v}} in {w.payments}, in euros.",
            f"How many euros were paid overall by {{v}} in {w.payments}?",
            f"In euros, add up {{v}} {w.payments} paid.",
        ),
        f"SELECT SUM(paid * per_euro) FROM {w.payments} JOIN {w.rates} ON code = ccy "
        f"WHERE method = '{{v}}'",
        ("currency",),
        ("currency",),
    )
    yield (
        "fiscal",
        years,
        (
            f"How many {c} were made in fiscal year {{v}}?",
            f"Count {c} of fiscal year {{v}}.",
            f"What is the number of {c} for fiscal {{v}}?",
            f"In the fiscal year {{v}}, how many {c} were there?",
        ),
        f"SELECT COUNT(*) FROM {c} WHERE {w.day} >= '{{v}}-{day}' AND {w.day} < '{{next}}-{day}'",
        ("fiscal",),
        ("fiscal",),
    )
    yield ("unit", COLOURS,
           (f"What is the total weight in kilograms of {{v}} {w.lines}?",
            f"Sum the weight of {{v}} {w.lines}, in kilograms.",
            f"How many kilograms is the overall weight of {w.lines} of colour {{v}}?",
            f"Add up the weight of {{v}} {w.lines} in kilograms."),
           f"SELECT SUM(weight) / 1000.0 FROM {w.lines} WHERE colour = '{{v}}' "
           f"AND {w.removed} = 0", ("unit", "removed"), ("unit", "removed"))  # fmt: skip


def _untouched(w: World) -> Iterator[_Shape]:
    c, p = w.children, w.parents
    years = tuple(str(year) for year in YEARS)
    yield (
        "by_channel",
        CHANNELS,
        (
            f"How many {c} came through the {{v}} channel?",
            f"Count {c} by {{v}}.",
            f"What is the number of {{v}} {c}?",
            f"How many {c} are from the {{v}} channel?",
        ),
        f"SELECT COUNT(*) FROM {c} WHERE channel = '{{v}}'",
        (),
        (),
    )
    yield (
        "by_region",
        REGIONS,
        (
            f"How many {p} are in the {{v}}?",
            f"Count {p} of the {{v}}.",
            f"What is the number of {p} from the {{v}}?",
            f"How many {{v}} {p} are there?",
        ),
        f"SELECT COUNT(*) FROM {p} WHERE region = '{{v}}'",
        (),
        (),
    )
    yield (
        "names",
        REGIONS,
        (
            f"List the name of {p} in the {{v}}.",
            f"Show the name of all {p} from the {{v}}.",
            f"Give the name of every one of the {{v}} {p}.",
            f"Which {p} are in the {{v}}? List the name.",
        ),
        f"SELECT name FROM {p} WHERE region = '{{v}}'",
        (),
        (),
    )
    yield (
        "highest",
        CHANNELS,
        (
            f"What is the highest {w.fee} of {c} by {{v}}?",
            f"Find the largest {w.fee} of {{v}} {c}.",
            f"What is the maximum {w.fee} for {c} through the {{v}} channel?",
            f"Give the top {w.fee} among {c} by {{v}}.",
        ),
        f"SELECT MAX({w.fee}) FROM {c} WHERE channel = '{{v}}'",
        (),
        (),
    )
    yield (
        "average",
        CHANNELS,
        (
            f"What is the average {w.fee} of {c} by {{v}}?",
            f"Find the mean {w.fee} of {{v}} {c}.",
            f"What {w.fee} do {c} through the {{v}} channel have on average?",
            f"Give the average {w.fee} among {{v}} {c}.",
        ),
        f"SELECT AVG({w.fee}) FROM {c} WHERE channel = '{{v}}'",
        (),
        (),
    )
    yield (
        "calendar",
        years,
        (
            f"How many {c} were made in calendar year {{v}}?",
            f"Count {c} of calendar year {{v}}.",
            f"What is the number of {c} for calendar {{v}}?",
            f"In the calendar year {{v}}, how many {c} were there?",
        ),
        f"SELECT COUNT(*) FROM {c} WHERE {w.day} >= '{{v}}-01-01' AND {w.day} < '{{next}}-01-01'",
        (),
        (),
    )
    yield (
        "tags",
        WORDS,
        (
            f"How many {w.tags} say {{v}}?",
            f"Count the {{v}} {w.tags}.",
            f"What is the number of {w.tags} saying {{v}}?",
            f"How many {{v}} {w.tags} are there?",
        ),
        f"SELECT COUNT(*) FROM {w.tags} WHERE word = '{{v}}'",
        (),
        (),
    )
    yield (
        "in_cents",
        CHANNELS,
        (
            f"What is the total {w.amount} in cents of {c} by {{v}}?",
            f"Sum the {w.amount} of {{v}} {c}, in cents.",
            f"How many cents is the overall {w.amount} of {c} through the {{v}} channel?",
            f"In cents, add up the {w.amount} over {c} by {{v}}.",
        ),
        f"SELECT SUM({w.amount}) FROM {c} WHERE channel = '{{v}}'",
        (),
        ("cents",),
    )
    yield ("payments", METHODS,
           (f"How many {w.payments} were by {{v}}?", f"Count the {{v}} {w.payments}.",
            f"What is the number of {w.payments} by {{v}}?",
            f"How many {{v}} {w.payments} are there?"),
           f"SELECT COUNT(*) FROM {w.payments} WHERE method = '{{v}}'", (), ())  # fmt: skip
