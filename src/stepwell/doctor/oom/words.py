"""Nouns of an explanation, and sizes as allocators write them."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stepwell.doctor.finding import Finding, Severity

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
SIZE = r"(\d[\d.,]*\s*(?:[KMGTkmgt]i?)?[Bb](?:ytes?)?)"
"""A size in a message, as one group. Allocators that write GB mean 1024-based units too."""


class Phase(enum.Enum):
    """What the process was doing. The order is that of a server's start."""

    LOADING = "loading weights"
    PROFILING = "profiling memory with the largest batch"
    KV_CACHE = "setting up the KV cache"
    WARMUP = "warming up"
    GRAPHS = "capturing CUDA graphs"
    SERVING = "serving requests"
    UNKNOWN = "unknown"

    @property
    def kind(self) -> str:
        """`start` or `run`: they need opposite changes of the share given to the KV pool."""
        if self is Phase.UNKNOWN:
            return "unknown"
        return "run" if self is Phase.SERVING else "start"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds memory. `size` in bytes; None: the text does not say."""

    name: str
    size: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One change to make, and what it is expected to bring."""

    change: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One message explained. `kind` is stable, for programs. `text`: the message. `line`: where it
    began, counted from 1. Sizes in bytes, None where the text does not say.

    `fragmentation`: what became of the question whether free memory lay in pieces; empty: it does
    not arise.
    """

    kind: str
    source: str
    title: str
    why: str
    steps: tuple[Step, ...]
    text: str = ""
    line: int = 0
    phase: Phase = Phase.UNKNOWN
    device: str = ""
    requested: int | None = None
    capacity: int | None = None
    free: int | None = None
    holders: tuple[Holder, ...] = ()
    fragmentation: str = ""
    evidence: Mapping[str, float | str] = field(default_factory=dict)

    def finding(self) -> Finding:
        """The same in the form that all parts of the doctor share."""
        sizes = {
            "requested_bytes": self.requested,
            "capacity_bytes": self.capacity,
            "free_bytes": self.free,
        }
        known = {name: float(size) for name, size in sizes.items() if size is not None}
        return Finding(
            code=self.kind,
            title=self.title,
            symptom=self.text,
            diagnosis=" ".join(filter(None, (self.why, self.fragmentation))),
            action=" ".join(f"{n}. {step.change}" for n, step in enumerate(self.steps, start=1)),
            evidence={**known, **self.evidence},
            gain=self.steps[0].effect if self.steps else "",
            severity=Severity.HIGH,
        )

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "kind": self.kind,
            "source": self.source,
            "title": self.title,
            "line": self.line,
            "text": self.text,
            "phase": self.phase.name.lower(),
            "oom": self.phase.kind,
            "device": self.device,
            "requested_bytes": self.requested,
            "capacity_bytes": self.capacity,
            "free_bytes": self.free,
            "holders": [{"name": h.name, "bytes": h.size, "note": h.note} for h in self.holders],
            "fragmentation": self.fragmentation,
            "why": self.why,
            "steps": [{"change": step.change, "effect": step.effect} for step in self.steps],
            "evidence": dict(self.evidence),
        }


def parse_size(text: str) -> int:
    """Bytes from `22.78 GiB`, `768.00 MB`, `0 bytes` or a plain number."""
    match = re.match(r"\s*([\d.,]+)\s*([KMGTkmgt]?)", text)
    if match is None:
        return 0
    number = match[1].replace(",", "").rstrip(".")
    return int(float(number) * _UNITS[match[2].lower()])


def gib(number: str | float) -> int:
    """Bytes of so many GiB."""
    return int(float(number) * (1 << 30))


def mib(number: str | float) -> int:
    """Bytes of so many MiB."""
    return int(float(number) * (1 << 20))
