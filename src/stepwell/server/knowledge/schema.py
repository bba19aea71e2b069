"""Verbs on the schema that entries depend on: what it is, what it is now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stepwell.base.errors import InvalidParameter
from stepwell.knowledge.ddl import schema_hashes
from stepwell.knowledge.entry import Status
from stepwell.server.fields import Fields, check_text
from stepwell.server.knowledge.desk import Answer, Ask, Desk, needed

_IN_USE = (Status.RELEASED, Status.CONFIRMED)


def show_schema(desk: Desk, ask: Ask) -> Answer:
    """What the schema is, as it was told last, and which entries do not fit it."""
    ask.asked()
    now = desk.base.schema()
    return Answer(value={"hashes": dict(now), "unusable": _in_use(desk, desk.base.outdated(now))})


def set_schema(desk: Desk, ask: Ask) -> Answer:
    """What the schema is now, all of it; with `preview` only what that would change. `became`:
    those of `unusable` that were usable."""
    fields = ask.fields("hashes", "ddl", "dialect", "preview")
    told = _read(fields)
    old, before = desk.base.schema(), desk.base.outdated(desk.base.schema())
    preview = fields.boolean("preview", False)
    after = desk.base.outdated(told) if preview else desk.base.drift(told)
    now = {name.casefold(): value for name, value in told.items()}
    value = {
        "unusable": _in_use(desk, after),
        "became": _in_use(desk, sorted(set(after) - set(before))),
        "new": sorted(now.keys() - old.keys()),
        "changed": sorted(name for name in now.keys() & old.keys() if now[name] != old[name]),
        "gone": sorted(old.keys() - now.keys()),
        "preview": preview,
    }
    return Answer(value=value)


def _read(fields: Fields) -> Mapping[str, str]:
    """`hashes`, or those of `ddl`."""
    hashes = fields.table("hashes")
    if ("ddl" in fields) is (hashes is not None):
        raise InvalidParameter(
            "one of hashes and ddl is needed.", hint="All of the schema.", param="ddl"
        )
    if hashes is None:
        return schema_hashes(needed(fields, "ddl"), dialect=fields.string("dialect", "sqlite"))
    if not all(isinstance(value, str) for value in hashes.values()):
        raise InvalidParameter(
            "hashes is not of texts.",
            hint='{"orders": "9f2c", "orders.status": "11ab"}: all of the schema.',
            param="hashes",
        )
    for text in (*hashes, *hashes.values()):
        check_text(text, where="hashes")
    return hashes


def _in_use(desk: Desk, ids: Iterable[str]) -> list[str]:
    """Those that would be in somebody's context otherwise."""
    return [name for name in ids if desk.base.entry(name).status in _IN_USE]
