"""What a person who knows a world would tell: one fact for each of its traps."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.evaluate.knowledge_world import World
from stepwell.knowledge.payload import Gotcha, Metric, Payload, Relationship


@dataclass(frozen=True, slots=True)
class Fact:
    """A trap, said. `triggers`, `depends_on`: as in `Knowledge.capture`."""

    trap: str
    payload: Payload
    triggers: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()


def facts(world: World) -> dict[str, Fact]:
    """By trap."""
    w, c = world, world.children
    said: tuple[Fact, ...] = (
        Fact("stale", Gotcha(about=f"{c}.status", rule=f"Stale. Use {c}.{w.state} instead of "
             f"{c}.status."), (f"{c}.status", *(f"{c} + {value}" for value in w.states)),
             (f"{c}.status", f"{c}.{w.state}")),
        Fact("code", Gotcha(about=f"{w.parents}.{w.level}", rule="Holds codes: " + ", ".join(
             f"{code} means {name}" for name, code in w.codes.items()) + "."),
             (f"{w.parents}.{w.level}",), (f"{w.parents}.{w.level}",)),
        Fact("join", Relationship(left=f"{c}.{w.link}", right=f"{w.parents}.id",
             note=f"{c}.{w.legacy} is of the system before"), (), (f"{c}.{w.link}",)),
        Fact("metric", Metric(name=f"active {w.parents}", table=w.parents,
             expression=f"COUNT(*) FILTER (WHERE active = 1 AND {w.staff} = 0)"), (),
             (f"{w.parents}.active", f"{w.parents}.{w.staff}")),
        Fact("cents", Gotcha(about=f"{c}.{w.amount}", rule="Stored in cents. Divide by 100."),
             (f"{c}.{w.amount}",), (f"{c}.{w.amount}",)),
        Fact("removed", Gotcha(about=w.lines, rule="Removed rows stay. Only rows where "
             f"{w.removed} = 0 count."), (w.lines,), (f"{w.lines}.{w.removed}",)),
        Fact("fan_out", Gotcha(about=w.tags, rule=f"Several rows for one of {c}. Filter {c} with "
             f"IN over {w.tags}, never join."), (f"{c} + {w.tags}",), (w.tags,)),
        Fact("currency", Gotcha(about=f"{w.payments}.paid", rule=f"In the currency of "
             f"{w.payments}.ccy. Multiply by {w.rates}.per_euro where {w.rates}.code = "
             f"{w.payments}.ccy."), (f"{w.payments}.paid",),
             (f"{w.payments}.paid", f"{w.rates}.per_euro")),
        Fact("fiscal", Gotcha(about=f"fiscal year of {c}", rule="Fiscal years begin in month "
             f"{w.month:02}."), (f"{c} + fiscal",), (f"{c}.{w.day}",)),
        Fact("unit", Gotcha(about=f"{w.lines}.weight", rule="Stored in grams. Divide by 1000."),
             (f"{w.lines}.weight",), (f"{w.lines}.weight",)),
    )  # fmt: skip
    return {fact.trap: fact for fact in said}
