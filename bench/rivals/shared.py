"""What all rivals have in common: the protocol's operations over an engine that an adapter drives.

An adapter owns its engine and says how it starts, how it runs many requests, and how it streams
one. This module owns what is asked and what is answered, so that everyone is counted and timed
alike. It needs the standard library and Stepwell's own protocol, nothing else.

Adapters are run as `python -P -m rivals.NAME` (`stepwell.evaluate.contestants`): their folder is
not on the path, where `openvino.py` would hide the package of that name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from stepwell.evaluate.protocol import serve_contestant
from stepwell.evaluate.statistics import first_token_figures

from .usage import seconds_since_start, thread_seconds, used

Request = Mapping[str, Any]
"""`prompt`: token ids; `max_tokens`: how many to generate, whatever they are."""


@dataclass(frozen=True, slots=True)
class Started:
    """An engine that is ready. `threads`: what it was told or says, None where it does not say;
    `convert_seconds`: spent on bringing the checkpoint into its own format, 0 when found.
    `weight_bytes`: of the weights' file in that format, None where the checkpoint is read."""

    engine: str
    versions: Mapping[str, str]
    threads: int | None
    convert_seconds: float = 0.0
    weight_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Outputs in the order of the requests. `firsts`: seconds to each one's first token, where
    the engine lets us see it."""

    tokens: list[list[int]]
    firsts: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Turn:
    """One request alone: seconds to its first token, and between the later ones."""

    first: float
    steps: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, start: float, moments: Sequence[float]) -> Turn:
        """From when it was sent and when each token came."""
        return cls(moments[0] - start, [b - a for a, b in pairwise(moments)])


class Rival(Protocol):
    """What an adapter provides."""

    def start(self, model: Path, *, weights: str) -> Started:
        """Make the engine ready, as its documentation recommends for this machine. `weights`: one
        of bf16, int8, int4; ValueError (`require`) for what it does not have."""

    def generate(self, requests: Sequence[Request], **options: Any) -> Batch:
        """All requests at once, greedy, the end token ignored."""

    def turns(self, prompt: list[int], *, max_tokens: int, count: int) -> Iterator[Turn]:
        """The same prompt `count` times, never seen before the first and kept after it."""


def require(weights: str, known: Collection[str]) -> None:
    """Raises ValueError for a format of weights that an adapter does not have."""
    if weights not in known:
        raise ValueError(f"no {weights} weights: this adapter has {', '.join(known)}")


def serve(rival: Rival) -> None:
    """Answer on stdin and stdout until told to quit."""
    serve_contestant(operations(rival))


def operations(rival: Rival) -> dict[str, Callable[..., dict[str, Any]]]:
    """What the protocol may ask of a rival."""
    asked = _Operations(rival)
    return {"load": asked.load, "run": asked.run, "ttft": asked.ttft}


@dataclass(frozen=True, slots=True)
class _Operations:
    rival: Rival

    def load(
        self, model: str, settings: Mapping[str, Any] | None = None, weights: str = "bf16"
    ) -> dict[str, Any]:
        """`seconds`: of this operation. `startup_seconds`: since the process began, imports
        counted and conversion not. `settings` are Stepwell's and mean nothing to a rival."""
        start = time.perf_counter()
        started = self.rival.start(Path(model), weights=weights)
        return {
            "seconds": time.perf_counter() - start,
            "startup_seconds": seconds_since_start() - started.convert_seconds,
            "convert_seconds": started.convert_seconds,
            "engine": started.engine,
            "versions": dict(started.versions),
            "threads": started.threads,
            "weight_bytes": started.weight_bytes,
        }

    def run(self, requests: Sequence[Request], tokens: int = 0, **options: Any) -> dict[str, Any]:
        """Seconds until the last is done, each one's number of tokens, and what it took."""
        before = thread_seconds()
        start = time.perf_counter()
        batch = self.rival.generate(requests, **options)
        seconds = time.perf_counter() - start
        usage = used(before, thread_seconds(), seconds=seconds)
        counts = [len(output) for output in batch.tokens]
        return {
            "seconds": seconds,
            "output_tokens": sum(counts),
            "counts": counts,
            "complete": counts == [request["max_tokens"] for request in requests],
            "ttft": batch.firsts,
            "tokens": batch.tokens if tokens else None,
            "busy_cores": usage.cores,
            "busy_threads": usage.threads,
        }

    def ttft(self, prompts: list[list[int]], max_tokens: int = 17, warm: int = 2) -> dict[str, Any]:
        """Each prompt once cold, then `warm` times again."""
        cold: list[float] = []
        again: list[float] = []
        steps: list[float] = []
        for prompt in prompts:
            turns = self.rival.turns(prompt, max_tokens=max_tokens, count=1 + warm)
            for number, turn in enumerate(turns):
                (again if number else cold).append(turn.first)
                steps += turn.steps
        return first_token_figures(cold, again, steps)
