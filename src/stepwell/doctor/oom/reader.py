"""What a reader of one wording is: an anchor to find it by, a pattern, and an explanation."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass

from stepwell.doctor.oom.facts import LogFacts, engine_named
from stepwell.doctor.oom.phase import phase_of
from stepwell.doctor.oom.scan import Place
from stepwell.doctor.oom.words import Explanation, Phase

_LONGEST_TEXT = 1200


class Weight(enum.IntEnum):
    """How much a message explains. Of several, the last of the heaviest is explained."""

    CONSEQUENCE = 0  # something died of it
    EVENT = 1  # the server went on, or another message has the numbers
    CAUSE = 2


@dataclass(frozen=True, slots=True)
class Sighting:
    """A message in its surroundings. `engine`: named near it, else by the log; may be empty."""

    place: Place
    match: re.Match[str]
    facts: LogFacts
    phase: Phase
    engine: str

    @property
    def text(self) -> str:
        """The message as one line."""
        return re.sub(r"\s+", " ", self.match[0]).strip()[:_LONGEST_TEXT]

    def group(self, name: str) -> str:
        """A named group, empty where it took no part."""
        return self.match[name] or ""


@dataclass(frozen=True, slots=True)
class Reader:
    """`anchor`: a pattern that the first line contains; `pattern`: over `span` lines from there,
    joined. `explain` may return None: not this one after all."""

    kind: str
    anchor: str
    pattern: re.Pattern[str]
    explain: Callable[[Sighting], Explanation | None]
    weight: Weight = Weight.CAUSE
    span: int = 8

    def see(self, place: Place, facts: LogFacts) -> Sighting | None:
        """The message at a place, None where it is not this one."""
        if not re.search(self.anchor, place.line):
            return None
        for window in place.windows(self.span):
            match = self.pattern.search(window)
            if match is not None:
                near = "\n".join((*place.before[-60:], *place.lines[:8]))
                engine = engine_named(near) or facts.engine
                if engine == "transformers":
                    engine = facts.engine
                return Sighting(place, match, facts, phase_of(place), engine)
        return None
