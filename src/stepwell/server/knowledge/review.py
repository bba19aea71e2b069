"""Verbs of those who decide: candidates, releases, export."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from stepwell.knowledge.entry import Entry, Status
from stepwell.knowledge.erase import History
from stepwell.knowledge.markdown import to_markdown
from stepwell.knowledge.payload import Template
from stepwell.knowledge.release import Plan
from stepwell.knowledge.render import render_entry
from stepwell.server.errors import PlanChanged
from stepwell.server.fields import Fields
from stepwell.server.knowledge.desk import (
    Answer,
    Ask,
    Desk,
    entry_json,
    page,
    read_choice,
    read_payload,
)
from stepwell.server.knowledge.entries import evidence_json

_MOST_SUGGESTED = 100_000


def candidates(desk: Desk, ask: Ask) -> Answer:
    """Best suggestion first."""
    asked = ask.asked("limit", "after")
    found = desk.base.suggestions(_MOST_SUGGESTED)
    shown = page([{"id": entry.id} for entry in found], asked)
    by_id = {entry.id: entry for entry in found}
    rows = [_candidate(desk, by_id[row["id"]]) for row in shown["data"]]
    return Answer(value={"data": rows, "next": shown["next"], "waiting": len(found)})


def _candidate(desk: Desk, entry: Entry) -> dict[str, Any]:
    return {
        "entry": entry_json(entry),
        "markdown": to_markdown(entry),
        "findings": list(desk.base.findings(entry.id)),
        "evidence": evidence_json(desk, entry),
        "contradicts": [
            {"id": name, "diff": _difference(desk, name, entry)} for name in entry.contradicts
        ],
        "times": desk.base.times(entry.id),
    }


def _difference(desk: Desk, name: str, entry: Entry) -> str:
    """Of what the two say, not of who said it when."""
    other = desk.base.entry(name)
    lines = difflib.unified_diff(
        render_entry(other).splitlines()[1:],
        render_entry(entry).splitlines()[1:],
        name,
        entry.id,
        lineterm="",
    )
    return "\n".join(lines)


def confirm(desk: Desk, ask: Ask) -> Answer:
    """The caller vouches for an entry, perhaps as edited, perhaps in the place of others."""
    fields = ask.fields("supersedes", "edited")
    entry_id = ask.names["id"]
    edited = None
    if "edited" in fields:
        edited = read_payload(fields, desk.base.entry(entry_id).kind, "edited")
    entry = desk.base.confirm(
        entry_id, by=desk.person, edited=edited, supersedes=fields.strings("supersedes")
    )
    return Answer(value={"id": entry.id, "status": entry.status.value})


def reject(desk: Desk, ask: Ask) -> Answer:
    """The caller is against an entry that is not released."""
    reason = ask.fields("reason").string("reason", "")
    entry = desk.base.reject(ask.names["id"], by=desk.person, reason=reason)
    return Answer(value={"id": entry.id, "status": entry.status.value})


def revalidate(desk: Desk, ask: Ask) -> Answer:
    """The caller vouches that an entry holds under the schema of now."""
    ask.fields()
    desk.base.revalidate(ask.names["id"], by=desk.person)
    return Answer(value={"id": ask.names["id"]})


def releases(desk: Desk, ask: Ask) -> Answer:
    """All, oldest first, and which is current."""
    ask.asked()
    rows, before = [], frozenset[str]()
    for made in desk.base.release_log():
        rows.append(
            {
                "name": made.name,
                "by": made.by,
                "at": datetime.fromtimestamp(made.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "added": sorted(made.ids - before),
                "removed": sorted(before - made.ids),
            }
        )
        before = made.ids
    return Answer(value={"current": desk.base.current, "releases": rows})


def plan_json(plan: Plan) -> dict[str, Any]:
    """What a release would do."""
    return {
        "added": list(plan.added),
        "removed": list(plan.removed),
        "behind": [{"id": name, "why": why} for name, why in plan.held.items()],
        "diff": plan.diff,
        "digest": plan.digest,
    }


def plan(desk: Desk, ask: Ask) -> Answer:
    """What a release by the caller would do, and released entries that probably do more harm than
    good. `retire`: ids, with commas between."""
    retire = ask.asked("retire").string("retire", "")
    names = tuple(filter(None, retire.split(",")))
    doubted = [asdict(item) for item in desk.base.retirements()]
    value = plan_json(desk.base.plan(by=desk.person, retire=names))
    return Answer(value=value | {"doubted": doubted})


def diff(desk: Desk, ask: Ask) -> Answer:
    """Of a release against another, else against the one before it."""
    name = ask.names["name"]
    against = ask.asked("against").string("against", "")
    if not against:
        names = desk.base.releases()
        place = names.index(name) if name in names else 0
        against = names[place - 1] if place else ""
    return Answer(value={"diff": desk.base.diff(against, name), "against": against})


def check_plan(desk: Desk, retire: tuple[str, ...], digest: str) -> Plan:
    """The plan of now. Raises PlanChanged where it is not the one that was looked at."""
    for name in retire:
        desk.base.entry(name)
    now = desk.base.plan(by=desk.person, retire=retire)
    if digest and now.digest != digest:
        raise PlanChanged(
            "the plan is another than the one of that digest.",
            hint="Look at it again: GET /v1/knowledge/releases/plan.",
            param="digest",
        )
    return now


def read_history(fields: Fields) -> History:
    """`keep` where it is not said."""
    if "history" not in fields:
        return History.KEEP
    found: History = read_choice(fields, "history", {item.value: item for item in History})
    return found


def export(desk: Desk, ask: Ask) -> Answer:
    """What is released, one JSON value a line: entries, then pairs of a question and its SQL."""
    ask.asked()
    held = desk.base.entries(Status.RELEASED)
    lines: list[Mapping[str, Any]] = [{"entry": entry_json(entry)} for entry in held]
    for entry in held:
        if isinstance(entry.payload, Template):
            lines.append({"pair": asdict(entry.payload) | {"area": entry.area}})
    return Answer(lines=lines)
