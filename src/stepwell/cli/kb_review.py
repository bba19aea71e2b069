"""`stepwell kb`, the verbs of those who decide for all: releases, cases, schema, erasing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stepwell.base.errors import ConfigError
from stepwell.cli import kb_tables as tables
from stepwell.cli import options
from stepwell.cli.kb_target import After, Area, Id, Limit, below, given, show_it, target

Retire = Annotated[list[str] | None, typer.Option(help="Released entry to leave out; repeatable.")]
Name = Annotated[str, typer.Argument(help="Name of a release, such as r0001.")]
Digest = Annotated[str | None, typer.Option(help="Only if the plan has this digest.")]


def releases(context: typer.Context, as_json: options.Json = False) -> None:
    """All releases, and which is in force.

    Example: [bold]stepwell kb releases[/bold]
    """
    show_it(target(context).call("GET", "releases"), tables.releases, as_json=as_json)


def plan(context: typer.Context, retire: Retire = None, as_json: options.Json = False) -> None:
    """What a release by you would bring in, take out and leave behind, and why.

    Example: [bold]stepwell kb plan[/bold]
    """
    query = given(retire=",".join(retire or ()))
    reply = target(context).call("GET", "releases/plan", query=query)
    show_it(reply, tables.plan, as_json=as_json)


def diff(
    context: typer.Context,
    name: Name,
    against: Annotated[str, typer.Option(help="Another release; empty: the one before.")] = "",
    as_json: options.Json = False,
) -> None:
    """What a release changed.

    Example: [bold]stepwell kb diff r0002 --against r0001[/bold]
    """
    path = below("releases", name, "diff")
    reply = target(context).call("GET", path, query=given(against=against))
    show_it(reply, tables.diff, as_json=as_json)


def release(
    context: typer.Context,
    retire: Retire = None,
    digest: Digest = None,
    waive: Annotated[
        list[str] | None,
        typer.Option(metavar="CASE=REASON", help="Case that may break; needs --digest."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make what is confirmed and ready everybody's.

    Example: [bold]stepwell kb release --digest 5f0c...[/bold]
    """
    waived = []
    for item in waive or ():
        case, separator, reason = item.partition("=")
        if not separator:
            raise ConfigError(f"--waive {item!r:.80} has no reason.", hint="Write CASE=REASON.")
        waived.append({"case": case, "reason": reason})
    body = given(retire=retire or [], digest=digest, waive=waived)
    show_it(target(context).call("POST", "releases", body), tables.plain, as_json=as_json)


def rollback(context: typer.Context, name: Name, as_json: options.Json = False) -> None:
    """Put an earlier release in force again.

    Example: [bold]stepwell kb rollback r0001[/bold]
    """
    reply = target(context).call("POST", "releases/rollback", {"to": name})
    show_it(reply, tables.plain, as_json=as_json)


def cases(
    context: typer.Context, limit: Limit = 50, after: After = "", as_json: options.Json = False
) -> None:
    """Golden cases, which every release is checked against.

    Example: [bold]stepwell kb cases[/bold]
    """
    reply = target(context).call("GET", "cases", query=given(limit=limit, after=after))
    show_it(reply, tables.cases, as_json=as_json)


def case(
    context: typer.Context,
    question: Annotated[str | None, typer.Argument(help="What is asked.")] = None,
    expect: Annotated[
        list[str] | None, typer.Option(help="Entry id or text that must be there; repeatable.")
    ] = None,
    forbid: Annotated[
        list[str] | None, typer.Option(help="One that must not be there; repeatable.")
    ] = None,
    reads: Annotated[str, typer.Option(help="context, or answer: the served model's.")] = "context",
    kind: Annotated[str, typer.Option(help="golden, near_miss or poison.")] = "golden",
    area: Area = "",
    case_id: Annotated[str, typer.Option("--id", help="Its name; left out: made.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Take away the one of --id.")] = False,
    as_json: options.Json = False,
) -> None:
    """Add or replace a golden case, or take one away.

    Example: [bold]stepwell kb case 'orders by status?' --expect orders.state[/bold]
    """
    if remove:
        body = given(id=case_id, remove=True)
    else:
        body = given(
            id=case_id,
            question=question,
            expect=expect or [],
            forbid=forbid or [],
            reads=reads,
            kind=kind,
            area=area,
        )
    show_it(target(context).call("POST", "cases", body), tables.plain, as_json=as_json)


def schema(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="DDL, or .json: table or table.column -> hash. All of it. Left out: show it."
        ),
    ] = None,
    dialect: Annotated[str, typer.Option(help="Of the DDL.")] = "sqlite",
    preview: Annotated[bool, typer.Option("--preview", help="Only say what changes.")] = False,
    as_json: options.Json = False,
) -> None:
    """Tell what the schema is now; entries that depend on what changed are given to nobody.

    Example: [bold]stepwell kb schema schema.sql --preview[/bold]
    """
    if file is None:
        show_it(target(context).call("GET", "schema"), tables.plain, as_json=as_json)
        return
    try:
        text = file.read_text(encoding="utf-8")
        told = json.loads(text) if file.suffix == ".json" else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from error
    body = {"ddl": text, "dialect": dialect} if told is None else {"hashes": told}
    reply = target(context).call("POST", "schema", body | {"preview": preview})
    show_it(reply, tables.plain, as_json=as_json)


def revalidate(context: typer.Context, entry_id: Id, as_json: options.Json = False) -> None:
    """Vouch that an entry holds under the schema of now.

    Example: [bold]stepwell kb revalidate gotcha-0f9a2b7c11d03e44[/bold]
    """
    reply = target(context).call("POST", below("entries", entry_id, "revalidate"))
    show_it(reply, tables.plain, as_json=as_json)


def erase(
    context: typer.Context,
    entry_id: Id,
    history: Annotated[
        str, typer.Option(help="keep, or erase: older releases are written anew too.")
    ] = "keep",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Take an entry out of everything that is kept. It cannot come back.

    Example: [bold]stepwell kb erase gotcha-0f9a2b7c11d03e44 --history erase --yes[/bold]
    """
    if not yes:
        typer.confirm(f"Erase {entry_id}?", abort=True, err=True)
    reply = target(context).call("POST", "erase", {"id": entry_id, "history": history})
    show_it(reply, tables.plain, as_json=as_json)


def export(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="File; left out: stdout.")] = None,
) -> None:
    """What is released, as JSON lines: entries, then pairs of a question and its SQL.

    Example: [bold]stepwell kb export --out released.jsonl[/bold]
    """
    lines = target(context).call("GET", "export")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")


COMMANDS = (
    releases, plan, diff, release, rollback, cases, case, schema, revalidate, erase, export
)  # fmt: skip
