"""What a body asks of the tenant's knowledge: its field `knowledge`."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from stepwell.base.errors import InvalidParameter
from stepwell.server.context import LONGEST_SESSION_ID
from stepwell.server.fields import Fields, check_text

FIELD = "knowledge"
_NAMES = ("mode", "area", "session", "release", "max_tokens", "explain")
_AREA = re.compile(r"^([a-z0-9][a-z0-9_.-]{0,62})?$")
LATEST = "latest"
_MOST_TOKENS = 1 << 20


class Mode(enum.Enum):
    """OFF: as if the field were not there. SHADOW: found and reported, the prompt is untouched.
    ON: given to the model."""

    OFF = "off"
    SHADOW = "shadow"
    ON = "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """`session`: None where the body names none. `release`: `latest` or a name. `max_tokens`: of
    what the question selects; None: as the server is set."""

    mode: Mode
    area: str = ""
    session: str | None = None
    release: str = LATEST
    max_tokens: int | None = None
    explain: bool = False


def read_wish(fields: Fields) -> Wish | None:
    """None where the body asks for nothing. Raises InvalidParameter."""
    table = fields.table(FIELD)
    if table is None:
        return None
    inner = Fields(table, prefix=f"{FIELD}.")
    inner.refuse_unknown(_NAMES)
    mode = _mode(inner)
    return None if mode is Mode.OFF else _wish(inner, mode, fields)


def read_area(fields: Fields, *, where: str) -> str:
    """The field `area`: empty, or a name. Raises InvalidParameter."""
    area = fields.string("area", "")
    if not _AREA.match(area):
        raise InvalidParameter(
            f"{where} is {area[:80]!r}.",
            hint="Lower-case letters, digits, '_', '.', '-'; at most 63.",
            param=where,
        )
    return area


def _mode(inner: Fields) -> Mode:
    name = inner.string("mode", Mode.ON.value)
    for mode in Mode:
        if mode.value == name:
            return mode
    valid = ", ".join(mode.value for mode in Mode)
    raise InvalidParameter(
        f"knowledge.mode is {name[:80]!r}.", hint=f"Valid: {valid}.", param="knowledge.mode"
    )


def _wish(inner: Fields, mode: Mode, body: Fields) -> Wish:
    session = inner.string("session", body.string("session_id", "")) or None
    if session is not None and len(check_text(session, where="knowledge.session")) > (
        LONGEST_SESSION_ID
    ):
        raise InvalidParameter(
            f"knowledge.session has {len(session)} characters.",
            hint=f"It must have 1 to {LONGEST_SESSION_ID}.",
            param="knowledge.session",
        )
    most = inner.integer("max_tokens")
    if most is not None and not 0 <= most <= _MOST_TOKENS:
        raise InvalidParameter(
            f"knowledge.max_tokens is {most}.",
            hint=f"It must be 0 to {_MOST_TOKENS}.",
            param="knowledge.max_tokens",
        )
    return Wish(
        mode=mode,
        area=read_area(inner, where="knowledge.area"),
        session=session,
        release=inner.string("release", LATEST) or LATEST,
        max_tokens=most,
        explain=inner.boolean("explain", False),
    )
