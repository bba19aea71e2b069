"""`stepwell kb`, the verbs on notes of a session, which lives in a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.base.errors import ConfigError
from stepwell.cli import kb_tables as tables
from stepwell.cli import options
from stepwell.cli.kb_target import Area, given, show_it, target

Session = Annotated[str, typer.Argument(help="As requests name it: knowledge.session.")]


def note(
    context: typer.Context,
    session: Session,
    text: Annotated[
        str | None, typer.Argument(help="What the session's requests are told.")
    ] = None,
    area: Area = "",
    remove: Annotated[str | None, typer.Option(help="Take away the note of this id.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all notes away.")] = False,
    as_json: options.Json = False,
) -> None:
    """Tell a session of yours something, or take back what you told it.

    Example: [bold]stepwell kb note report-7 'The last result had 3 rows.'[/bold]
    """
    if sum((text is not None, remove is not None, clear)) != 1:
        raise ConfigError("one of a text, --remove and --clear is needed.")
    if remove is not None and not remove.strip():
        raise ConfigError("--remove has no id.", hint="Give the note's, or --clear for all.")
    place = given(session=session, area=area)
    if text is not None:
        reply = target(context).call("POST", "notes", place | {"text": text})
    else:
        reply = target(context).call("DELETE", "notes", query=place | given(id=remove))
    show_it(reply, tables.plain, as_json=as_json)


def notes(
    context: typer.Context, session: Session, area: Area = "", as_json: options.Json = False
) -> None:
    """What a session of yours was told, oldest first.

    Example: [bold]stepwell kb notes report-7[/bold]
    """
    reply = target(context).call("GET", "notes", query=given(session=session, area=area))
    show_it(reply, tables.notes, as_json=as_json)


COMMANDS = (note, notes)
