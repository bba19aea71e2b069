"""Which version of each operation runs. One place decides, and it records why.

`STEPWELL_KERNELS` is `auto` (the fastest version that takes the pool at hand) or `reference` (the
plain torch versions, to find out whether a fast one is at fault).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError, unknown_name

VARIABLE = "STEPWELL_KERNELS"
AUTO, REFERENCE = "auto", "reference"


@dataclass(frozen=True, slots=True)
class Version:
    """One implementation. `load` imports it (numba takes half a second); `refusal` says why not.

    `refusal` gets the subject, a pool layer say, and answers None where it takes it.
    """

    name: str
    because: str
    load: Callable[[], Any]
    refusal: Callable[[Any], str | None]


_chosen: dict[tuple[str, Hashable], tuple[Any, Decision]] = {}


@cache
def kernel_choice() -> str:
    """The value of STEPWELL_KERNELS, read once."""
    value = os.environ.get(VARIABLE) or AUTO
    if value not in (AUTO, REFERENCE):
        message, hint = unknown_name(f"value of {VARIABLE}", value, (AUTO, REFERENCE))
        raise ConfigError(message, hint=hint, param=VARIABLE)
    return value


def choose(operation: str, versions: Sequence[Version], *, subject: Any, key: Hashable) -> Any:
    """The implementation for this subject; `versions` go from fastest to the reference, last.

    Decided once per (operation, key): subjects of equal key must get equal answers.
    """
    known = _chosen.get((operation, key))
    if known is None:
        known = _chosen[operation, key] = _decide(operation, versions, subject, key)
    return known[0]


def _decide(
    operation: str, versions: Sequence[Version], subject: Any, key: Hashable
) -> tuple[Any, Decision]:
    name = f"kernels.{operation}"
    if kernel_choice() == REFERENCE:
        last = versions[-1]
        return last.load(), Decision(name, last.name, f"{VARIABLE}=reference, for {key}")
    refusals: list[str] = []
    for version in versions:
        reason = version.refusal(subject)
        if reason is None:
            because = "; ".join([version.because, *refusals])
            return version.load(), Decision(name, version.name, f"{because}, for {key}")
        refusals.append(f"not {version.name}: {reason}")
    raise ConfigError(f"no version of {operation} takes {key}: {'; '.join(refusals)}.")


def decisions() -> tuple[Decision, ...]:
    """What was chosen so far, for `--explain`."""
    return tuple(decision for _, decision in _chosen.values())


def forget() -> None:
    """Decide anew from the environment; for tests."""
    _chosen.clear()
    kernel_choice.cache_clear()
