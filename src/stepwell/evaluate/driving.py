"""An engine driven step by step by a benchmark, and the moments at which its tokens came."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell.engine.engine import Engine


@dataclass(slots=True)
class Track:
    """One request as it runs: moments of its tokens, on the monotonic clock."""

    max_tokens: int
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class Driver:
    """Gives requests to an engine and steps it. A request is a mapping of `prompt`, token ids, and
    `max_tokens`, which it generates whatever they are, taking the likeliest each time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tracks: dict[str, Track] = {}
        self._count = 0

    def add(self, request: Mapping[str, Any]) -> Track:
        """Into the engine's queue."""
        from stepwell.base.request import GenerationRequest
        from stepwell.base.sampling import SamplingParams

        self._count += 1
        name = f"bench-{self._count}"
        track = self._tracks[name] = Track(request["max_tokens"])
        sampling = SamplingParams(max_tokens=track.max_tokens, temperature=0.0, ignore_eos=True)
        self.engine.add(
            GenerationRequest(
                request_id=name,
                prompt_token_ids=tuple(request["prompt"]),
                sampling=sampling,
                arrival=time.monotonic(),
            )
        )
        return track

    def step(self) -> int:
        """One step, if there is work. Returns how many requests ended; raises their errors."""
        if not self.engine.has_work:
            return 0
        deltas = self.engine.step()
        now, ended = time.monotonic(), 0
        for delta in deltas:
            track = self._tracks[delta.request_id]
            track.times += [now] * len(delta.token_ids)
            track.tokens += delta.token_ids
            if delta.finish_reason is not None:
                if delta.error is not None:
                    raise delta.error
                del self._tracks[delta.request_id]
                ended += 1
        return ended

    def advance(self, track: Track) -> int:
        """Steps until the request has more tokens: how many, 0 where it has ended."""
        before = len(track.tokens)
        while len(track.tokens) == before and self.engine.has_work:
            self.step()
        return len(track.tokens) - before

    def run(
        self,
        requests: Sequence[Mapping[str, Any]],
        *,
        on_step: Callable[[], None] | None = None,
        window: int = 0,
    ) -> list[Track]:
        """Run requests to their end, at most `window` at a time (0: all at once)."""
        waiting = iter(requests)
        tracks = [self.add(item) for item in _take(waiting, window or len(requests))]
        while self.engine.has_work:
            ended = self.step()
            tracks += [self.add(item) for item in _take(waiting, ended)]
            if on_step is not None:
                on_step()
        return tracks


def _take(items: Iterable[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    return [item for _, item in zip(range(count), items, strict=False)]
