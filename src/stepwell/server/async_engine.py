"""The engine thread seen from the event loop: submit, receive, abort.

Per engine step there is one `call_soon_threadsafe` for all deltas. Each job has a mailbox; a
consumer takes all that piled up at once, so a slow client costs merged chunks and not memory
(what piles up is bounded by the request's own output length).

Waking a stream costs a task switch and a system call, about 30 µs here. A small model under load
makes tokens faster than that is worth: tokens of many streams are then held back together for
some milliseconds (`hold_seconds`) and leave as one chunk per stream. First tokens and ends are
never held back, whole replies wake once.
`submit` and `stats` wait for the engine's current step, so they run on threads.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from stepwell.base.account import MemoryAccount
from stepwell.base.errors import ConfigError, EngineError, EngineStopped
from stepwell.base.request import Delta, EngineStats, FinishReason, GenerationRequest
from stepwell.server.metrics import Metrics
from stepwell.server.ports import EngineLike, ModelInfoLike, TokenizerLike
from stepwell.server.recorder import Recorder

logger = logging.getLogger(__name__)

_SUBMITTERS = 8
"""Threads that wait for the engine to take requests: as many are taken per step at most."""

_HOLD_PER_STREAM = 0.001
_LONGEST_HOLD = 0.05
"""Seconds. One wake of 30 µs per stream and millisecond is 3 % of a core, however many streams."""


_STATS_SECONDS = 2.0
"""How long the metrics page waits for the engine before it shows its last numbers."""

_ACCOUNT_SECONDS = 5.0
"""How old the account of memory on the metrics page may be."""


def hold_seconds(streams: int) -> float:
    """How long tokens may be held back to leave together."""
    return min(_LONGEST_HOLD, _HOLD_PER_STREAM * streams)


class Wake(enum.Enum):
    """When the consumer is to hear of a delta."""

    NOW = enum.auto()
    SOON = enum.auto()
    LATER = enum.auto()
    """With a later delta that is NOW."""


class Mailbox:
    """Deltas of one job on their way to its one consumer. Belongs to the event loop."""

    def __init__(self, requests: Sequence[GenerationRequest], *, streams: bool) -> None:
        self.requests = {request.request_id: request for request in requests}
        self.request_ids = list(self.requests)
        self.open_choices = sum(request.sampling.n for request in requests)
        self.abandoned = False
        self._streams = streams
        self._begun = False
        self._pending: list[Delta] = []
        self._event = asyncio.Event()

    def put(self, delta: Delta) -> Wake:
        """Add a delta; says when to call `wake`."""
        ends = delta.finish_reason is not None
        if ends:
            self.open_choices -= 1
        if self.abandoned:
            return Wake.LATER
        self._pending.append(delta)
        first, self._begun = not self._begun, True
        if self._streams:
            return Wake.NOW if first or ends else Wake.SOON
        failed = delta.finish_reason in (FinishReason.ERROR, FinishReason.ABORT)
        return Wake.NOW if failed or self.open_choices <= 0 else Wake.LATER

    def wake(self) -> None:
        """Let the consumer take what is there."""
        self._event.set()

    async def take(self) -> list[Delta]:
        """All deltas since the last call, once woken. Empty when all is over."""
        if self._pending or self.open_choices > 0:
            await self._event.wait()
            self._event.clear()
        pending, self._pending = self._pending, []
        return pending


class AsyncEngine:
    """Owns the routing of deltas. Built anywhere, started on the event loop that it serves."""

    def __init__(
        self, engine: EngineLike, *, metrics: Metrics, recorder: Recorder | None = None
    ) -> None:
        if engine.tokenizer is None:
            raise ConfigError(
                f"the model {engine.info.name!r} has no tokenizer, which a server needs.",
                hint="Serve a checkpoint folder that has one.",
                param="model.path",
            )
        self.engine = engine
        self.info: ModelInfoLike = engine.info
        self.tokenizer: TokenizerLike = engine.tokenizer
        self.draining = False
        self.failed = False
        self._metrics = metrics
        self._recorder = recorder
        self._boxes: dict[str, Mailbox] = {}
        self._submitters = ThreadPoolExecutor(_SUBMITTERS, thread_name_prefix="stepwell-submit")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: dict[Mailbox, None] = {}
        self._release: asyncio.TimerHandle | None = None
        self._asked: Future[EngineStats] | None = None
        self._account: MemoryAccount | None = None
        self._account_at = -math.inf
        self._stats = EngineStats()
        self._stats_at = time.monotonic()
        self._released = 0.0

    @property
    def healthy(self) -> bool:
        """Whether new requests are taken."""
        return not (self.draining or self.failed)

    def start(self) -> None:
        """Start the engine thread, delivering to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self.engine.start(self._deliver)

    async def submit(self, requests: Sequence[GenerationRequest], *, streams: bool) -> Mailbox:
        """Queue all requests of a job or none. Raises what `EngineLike.submit` raises.

        `streams`: the consumer wants deltas as they come, not only all at the end.
        """
        if self.draining:
            raise EngineStopped("the server is shutting down.", hint="Try another one.")
        box = Mailbox(requests, streams=streams)
        for request_id in box.request_ids:
            self._boxes[request_id] = box
        future = self._submitters.submit(_submit_all, self.engine, list(requests))
        try:
            await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            box.abandoned = True
            future.add_done_callback(lambda done: self._abort_if_taken(done, box))
            raise
        except BaseException as error:
            self._forget(box)
            if isinstance(error, EngineStopped) and not self.draining:
                self.failed = True
            raise
        self._metrics.admitted(requests)
        return box

    def abandon(self, box: Mailbox) -> None:
        """The consumer is gone: abort what is unfinished and drop what arrives."""
        box.abandoned = True
        if box.open_choices > 0:
            for request_id in box.request_ids:
                self.engine.abort(request_id)

    def fault_of(self, delta: Delta) -> EngineError | None:
        """Why a choice ended that nobody asked to end; None for a regular end."""
        if delta.finish_reason is FinishReason.ABORT:
            if self.draining:
                return EngineStopped("the server is shutting down.", hint="Try another one.")
            self.failed = True
            return EngineError("the engine stopped while this request was running.")
        if delta.finish_reason is FinishReason.ERROR:
            if isinstance(delta.error, EngineError):
                return delta.error
            return EngineError(str(delta.error or "the engine gave no reason."))
        return None

    async def stats(self) -> tuple[EngineStats, float]:
        """Counters and gauges, and their age in seconds: an engine that hangs in a step is seen by
        it, instead of taking the page with it. Raises EngineStopped."""
        if self._asked is None or self._asked.done():
            self._asked = self._submitters.submit(self.engine.stats)
        waiting = asyncio.shield(asyncio.wrap_future(self._asked))
        try:
            self._stats = await asyncio.wait_for(waiting, _STATS_SECONDS)
        except TimeoutError:
            return self._stats, time.monotonic() - self._stats_at
        self._stats_at = time.monotonic()
        return self._stats, 0.0

    async def account(self) -> MemoryAccount | None:
        """Who holds the process's memory, some seconds ago at most: counting takes milliseconds."""
        if time.monotonic() - self._account_at > _ACCOUNT_SECONDS:
            self._account_at = time.monotonic()
            self._account = await asyncio.to_thread(self.engine.account)
        return self._account

    async def stop(self, *, grace: float) -> None:
        """Refuse new requests, wait up to `grace` seconds for running ones, abort the rest."""
        self.draining = True
        await asyncio.to_thread(self.engine.stop, grace=grace)

    def hurry(self) -> None:
        """Abort everything that still runs."""
        for request_id in list(self._boxes):
            self.engine.abort(request_id)

    def close(self) -> None:
        """After stop: no more deltas are routed."""
        self._loop = None
        self._submitters.shutdown(wait=False)

    def _deliver(self, deltas: Sequence[Delta]) -> None:
        """Called from the engine thread, once per step."""
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(self._route, deltas, time.monotonic())
        except RuntimeError:  # the event loop closed in between: nobody is left to hear
            logger.debug("deltas after the event loop closed")

    def _route(self, deltas: Sequence[Delta], now: float) -> None:
        self._metrics.step(deltas, now=now)
        for delta in deltas:
            box = self._boxes.get(delta.request_id)
            if box is None:
                continue
            if self._recorder is not None:
                self._recorder.add(box.requests[delta.request_id], delta)
            wake = box.put(delta)
            if wake is Wake.NOW:
                box.wake()
            elif wake is Wake.SOON:
                self._held[box] = None
            if box.open_choices <= 0:
                self._forget(box)
        if self._held and self._release is None:
            self._plan_release()

    def _plan_release(self) -> None:
        """Wake those held back: now if the last time is long enough ago, else when it is."""
        assert self._loop is not None
        wait = self._released + hold_seconds(len(self._boxes)) - self._loop.time()
        if wait <= 0:
            self._release_held()
        else:
            self._release = self._loop.call_later(wait, self._release_held)

    def _release_held(self) -> None:
        self._release = None
        held, self._held = self._held, {}
        for box in held:
            box.wake()
        if self._loop is not None:
            self._released = self._loop.time()

    def _forget(self, box: Mailbox) -> None:
        for request_id in box.request_ids:
            self._boxes.pop(request_id, None)

    def _abort_if_taken(self, done: Future[None], box: Mailbox) -> None:
        """The consumer left while the engine was taking the job. Runs on a submitting thread."""
        if done.cancelled() or done.exception() is not None:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._forget, box)
            return
        for request_id in box.request_ids:
            self.engine.abort(request_id)


def _submit_all(engine: EngineLike, requests: list[GenerationRequest]) -> None:
    """All or none: those already queued are aborted when a later one is refused."""
    for number, request in enumerate(requests):
        try:
            engine.submit(request)
        except BaseException:
            for earlier in requests[:number]:
                engine.abort(earlier.request_id)
            raise
