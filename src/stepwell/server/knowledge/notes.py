"""Verbs on notes: what a client says of its own session's state.

A session is the caller's own, known by its id and its area; another person's of the same id is
another one. Sessions live in the running server's memory.
"""

from __future__ import annotations

from stepwell.base.errors import InvalidParameter
from stepwell.knowledge.policy import Scope, Session
from stepwell.server.context import LONGEST_SESSION_ID
from stepwell.server.errors import UnknownNote
from stepwell.server.fields import Fields
from stepwell.server.knowledge.desk import Answer, Ask, Desk, needed
from stepwell.server.knowledge.wish import read_area


def _session(fields: Fields, desk: Desk) -> Session:
    """Of the fields `session` and `area`."""
    name = needed(fields, "session")
    if len(name) > LONGEST_SESSION_ID:
        raise InvalidParameter(
            f"session has {len(name)} characters.",
            hint=f"It must have 1 to {LONGEST_SESSION_ID}.",
            param="session",
        )
    scope = Scope(area=read_area(fields, where="area"), user=desk.person)
    return Session(id=name, scope=scope)


def add_note(desk: Desk, ask: Ask) -> Answer:
    """The session's requests are given it from the next one on."""
    fields = ask.fields("session", "area", "text")
    session = _session(fields, desk)
    note = desk.base.note(session, needed(fields, "text"))
    held = len(desk.base.notes(session))
    return Answer(value={"id": note.id, "session": session.id, "notes": held}, status=201)


def list_notes(desk: Desk, ask: Ask) -> Answer:
    """Oldest first; none of a session that is not known."""
    session = _session(ask.asked("session", "area"), desk)
    rows = [{"id": note.id, "text": note.text} for note in desk.base.notes(session)]
    return Answer(value={"session": session.id, "data": rows})


def drop_notes(desk: Desk, ask: Ask) -> tuple[str, ...]:
    """The ids of those that are gone: the one of `id`, or all of the session, and those that were
    gone before but whose KV may be left. Conversations that were given one start over."""
    fields = ask.asked("session", "area", "id")
    session = _session(fields, desk)
    held = [note.id for note in desk.base.notes(session)]
    name = needed(fields, "id") if "id" in fields else None
    if name is not None:
        if name not in held and desk.base.owed_notes().get(name) != session:
            raise UnknownNote(
                f"the session has no note {name!r:.80}.", hint="GET notes lists them.", param="id"
            )
        held = [name]
    desk.base.drop_notes(session, held)
    owed = desk.base.owed_notes()
    desk.book.memory.forget(owed)
    return tuple(note for note, whose in owed.items() if whose == session and name in (None, note))


def drop_notes_here(desk: Desk, ask: Ask) -> Answer:
    """DELETE notes, without a look at any KV."""
    return Answer(value={"removed": list(drop_notes(desk, ask)), "kv_chunks": None})
