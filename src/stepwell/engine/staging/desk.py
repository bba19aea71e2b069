"""Where the engine's thread, the pump's, the mover's and the device's meet: one lock, held for
microseconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stepwell.base.hierarchy import EraseChunks, Event, EvictChunk, LookupChunks, MoveChunk
from stepwell.engine.staging.contract import BlocksRead
from stepwell.engine.staging.transfer import Transfer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cancel:
    """The engine does not want this order any more."""

    order_id: int


@dataclass(frozen=True, slots=True)
class Copied:
    """The device has ended a transfer's copy, `at` this moment."""

    transfer: Transfer
    at: float
    error: Exception | None


Task = Transfer | LookupChunks | MoveChunk | EvictChunk | EraseChunks | Cancel | Copied


@dataclass(slots=True)
class Turn:
    """What the pump has to do. `closing`: begin nothing that can be left out."""

    tasks: list[Task] = field(default_factory=list)
    closing: bool = False
    stopped: bool = False


class StagingDesk:
    """Tasks in, news out."""

    def __init__(self, on_ready: Callable[[], None]) -> None:
        """`on_ready`: called without locks when there has come to be news."""
        self._on_ready = on_ready
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        self._ready = threading.Condition(lock)
        self._turn = Turn()
        self._rung = False
        self._news: list[Event | BlocksRead] = []

    def ask(self, tasks: Sequence[Task]) -> None:
        """Any thread: the pump is to do this."""
        with self._work:
            self._turn.tasks.extend(tasks)
            self._work.notify()

    def ring(self) -> None:
        """Any thread: the mover has reports."""
        with self._work:
            self._rung = True
            self._work.notify()

    def close(self) -> None:
        """The pump is to end when nothing is under way."""
        with self._work:
            self._turn.closing = self._rung = True
            self._work.notify()

    def stop(self) -> None:
        """The pump is to end."""
        with self._work:
            self._turn.stopped = self._rung = True
            self._work.notify()

    def next_turn(self, wait: float | None) -> Turn:
        """The pump: wait for something to do, at most `wait` seconds."""
        with self._work:
            if not (self._turn.tasks or self._rung):
                self._work.wait(wait)
            turn = self._turn
            self._turn = Turn(closing=turn.closing, stopped=turn.stopped)
            self._rung = False
            return turn

    def tell(self, news: Sequence[Event | BlocksRead]) -> None:
        """Give news to the engine, and wake it if it had none."""
        if not news:
            return
        with self._ready:
            first = not self._news
            self._news.extend(news)
            self._ready.notify_all()
        if first:
            try:
                self._on_ready()
            except Exception:  # it must not take the pump's thread with it
                logger.exception("staging_callback_failed")

    def take_news(self) -> list[Event | BlocksRead]:
        """The engine: what there is."""
        with self._ready:
            news, self._news = self._news, []
            return news

    def wait_for_news(self, timeout: float) -> bool:
        """The engine: sleep until there is some."""
        with self._ready:
            return self._ready.wait_for(lambda: bool(self._news), timeout)
