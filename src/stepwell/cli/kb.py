"""`stepwell kb`: a tenant's knowledge base, on a running server or in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepwell.cli import kb_notes, kb_review, options
from stepwell.cli import kb_tables as tables
from stepwell.cli.kb_target import (
    After,
    Area,
    Id,
    Limit,
    ServerTarget,
    Target,
    below,
    given,
    open_folder,
    payload,
    show_it,
    target,
)

app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)


@app.callback()
def kb(
    context: typer.Context,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None,
        typer.Option("--key", envvar="STEPWELL_API_KEY", help="Key, where the server needs one."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of knowledge bases that no server has open.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="With --folder: whose base.")] = "local",
    user: Annotated[str, typer.Option(help="With --folder: who signs.")] = "local",
    config: options.ConfigFile = None,
    settings: options.Settings = None,
) -> None:
    """A tenant's knowledge base: propose, review, release, roll back, erase.

    Example: [bold]stepwell kb --key sk-ann candidates[/bold], or without a server
    [bold]stepwell kb --folder knowledge --tenant shop ls[/bold]
    """

    def open_target() -> Target:
        if folder is None:
            return ServerTarget(url, api_key=api_key)
        flags = {"knowledge.folder": str(folder), "knowledge.capture": "quarantine"}
        chosen = options.make_config(file=config, settings=settings, flags=flags)
        return open_folder(folder, tenant=tenant, user=user, settings=chosen.knowledge)

    context.obj = open_target


@app.command()
def me(context: typer.Context, as_json: options.Json = False) -> None:
    """Who this key is, what it may do, and which release is in force.

    Example: [bold]stepwell kb --key sk-ann me[/bold]
    """
    show_it(target(context).call("GET", "me"), tables.me, as_json=as_json)


@app.command()
def ls(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(help="candidate, confirmed, released or retired.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="schema, metric, gotcha, ...")] = None,
    limit: Limit = 50,
    after: After = "",
    as_json: options.Json = False,
) -> None:
    """List entries in order of id.

    Example: [bold]stepwell kb ls --status released --kind gotcha[/bold]
    """
    query = given(status=status, kind=kind, limit=limit, after=after)
    show_it(target(context).call("GET", "entries", query=query), tables.entries, as_json=as_json)


@app.command()
def show(context: typer.Context, entry_id: Id, as_json: options.Json = False) -> None:
    """One entry: what it says, what speaks for it, where it was released.

    Example: [bold]stepwell kb show gotcha-0f9a2b7c11d03e44[/bold]
    """
    show_it(target(context).call("GET", below("entries", entry_id)), tables.entry, as_json=as_json)


@app.command()
def add(
    context: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            help="schema, relationship, metric, gotcha, error_rule, template or document."
        ),
    ],
    fields: Annotated[
        list[str], typer.Argument(metavar="FIELD=TEXT...", help="Its fields; columns= repeats.")
    ],
    area: Area = "",
    trigger: Annotated[list[str] | None, typer.Option(help="Name that brings it up.")] = None,
    depends_on: Annotated[
        list[str] | None, typer.Option(help="table or table.column; repeatable.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Propose an entry: a candidate, which somebody must confirm.

    Example: [bold]stepwell kb add gotcha about=orders.status 'rule=stale; use orders.state'[/bold]
    """
    body = given(
        kind=kind,
        payload=payload(fields),
        area=area,
        triggers=trigger or [],
        depends_on=depends_on or [],
    )
    show_it(target(context).call("POST", "entries", body), tables.made, as_json=as_json)


@app.command()
def search(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="A question.")],
    area: Area = "",
    as_json: options.Json = False,
) -> None:
    """What a question brings up, best first, as a model would be given it.

    Example: [bold]stepwell kb search 'turnover by status'[/bold]
    """
    body = {"text": text, "area": area}
    show_it(target(context).call("POST", "search", body), tables.found, as_json=as_json)


@app.command()
def feedback(
    context: typer.Context,
    response_id: Annotated[str, typer.Argument(help="Id of a reply.")],
    verdict: Annotated[str, typer.Argument(help="confirmed, edited, executed, failed, rejected.")],
    kind: Annotated[str | None, typer.Option(help="Kind of what it taught.")] = None,
    field: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=TEXT", help="Of what it taught; repeatable.")
    ] = None,
    error: Annotated[str | None, typer.Option(help="With failed: what was said.")] = None,
    as_json: options.Json = False,
) -> None:
    """Say what became of a reply that was given knowledge.

    Example: [bold]stepwell kb feedback chatcmpl-1f executed --kind template
    --field 'sql=SELECT 1'[/bold]
    """
    body = given(response_id=response_id, verdict=verdict, error=error)
    if kind is not None:
        body["entry"] = {"kind": kind, "payload": payload(field or [])}
    show_it(target(context).call("POST", "feedback", body), tables.made, as_json=as_json)


@app.command()
def candidates(
    context: typer.Context, limit: Limit = 20, after: After = "", as_json: options.Json = False
) -> None:
    """What waits for a decision, best suggestion first.

    Example: [bold]stepwell kb candidates --limit 5[/bold]
    """
    query = given(limit=limit, after=after)
    reply = target(context).call("GET", "candidates", query=query)
    show_it(reply, tables.candidates, as_json=as_json)


@app.command()
def confirm(
    context: typer.Context,
    entry_id: Id,
    supersedes: Annotated[
        list[str] | None, typer.Option(help="Entry that it replaces; repeatable.")
    ] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=TEXT", help="All its fields, as you would have them."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Vouch for an entry: it is in your context at once, in everybody's once released.

    Example: [bold]stepwell kb confirm gotcha-0f9a2b7c11d03e44[/bold]
    """
    body = given(supersedes=supersedes or [], edited=payload(edit) if edit else None)
    path = below("candidates", entry_id, "confirm")
    show_it(target(context).call("POST", path, body), tables.plain, as_json=as_json)


@app.command()
def reject(
    context: typer.Context,
    entry_id: Id,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    as_json: options.Json = False,
) -> None:
    """Your word against an entry that is not released.

    Example: [bold]stepwell kb reject gotcha-0f9a2b7c11d03e44 --reason 'not so'[/bold]
    """
    path = below("candidates", entry_id, "reject")
    show_it(target(context).call("POST", path, {"reason": reason}), tables.plain, as_json=as_json)


for _command in (*kb_notes.COMMANDS, *kb_review.COMMANDS):
    app.command()(_command)
