"""The paths below /v1/knowledge: one table for HTTP and for `stepwell kb`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.server.auth import Caller, Role
from stepwell.server.errors import ForbiddenRole, MethodNotAllowed, UnknownRoute
from stepwell.server.knowledge import cases, entries, notes, review, schema, switch
from stepwell.server.knowledge.desk import Answer, Ask, Desk

ROOT = "/v1/knowledge"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a key must have. `role` None and `some`: any role; neither: any key."""

    role: Role | None = None
    some: bool = True

    def check(self, caller: Caller) -> None:
        """Raise ForbiddenRole."""
        if self.role is not None:
            caller.check_role(self.role)
        elif self.some and not caller.roles:
            raise ForbiddenRole(
                "this key has no role: it may search and be given knowledge, nothing else.",
                hint=f"Use a key whose line says roles={Role.PROPOSE.value} or another.",
            )

    def why_not(self, caller: Caller) -> str | None:
        """What `check` would say; None where the caller may."""
        try:
            self.check(caller)
        except ForbiddenRole as error:
            return str(error)
        return None


_ANY = Needs(some=False)
_SOME = Needs()
_PROPOSE, _CONFIRM, _RELEASE, _ERASE = (Needs(role) for role in Role)


@dataclass(frozen=True, slots=True)
class Route:
    """`path`: below ROOT, with `{name}` for a part that is read. `live`: means nothing where no
    server runs."""

    method: str
    path: str
    needs: Needs
    verb: Callable[[Desk, Ask], Answer]
    live: bool = False


def me(desk: Desk, ask: Ask) -> Answer:
    """Who the key is, what it may do here, and what is in force. `verbs`: each way in, with the
    reason where the key may not use it."""
    ask.asked()
    return Answer(
        value={
            "tenant": desk.book.name,
            "user": desk.person,
            "roles": [role.value for role in Role if role in desk.caller.roles],
            "capture": desk.settings.capture,
            "release": desk.base.current,
            "verbs": [_verb_json(route, desk.caller) for route in ROUTES],
        }
    )


def _verb_json(route: Route, caller: Caller) -> dict[str, Any]:
    why_not = route.needs.why_not(caller)
    return {
        "method": route.method,
        "path": route.path,
        "may": why_not is None,
        "why_not": why_not,
    }


ROUTES = (
    Route("GET", "me", _ANY, me),
    Route("POST", "entries", _PROPOSE, entries.propose),
    Route("GET", "entries", _SOME, entries.list_entries),
    Route("GET", "entries/{id}", _SOME, entries.show),
    Route("POST", "entries/{id}/revalidate", _CONFIRM, review.revalidate),
    Route("POST", "search", _ANY, entries.search),
    Route("POST", "feedback", _PROPOSE, entries.feedback),
    Route("POST", "notes", _PROPOSE, notes.add_note, live=True),
    Route("GET", "notes", _SOME, notes.list_notes, live=True),
    Route("DELETE", "notes", _PROPOSE, notes.drop_notes_here, live=True),
    Route("GET", "candidates", _SOME, review.candidates),
    Route("POST", "candidates/{id}/confirm", _CONFIRM, review.confirm),
    Route("POST", "candidates/{id}/reject", _CONFIRM, review.reject),
    Route("GET", "releases", _SOME, review.releases),
    Route("GET", "releases/plan", _SOME, review.plan),
    Route("GET", "releases/{name}/diff", _SOME, review.diff),
    Route("POST", "releases", _RELEASE, switch.release_here),
    Route("POST", "releases/rollback", _RELEASE, switch.rollback_here),
    Route("GET", "cases", _SOME, cases.list_cases),
    Route("POST", "cases", _RELEASE, cases.put_case),
    Route("GET", "schema", _SOME, schema.show_schema),
    Route("POST", "schema", _RELEASE, schema.set_schema),
    Route("POST", "erase", _ERASE, switch.erase_here),
    Route("GET", "export", _RELEASE, review.export),
)


def find(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """The route of a path below ROOT, and what its `{name}`s are. Raises UnknownRoute,
    MethodNotAllowed."""
    parts = path.strip("/").split("/")
    there = [(route, names) for route in ROUTES if (names := _match(route.path, parts)) is not None]
    for route, names in there:
        if route.method == method:
            return route, names
    if there:
        methods = ", ".join(route.method for route, _ in there)
        raise MethodNotAllowed(f"{ROOT}/{path} does not take {method}.", hint=f"Use {methods}.")
    known = ", ".join(dict.fromkeys(f"{ROOT}/{route.path}" for route in ROUTES))
    raise UnknownRoute(f"there is no {ROOT}/{path} here.", hint=f"Paths: {known}.")


def _match(pattern: str, parts: list[str]) -> dict[str, str] | None:
    wanted = pattern.split("/")
    if len(wanted) != len(parts):
        return None
    names = {}
    for want, part in zip(wanted, parts, strict=True):
        if want.startswith("{"):
            names[want[1:-1]] = part
        elif want != part:
            return None
    return names
