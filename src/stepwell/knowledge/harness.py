"""Regression cases before a release: what passed must pass.

A case is a question, what it should lead to and who judges it: the caller's `Reader`, which gets
the rendered context and says whether the case passes (a model with a checker, or a deterministic
reader). Only cases whose context changes are judged, before and after.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stepwell.knowledge.context import Context


class CaseKind(enum.Enum):
    """GOLDEN: a question with its known answer. NEAR_MISS: one that must not be answered like its
    neighbour. POISON: an attempt that must have no effect."""

    GOLDEN = "golden"
    NEAR_MISS = "near_miss"
    POISON = "poison"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`expect`: for the reader; any text."""

    id: str
    question: str
    expect: str = ""
    area: str = ""
    kind: CaseKind = CaseKind.GOLDEN


Reader = Callable[[Case, Context], bool]
Ask = Callable[[Case], Context]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A person takes the blame for a case that breaks with one release. `digest`: of what is to be
    released; `signature`: by `sign`."""

    case_id: str
    by: str
    reason: str
    digest: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`judged`: cases whose context changes. `broken`: passed before, fail after. `waived`: those
    of them that a valid waiver covers. `mended`: failed before, pass after. `failing`: fail after,
    whatever they did before."""

    judged: tuple[str, ...]
    broken: tuple[str, ...]
    waived: tuple[str, ...]
    mended: tuple[str, ...]
    failing: tuple[str, ...] = ()

    @property
    def blocking(self) -> tuple[str, ...]:
        return tuple(name for name in self.broken if name not in self.waived)


def sign(key: bytes, *, case_id: str, by: str, reason: str, digest: str) -> Waiver:
    """HMAC-SHA256 over all fields."""
    text = "\0".join((case_id, by, reason, digest)).encode()
    signature = hmac.new(key, text, hashlib.sha256).hexdigest()
    return Waiver(case_id=case_id, by=by, reason=reason, digest=digest, signature=signature)


def _valid(key: bytes, waiver: Waiver, digest: str) -> bool:
    ours = sign(key, case_id=waiver.case_id, by=waiver.by, reason=waiver.reason, digest=digest)
    return hmac.compare_digest(ours.signature, waiver.signature)


def judge(
    cases: Iterable[Case],
    *,
    before: Ask,
    after: Ask,
    reader: Reader,
    waivers: Sequence[Waiver],
    key: bytes,
    digest: str,
) -> Verdict:
    """Run the cases that the release touches."""
    waived = {waiver.case_id for waiver in waivers if _valid(key, waiver, digest)}
    judged, broken, mended, failing = [], [], [], []
    for case in cases:
        old, new = before(case), after(case)
        if old.text == new.text:
            continue
        judged.append(case.id)
        passed, passes = reader(case, old), reader(case, new)
        if not passes:
            failing.append(case.id)
        if passed and not passes:
            broken.append(case.id)
        if passes and not passed:
            mended.append(case.id)
    return Verdict(
        judged=tuple(judged),
        broken=tuple(broken),
        waived=tuple(name for name in broken if name in waived),
        mended=tuple(mended),
        failing=tuple(failing),
    )
