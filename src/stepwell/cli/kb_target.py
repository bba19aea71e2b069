"""Where `stepwell kb` works: a running server, or a folder that no server has open."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from urllib.parse import quote, urlencode

import typer

from stepwell.base.config import KnowledgeConfig
from stepwell.base.errors import ConfigError
from stepwell.cli.output import print_json

if TYPE_CHECKING:
    from stepwell.server.knowledge.desk import Desk

Id = Annotated[str, typer.Argument(help="Id of an entry, as `stepwell kb ls` shows it.")]
Area = Annotated[str, typer.Option(help="Database or subject; empty: all.")]
Limit = Annotated[int, typer.Option(help="At most this many, 1 to 200.")]
After = Annotated[str, typer.Option(help="Go on behind this id.")]

_ROOT = "/v1/knowledge"
_SECONDS = 600.0


class Target(Protocol):
    """Both take the same calls: method, path below /v1/knowledge, body, query."""

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """The value of the reply; a list of them where it is one a line. Raises StepwellError."""

    def close(self) -> None:
        """Let go of it."""


def below(*parts: str) -> str:
    """A path of parts that may hold any character."""
    return "/".join(quote(part, safe="") for part in parts)


class ServerTarget:
    """A running server."""

    def __init__(self, url: str, *, api_key: str | None) -> None:
        import httpx

        self._root = url.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(headers=headers, trust_env=False, timeout=_SECONDS)

    def close(self) -> None:
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """See `Target`."""
        import httpx

        from stepwell.cli.remote import RemoteError

        behind = f"?{urlencode(query)}" if query else ""
        url = f"{self._root}{_ROOT}/{path}{behind}"
        try:
            reply = self._client.request(method, url, json=body if method == "POST" else None)
        except httpx.HTTPError as error:
            raise RemoteError(
                f"{self._root} cannot be reached: {error}.",
                hint="Is `stepwell serve` running there? --folder works without a server.",
            ) from error
        if reply.is_success:
            lines = reply.headers.get("content-type", "").startswith("application/x-ndjson")
            return [json.loads(row) for row in reply.text.splitlines()] if lines else reply.json()
        try:
            said = reply.json()["error"]
            message, code = str(said["message"]), str(said["code"])
        except (ValueError, KeyError, TypeError):
            message, code = f"HTTP {reply.status_code} from {url}.", "bad_reply"
        raise RemoteError(message, code=code)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderTarget:
    """One tenant's base in a folder; whoever can write there has all roles."""

    desk: Desk

    def close(self) -> None:
        self.desk.book.close_here()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """See `Target`."""
        from urllib.parse import unquote

        from stepwell.server.knowledge.desk import Ask
        from stepwell.server.knowledge.routes import find

        route, names = find(method, path)
        if route.live:
            raise ConfigError(
                "sessions live in the memory of a running server.",
                hint="--url instead of --folder.",
            )
        asked = {name: str(value) for name, value in (query or {}).items()}
        plain = {name: unquote(value) for name, value in names.items()}
        answer = route.verb(self.desk, Ask(names=plain, query=asked, body=body or {}))
        return list(answer.lines) if answer.lines is not None else answer.value


def open_folder(folder: Path, *, tenant: str, user: str, settings: KnowledgeConfig) -> FolderTarget:
    """Raises ConfigError, KnowledgeError (a server that has it open among them)."""
    from stepwell.server.knowledge.start import check_knowledge

    check_knowledge(settings, tenants=[tenant])
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}.", hint="Name that of knowledge.folder.")
    from functools import partial

    from stepwell.knowledge.render import estimated_tokens
    from stepwell.server.auth import Caller, Role
    from stepwell.server.knowledge.books import Book
    from stepwell.server.knowledge.counts import KnowledgeCounts
    from stepwell.server.knowledge.desk import Desk
    from stepwell.server.knowledge.service import make_embedder, open_base

    opened = partial(
        open_base,
        settings=settings,
        embedder=make_embedder(settings),
        count_tokens=estimated_tokens,
    )
    desk = Desk(
        book=Book(tenant, folder=folder, open_base=opened),
        caller=Caller(tenant, user=user, roles=frozenset(Role)),
        settings=settings,
        counts=KnowledgeCounts(),
    )
    return FolderTarget(desk=desk)


def target(context: typer.Context) -> Target:
    """What the group's options name; opened now, closed when the command ends."""
    opened: Target = context.obj()
    context.call_on_close(opened.close)
    return opened


def given(**values: Any) -> dict[str, Any]:
    """Without what was left out."""
    return {name: value for name, value in values.items() if value not in (None, "", [])}


def payload(parts: list[str]) -> dict[str, Any]:
    """`name=text` of each field; `columns` is a list. Raises ConfigError."""
    found: dict[str, Any] = {}
    for part in parts:
        name, separator, text = part.partition("=")
        if not separator:
            raise ConfigError(f"{part!r:.80} is no field.", hint="Write name=text.")
        if name == "columns":
            found.setdefault(name, []).append(text)
        else:
            found[name] = text
    return found


def show_it(value: Any, table: Callable[[Any], None], *, as_json: bool) -> None:
    """A reply, for people or for programs."""
    if as_json:
        print_json(value)
    else:
        table(value)
