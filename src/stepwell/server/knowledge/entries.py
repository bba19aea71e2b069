"""Verbs on entries: propose, list, look at one, search; and verdicts on replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import fields as fields_of
from typing import Any

from stepwell.base.errors import InvalidParameter
from stepwell.knowledge.entry import Entry, Source, Status, Validity
from stepwell.knowledge.payload import PAYLOADS, Kind, Payload, make_payload
from stepwell.knowledge.policy import Evidence, Outcome, Scope, Session
from stepwell.knowledge.render import render_entry
from stepwell.server.auth import Role
from stepwell.server.errors import UnknownResponse
from stepwell.server.fields import Fields, check_text
from stepwell.server.knowledge.desk import (
    Answer,
    Ask,
    Desk,
    captured_json,
    entry_json,
    needed,
    page,
    read_choice,
    read_kind,
    read_payload,
)
from stepwell.server.knowledge.memory import Reply
from stepwell.server.knowledge.wish import read_area

_ENTRY = ("kind", "payload", "area", "triggers", "depends_on", "valid_from", "valid_to", "parents")
_LISTED = (Status.CANDIDATE, Status.CONFIRMED, Status.RELEASED)
_VERDICTS = ("confirmed", "edited", "executed", "failed", "rejected")
_SAYS = {"confirmed": True, "failed": False, "rejected": False}
"""What a verdict says of the entries that the reply was given; the others say nothing of them."""
_MOST_TOKENS = 16384


def propose(desk: Desk, ask: Ask) -> Answer:
    """A candidate by hand. A person who may confirm speaks for a user, any other key for a
    program."""
    fields = ask.fields(*_ENTRY)
    desk.check_capture()
    kind = read_kind(fields)
    captured = desk.base.capture(
        read_payload(fields, kind),
        by=desk.person,
        evidence=Evidence.SEED,
        source=Source.USER if Role.CONFIRM in desk.caller.roles else Source.MODEL,
        **_about(fields),
    )
    return Answer(value=captured_json(captured), status=201)


def _about(fields: Fields) -> dict[str, Any]:
    return {
        "area": read_area(fields, where="area"),
        "triggers": _texts(fields, "triggers"),
        "depends_on": _texts(fields, "depends_on"),
        "parents": _texts(fields, "parents"),
        "validity": Validity(
            first=fields.string("valid_from", ""), last=fields.string("valid_to", "")
        ),
    }


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    return tuple(check_text(text, where=name) for text in fields.strings(name))


def list_entries(desk: Desk, ask: Ask) -> Answer:
    """In order of id, of one status or of all but retired ones, which are in no context."""
    asked = ask.asked("status", "kind", "area", "limit", "after")
    statuses: tuple[Status, ...] = _LISTED
    if "status" in asked:
        valid = {status.value: status for status in (*_LISTED, Status.RETIRED)}
        statuses = (read_choice(asked, "status", valid),)
    found = [entry for status in statuses for entry in desk.base.entries(status)]
    if "kind" in asked:
        found = [entry for entry in found if entry.kind is read_kind(asked)]
    if "area" in asked:
        area = read_area(asked, where="area")
        found = [entry for entry in found if entry.area == area]
    rows = [entry_json(entry) for entry in sorted(found, key=lambda entry: entry.id)]
    return Answer(value=page(rows, asked))


def show(desk: Desk, ask: Ask) -> Answer:
    """One entry, with what speaks for it and where it was released."""
    ask.asked()
    entry = desk.base.entry(ask.names["id"])
    value = {
        "entry": entry_json(entry),
        "evidence": evidence_json(desk, entry),
        "history": [
            {"release": name, "markdown": text} for name, text in desk.base.history(entry.id)
        ],
        "findings": list(desk.base.findings(entry.id)),
        "usefulness": asdict(desk.base.usefulness(entry.id)),
    }
    return Answer(value=value)


def evidence_json(desk: Desk, entry: Entry) -> list[dict[str, str]]:
    """Oldest first."""
    return [{"what": what.value, "by": by} for what, by in desk.base.evidence(entry.id)]


def search(desk: Desk, ask: Ask) -> Answer:
    """What a question brings up, best first. Changes nothing."""
    fields = ask.fields("text", "area", "max_tokens")
    most = fields.integer("max_tokens", desk.settings.max_tokens)
    if most is None or not 0 <= most <= _MOST_TOKENS:
        hint = f"0 to {_MOST_TOKENS}."
        raise InvalidParameter(f"max_tokens is {most}.", hint=hint, param="max_tokens")
    scope = Scope(area=read_area(fields, where="area"), user=desk.person)
    found = desk.base.search(needed(fields, "text"), scope, most)
    rows = [
        {
            "id": item.entry.id,
            "kind": item.entry.kind.value,
            "pattern": item.pattern.value,
            "area": item.entry.area,
            "text": render_entry(item.entry),
        }
        for item in found
    ]
    return Answer(value={"entries": rows})


def feedback(desk: Desk, ask: Ask) -> Answer:
    """What became of a reply that was given knowledge."""
    fields = ask.fields("response_id", "verdict", "entry", "error", "supersedes")
    verdict = read_choice(fields, "verdict", {name: name for name in _VERDICTS})
    reply = desk.book.memory.replies.get(needed(fields, "response_id"))
    if reply is None:
        raise UnknownResponse(
            "no reply of that id was given knowledge here, or it is forgotten.",
            hint="Propose what it taught: POST /v1/knowledge/entries.",
            param="response_id",
        )
    if verdict in ("confirmed", "edited"):
        desk.caller.check_role(Role.CONFIRM)
    value = _judged(desk, reply, verdict, fields)
    if verdict in _SAYS:
        scope = Scope(area=reply.conversation.area, user=reply.conversation.person)
        left = desk.base.visible(reply.ids, scope)  # some may be erased since
        desk.base.outcome(sorted(left), by=desk.person, good=_SAYS[verdict])
    desk.counts.feedback(verdict)
    return Answer(value=value)


def _judged(desk: Desk, reply: Reply, verdict: str, fields: Fields) -> dict[str, Any]:
    if verdict == "failed":
        return _failed(desk, reply, needed(fields, "error"))
    table = fields.table("entry")
    if table is None or verdict == "rejected":
        if verdict == "edited":
            raise InvalidParameter(
                "entry is missing.", hint="{kind, payload}: what it was edited to.", param="entry"
            )
        return {"outcome": "noted", "id": None}
    return _learn(desk, reply, verdict, table, _texts(fields, "supersedes"))


def _failed(desk: Desk, reply: Reply, error: str) -> dict[str, Any]:
    desk.check_capture()
    area = reply.conversation.area
    made = desk.base.failed(error, question=reply.question, by=desk.person, area=area)
    return captured_json(made) if made is not None else {"outcome": "logged", "id": None}


_EVIDENCE = {
    "confirmed": (Evidence.USER_CONFIRMED, Source.MODEL),
    "edited": (Evidence.ACCEPTED_EDIT, Source.USER),
    "executed": (Evidence.EXECUTED, Source.MODEL),
}


def _learn(
    desk: Desk,
    reply: Reply,
    verdict: str,
    table: Mapping[str, Any],
    supersedes: tuple[str, ...],
) -> dict[str, Any]:
    """A candidate of what the reply taught, confirmed where a person says so and nothing is found
    against it."""
    desk.check_capture()
    inner = Fields(table, prefix="entry.")
    inner.refuse_unknown(_ENTRY)
    kind = read_kind(inner)
    about = _about(inner)
    about["area"] = about["area"] or reply.conversation.area
    evidence, source = _EVIDENCE[verdict]
    scope = Scope(area=reply.conversation.area, user=reply.conversation.person)
    made = desk.base.capture(
        _with_question(kind, inner, reply.question),
        by=desk.person,
        evidence=evidence,
        source=source,
        session=Session(id=reply.conversation.name, scope=scope),
        given=reply.ids,
        **about,
    )
    value = captured_json(made)
    if verdict == "executed" or made.outcome is Outcome.RETRIEVED or made.findings:
        return value
    entry = desk.base.confirm(made.id, by=desk.person, evidence=evidence, supersedes=supersedes)
    return value | {"status": entry.status.value}


def _with_question(kind: Kind, inner: Fields, question: str) -> Payload:
    """A template need not repeat the question that was asked."""
    table = inner.table("payload") or {}
    names = {item.name for item in fields_of(PAYLOADS[kind])}
    if "question" in names and "question" not in table:
        table = {"question": question, **table}
    return make_payload(kind, table)
