"""The engine on a thread of its own: the entrance for servers.

Other threads put commands into an inbox; the thread empties it between steps, so that nothing in
the engine needs a lock. A request is checked on the caller's thread and refused there, without
waiting for the step that is running.

The engine is also built on this thread. OpenMP gives each thread that computes a team of its own,
and as soon as the teams together have more threads than the machine has cores, GNU OpenMP's workers
sleep between parallel regions instead of waiting awake: a step that was built by one thread and run
by another took 80 ms instead of 48 (docs/lab-notes.md). So no other thread may use torch's
parallel operators.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from stepwell.base.account import MemoryAccount
from stepwell.base.config import Config
from stepwell.base.errors import EngineStopped
from stepwell.base.prefix import Erased, Erasure, PinState, PrefixPin
from stepwell.base.request import Delta, EngineStats, GenerationRequest
from stepwell.engine.build import BuiltEngine, Progress, build_engine
from stepwell.engine.engine import Engine

logger = logging.getLogger(__name__)

Deliver = Callable[[Sequence[Delta]], None]
_ANSWER_SECONDS = 60.0
_TEND_SECONDS = 0.25  # how often an idle engine looks after its lower tiers


@dataclass(frozen=True, slots=True)
class _Command:
    """Run `call` on the engine thread and answer through `answer`."""

    call: Callable[[], Any]
    answer: Future = field(default_factory=Future)


def build_engine_loop(config: Config, *, progress: Progress | None = None) -> EngineLoop:
    """An engine on a thread of its own, loaded but not yet serving. Raises StepwellError."""
    return EngineLoop(lambda: build_engine(config, progress=progress))


class EngineLoop:
    """A thread that owns an Engine. All methods may be called from any thread."""

    def __init__(self, build: Callable[[], BuiltEngine]) -> None:
        """Start the thread and run `build` on it. Raises what `build` raises."""
        self._inbox: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._deliver: Deliver = lambda deltas: None
        # The gate is held while a command enters and while the thread closes the inbox for good,
        # so that no command enters an inbox that nobody will empty.
        self._gate = threading.Lock()
        self._closed = self._stopping = False
        self._unfinished: set[str] = set()
        self._tend_seconds: float | None = None  # None: an idle engine has nothing to do
        self._engine: Engine
        self._built: BuiltEngine
        building = _Command(build)
        self._thread = threading.Thread(
            target=self._main, args=(building,), name="stepwell-engine", daemon=True
        )
        self._thread.start()
        built = building.answer.result()
        self.info = built.info
        self.tokenizer = built.loaded.tokenizer
        self.decisions = list(built.decisions)

    def start(self, deliver: Deliver) -> None:
        """Begin to serve. `deliver` is called on the thread, once per step, with all its deltas;
        it must neither block nor raise."""
        self._deliver = deliver

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. Raises RequestError if it is refused, EngineStopped when stopping.

        After a return, each choice ends in exactly one Delta with a finish reason. The bound on
        waiting requests is checked against the last step's queue and the inbox.
        """
        waiting = self._engine.num_waiting + self._inbox.qsize()
        prepared = self._engine.prepare(request, waiting=waiting)
        with self._gate:
            if self._stopping or self._closed:
                raise EngineStopped("the engine is shutting down.")
            self._unfinished.add(request.request_id)
            self._put(_Command(lambda: self._engine.enqueue(prepared)))

    def abort(self, request_id: str) -> None:
        """End a request now; its memory is free within one step. Unknown ids are ignored."""
        with self._gate:
            if not self._closed:
                self._put(_Command(lambda: self._emit(self._engine.abort(request_id))))

    def stats(self) -> EngineStats:
        """Counters and gauges between two steps."""
        return self._ask(self._engine.stats)

    def touch_pool(self) -> None:
        """Fetch all of the pool's memory, before the engine is started."""
        self._built.pool.touch()

    def account(self) -> MemoryAccount | None:
        """Who holds this process's memory now; asks nothing of the engine thread."""
        return self._built.account()

    def pin_prefix(self, pin: PrefixPin) -> PinState:
        """Keep the KV of a prefix, on the device and in lower tiers, until `unpin_prefix`. Computes
        nothing. Between two steps."""
        return self._ask(lambda: self._engine.prefixes.pin(pin))

    def unpin_prefix(self, name: str) -> None:
        """Unknown names are ignored."""
        self._ask(lambda: self._engine.prefixes.unpin(name))

    def forget(self, erasure: Erasure) -> Erased:
        """Nobody is given what this names from here on; tiers erase until
        `stats().prefixes.erasing` is 0. Between two steps."""
        return self._ask(lambda: self._engine.prefixes.forget(erasure))

    def clear_cache(self) -> int:
        """Evict every cached block; returns how many."""
        return self._ask(self._engine.clear_cache)

    def stop(self, *, grace: float) -> None:
        """Refuse new requests, give running ones `grace` seconds, abort the rest, end the
        thread. Safe to call again."""
        with self._gate:
            self._stopping = True
        deadline = time.monotonic() + grace
        while self._unfinished and time.monotonic() < deadline and self._thread.is_alive():
            time.sleep(0.02)
        self._put(None)
        self._thread.join(timeout=_ANSWER_SECONDS)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Run on the engine thread and wait for the answer."""
        command = _Command(call)
        with self._gate:
            if self._closed:
                raise EngineStopped("the engine is not running.")
            self._put(command)
        try:
            return command.answer.result(timeout=_ANSWER_SECONDS)
        except TimeoutError as error:
            raise EngineStopped(f"no answer from the engine in {_ANSWER_SECONDS:.0f} s.") from error

    def _main(self, building: _Command) -> None:
        """The thread: build, then serve until told to stop."""
        try:
            built = building.call()
        except BaseException as error:  # whatever it is, the constructor waits for it
            building.answer.set_exception(error)
            return
        self._engine, self._built = built.engine, built
        if built.engine.tiers is not None:
            built.engine.tiers.on_ready = self._wake
            self._tend_seconds = _TEND_SECONDS
        building.answer.set_result(built)
        self._run()

    def _wake(self) -> None:
        """A transfer has ended (called on any thread): a waiting engine looks at it now. Steps in
        one go do not end for it, since they run only where no sequence waits."""
        self._inbox.put(_Command(lambda: None))

    def _put(self, command: _Command | None) -> None:
        """Into the inbox, and the thread looks at it after the step that is running. None: the
        thread is to end."""
        self._inbox.put(command)
        self._engine.end_early()

    def _run(self) -> None:
        try:
            while self._look_into_inbox():
                if self._engine.has_work:
                    self._emit(self._engine.step())
                else:
                    self._engine.tend()
        except BaseException:
            logger.exception("the engine thread died")
            raise
        finally:
            self._close()
            self._built.close()

    def _close(self) -> None:
        """Nobody enters any more; whoever is inside gets an answer."""
        with self._gate:
            self._closed = self._stopping = True
        while not self._inbox.empty():
            command = self._inbox.get_nowait()
            if command is not None:
                self._carry_out(command)
        for request_id in list(self._unfinished):
            self._emit(self._engine.abort(request_id))

    def _look_into_inbox(self) -> bool:
        """Between two steps. `go_on` first: what comes from then on ends the next steps early."""
        self._engine.go_on()
        return self._empty_inbox(wait=not self._engine.has_work or self._engine.blocked)

    def _empty_inbox(self, *, wait: bool) -> bool:
        """Carry out what is there, waiting a moment for the first if idle. False: the thread is
        to end."""
        while True:
            try:
                command = self._inbox.get(block=wait, timeout=self._tend_seconds)
            except queue.Empty:
                return True
            if command is None:
                return False
            self._carry_out(command)
            wait = False

    def _carry_out(self, command: _Command) -> None:
        try:
            command.answer.set_result(command.call())
        except Exception as error:  # answered to the caller; the loop goes on
            command.answer.set_exception(error)

    def _emit(self, deltas: Sequence[Delta]) -> None:
        if not deltas:
            return
        for delta in deltas:
            if delta.finish_reason is not None and not self._engine.has_request(delta.request_id):
                self._unfinished.discard(delta.request_id)
        self._deliver(deltas)
