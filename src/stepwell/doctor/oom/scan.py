"""One pass over a log of any length: places that look like a message, and facts on the way.

Keeps a bounded number of places with some lines around each, so that a log of gigabytes costs no
more memory than a short one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stepwell.doctor.oom.facts import LogFacts

BEFORE, AFTER = 120, 24
"""Lines kept around a place: a traceback before it, what follows from it after."""

_MOST_PLACES = 256
_LONGEST_LINE = 20_000
_PREFIXES = re.compile(
    r"^(?:\[rank\d+\]:\s?|\((?:VllmWorker|Worker|EngineCore|APIServer|RayWorker)[^)]*\)\s?"
    r"|(?:ERROR|WARNING|INFO|CRITICAL|DEBUG) \d\d-\d\d [\d:]+ (?:\[[^\]]*\]|\S+\])\s?"
    r"|[\w.-]+-\d+\s+\| |> )+"
)
_COLOURS = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
_SUSPICIOUS = re.compile(
    r"out[ _]of[ _]memory|\boom\b|oom-kill|cannot allocate|failed to allocate|not enough memory"
    r"|insufficient memory|alloc\w* failed|memoryerror|bad_alloc|resource_exhausted",
    re.IGNORECASE,
)
_NEEDLES = (
    "emor", "lloc", "STATUS", "uda failure", "serve at least", "max seq len", "ngine", "retracted",
    "graph failed", "runner process", "EXHAUSTED", "exhausted", "does_not_fit", "weights_budget",
    "hardware_error", "ill", "137", "signal", "code: -9", "oom", "OOM",
)  # fmt: skip
"""One of them is in every line that an anchor or `_SUSPICIOUS` finds: a test for substrings is
twenty times as fast as the patterns."""

_ADVICE = re.compile(r"\bif (?:you |an? )?.{0,20}out|consider (?:de|in)creas|avoid", re.IGNORECASE)
_MOST_SUSPICIOUS = 5


@dataclass(frozen=True, slots=True)
class Place:
    """A line that a reader may know. `number` counts from 1. Prefixes of loggers are gone."""

    number: int
    before: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def line(self) -> str:
        """The line itself."""
        return self.lines[0]

    def windows(self, count: int) -> tuple[str, str]:
        """The line and what follows as one text: broken between words, and within one."""
        head = self.lines[:count]
        return " ".join(part.strip() for part in head), "".join(head)


@dataclass(slots=True)
class Scan:
    """What a pass found: `places`, the last few hundred of them. `suspicious`: lines about memory
    that no anchor knows, the last few."""

    facts: LogFacts = field(default_factory=LogFacts)
    places: deque[Place] = field(default_factory=lambda: deque(maxlen=_MOST_PLACES))
    lines: int = 0
    suspicious: deque[tuple[int, str]] = field(
        default_factory=lambda: deque(maxlen=_MOST_SUSPICIOUS)
    )


@dataclass(slots=True)
class _Open:
    number: int
    before: tuple[str, ...]
    lines: list[str]


def scan(lines: Iterable[str], *, anchors: re.Pattern[str]) -> Scan:
    """Read all `lines`. `anchors`: what the line of a known message must contain."""
    found = Scan()
    recent: deque[str] = deque(maxlen=BEFORE)
    opened: deque[_Open] = deque()
    for found.lines, raw in _shown(lines):
        found.facts.read(raw)
        line = strip_prefix(raw)
        for place in opened:
            place.lines.append(line)
        while opened and len(opened[0].lines) > AFTER:
            found.places.append(_close(opened.popleft()))
        if not any(needle in line for needle in _NEEDLES):
            pass
        elif anchors.search(line):
            opened.append(_Open(found.lines, tuple(recent), [line]))
            while len(opened) > AFTER:
                found.places.append(_close(opened.popleft()))
        elif is_suspicious(line):
            found.suspicious.append((found.lines, line.strip()[:300]))
        recent.append(line)
    found.places.extend(map(_close, opened))
    return found


def _shown(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(line number, text) without colours; what a progress bar overwrote counts as lines too."""
    for number, line in enumerate(lines, start=1):
        text = line[:_LONGEST_LINE].rstrip("\r\n")
        if "\x1b" in text:
            text = _COLOURS.sub("", text)
        for part in text.split("\r"):
            yield number, part


def is_suspicious(line: str) -> bool:
    """Whether a line says that memory ran out; advice on what to do if it should does not."""
    return bool(_SUSPICIOUS.search(line)) and not _ADVICE.search(line)


def strip_prefix(line: str) -> str:
    """Without what loggers, ranks and `docker compose` put before a line."""
    return _PREFIXES.sub("", line)


def _close(place: _Open) -> Place:
    return Place(place.number, place.before, tuple(place.lines))
