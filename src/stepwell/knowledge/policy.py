"""The words that callers use: scopes and sessions, evidence, rules of the gate, what comes back."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.knowledge.entry import Trust
from stepwell.knowledge.payload import Kind


class Capture(enum.Enum):
    """OFF: nothing is stored from requests. QUARANTINE: what is captured becomes a candidate."""

    OFF = "off"
    QUARANTINE = "quarantine"


class Evidence(enum.Enum):
    """What speaks for a candidate, and REJECTED against it. Only the first two confirm it."""

    USER_CONFIRMED = "user_confirmed"
    ACCEPTED_EDIT = "accepted_edit"
    EXECUTED = "executed"
    FAILED_TWICE = "failed_twice"
    SEED = "seed"
    REJECTED = "rejected"


CONFIRMING = frozenset({Evidence.USER_CONFIRMED, Evidence.ACCEPTED_EDIT})


class Releaser(enum.Enum):
    """OTHER: whoever releases did not alone confirm all that is new in it. ANYONE: no such rule."""

    OTHER = "other"
    ANYONE = "anyone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Who asks, of what: entries of `area` and of no area; released ones and `user`'s own."""

    area: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Consecutive requests of one user that extend one conversation."""

    id: str
    scope: Scope = field(default_factory=Scope)


def _quotas() -> Mapping[Kind, int]:
    return {
        Kind.SCHEMA: 4,
        Kind.RELATIONSHIP: 4,
        Kind.METRIC: 4,
        Kind.GOTCHA: 8,
        Kind.ERROR_RULE: 4,
        Kind.TEMPLATE: 3,
        Kind.DOCUMENT: 3,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one tenant.

    `confirmers`: principals who must confirm before an entry can be released; for its first
    confirmer it is in force at once. `pending`: candidates that one principal may have waiting.
    `release_trust`: the least that is released. `pack_kinds`, `pack_tokens`: what every request of
    an area is given in front. `quotas`: most entries of a kind per question.
    """

    capture: Capture = Capture.OFF
    confirmers: int = 1
    pending: int = 200
    releaser: Releaser = Releaser.OTHER
    release_trust: Trust = Trust.MODEL
    pack_kinds: tuple[Kind, ...] = (Kind.SCHEMA, Kind.RELATIONSHIP, Kind.METRIC)
    pack_tokens: int = 4096
    quotas: Mapping[Kind, int] = field(default_factory=_quotas)


class Outcome(enum.Enum):
    """NEW: a candidate. MERGED: it was known; the evidence was added to it. RETRIEVED: it came
    from the context of the same session; nothing was stored."""

    NEW = "new"
    MERGED = "merged"
    RETRIEVED = "retrieved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """`same`: unreleased entries of others that make the same claim in other words, on other
    triggers or with another trust; a release takes one of them. `findings`: codes of the lint,
    which keep it from being confirmed. `contradicts`: entries that say something else of the same
    subject; both stay until somebody decides."""

    id: str
    outcome: Outcome
    findings: tuple[str, ...] = ()
    contradicts: tuple[str, ...] = ()
    same: tuple[str, ...] = ()


class Pattern(enum.Enum):
    """The four ways into a context, each with its own trigger."""

    SESSION = "session"
    DOMAIN = "domain"
    USAGE = "usage"
    GOTCHA = "gotcha"
