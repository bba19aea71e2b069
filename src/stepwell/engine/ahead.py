"""How many steps of decoding run before Python looks again.

Several steps in one go spare the time between them, and their tokens come together: so they may
take as long as a person does not notice. What arrives or is aborted meanwhile ends them after the
present one (`Engine.end_early`). Only where nothing else could happen in between: every running
sequence decodes and takes its likeliest token, none waits.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from stepwell.engine.scheduler import ScheduledSequence
from stepwell.engine.sequence import Sequence

MOST_STEPS = 8  # beyond that, the time between programs is a small part
_MEMORY = 0.8  # of the old estimate in a new one that is higher; a lower one counts at once


class Ahead:
    """Owns the time that a step of decoding took lately, in seconds by number of sequences."""

    def __init__(self, *, seconds: float, most: int) -> None:
        self._seconds, self._most = seconds, most
        self._step_seconds: dict[int, float] = {}

    def steps_for(self, plan: Seq[ScheduledSequence]) -> int:
        """1 where the time of a step of so many sequences is not known yet, too."""
        known = self._step_seconds.get(len(plan))
        if known is None or not all(_takes_likeliest(item.sequence) for item in plan):
            return 1
        left = min(s.max_output - s.output_length for s in (item.sequence for item in plan))
        return max(1, min(int(self._seconds / known), left, self._most))

    def observe(self, *, sequences: int, steps: int, seconds: float) -> None:
        """Steps of decoding have run."""
        new = seconds / steps
        old = self._step_seconds.get(sequences, new)
        blended = _MEMORY * old + (1 - _MEMORY) * new
        self._step_seconds[sequences] = min(new, blended)


def only_decodes(plan: Seq[ScheduledSequence]) -> bool:
    """Whether each row of the step is one token that predicts the next."""
    return all(
        item.count == 1
        and item.samples
        and item.sequence.packed is None
        and not item.sequence.skips_prefix_cache
        for item in plan
    )


def _takes_likeliest(sequence: Sequence) -> bool:
    sampling = sequence.sampling
    plain = sampling.takes_likeliest and sampling.logprobs is None
    return plain and sequence.first_token_at is not None and sequence.restore is None
