"""All readers over a log: which message explains it, and what to say where none does."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.doctor.oom import (
    allocator_text,
    ggml_text,
    other_text,
    sglang_text,
    stepwell_text,
    system_text,
    torch_text,
    vllm_text,
)
from stepwell.doctor.oom.facts import LogFacts
from stepwell.doctor.oom.reader import Reader, Sighting, Weight
from stepwell.doctor.oom.scan import Place, is_suspicious, scan
from stepwell.doctor.oom.words import Explanation

READERS: tuple[Reader, ...] = (
    *ggml_text.READERS,
    *torch_text.READERS,
    *allocator_text.READERS,
    *vllm_text.READERS,
    *sglang_text.READERS,
    *other_text.READERS,
    *stepwell_text.READERS,
    *system_text.READERS,
)
"""In the order in which they are asked about a place: those with numbers first."""

_ANCHORS = re.compile("|".join(f"(?:{reader.anchor})" for reader in READERS))

FAR = 2000
"""Lines after a cause beyond which a death is its own story, as after a restart."""

WHAT_TO_SEND = (
    "the log from the start of the process to the error, of all its processes (workers too)",
    "what was started: engine and version, the command line, model, device and how many",
    "nvidia-smi (or rocm-smi) and free -h at that moment, and dmesg -T | grep -i kill",
)
"""What makes an unknown message explainable."""


@dataclass(frozen=True, slots=True)
class LogReport:
    """`explanation`: of the message that explains most; None: none is known. `kinds`: how many of
    each kind were seen. `suspicious`: (line, text) about memory that no reader knows."""

    lines: int
    explanation: Explanation | None
    kinds: Mapping[str, int]
    facts: LogFacts
    suspicious: tuple[tuple[int, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "lines": self.lines,
            "messages": dict(self.kinds),
            "engine": self.facts.engine,
            "suspicious": [{"line": number, "text": text} for number, text in self.suspicious],
            "send": [] if self.explanation is not None else list(WHAT_TO_SEND),
        }


def explain_log(lines: Iterable[str]) -> LogReport:
    """The last of the messages that explain most; the rest is counted by kind."""
    found = scan(lines, anchors=_ANCHORS)
    kinds: Counter[str] = Counter()
    best: tuple[int, Explanation] | None = None
    unknown = list(found.suspicious)
    for place in found.places:
        read = _read(place, found.facts)
        if read is None:
            if is_suspicious(place.line):
                unknown.append((place.number, place.line.strip()[:300]))
            continue
        weight, explanation = read
        kinds[explanation.kind] += 1
        if best is None or weight >= best[0] or _is_late(weight, place.number, best[1].line):
            best = weight, dataclasses.replace(explanation, line=place.number)
    return LogReport(
        lines=found.lines,
        explanation=None if best is None else best[1],
        kinds=kinds,
        facts=found.facts,
        suspicious=tuple(sorted(unknown)[-5:]) if best is None else (),
    )


def _is_late(weight: int, line: int, cause: int) -> bool:
    """Whether something died so long after the last cause that this was not its cause."""
    return weight == Weight.CONSEQUENCE and line - cause > FAR


def _read(place: Place, facts: LogFacts) -> tuple[int, Explanation] | None:
    for reader in READERS:
        sight: Sighting | None = reader.see(place, facts)
        if sight is None:
            continue
        try:
            explanation = reader.explain(sight)
        except (ArithmeticError, ValueError):  # numbers that make no sense: the text is damaged
            continue
        if explanation is not None:
            return int(reader.weight), explanation
    return None
