"""`stepwell serve --record`: one line of a trace for each finished choice, without any text.

The event loop only appends what arrives to lists; hashing and writing happen on a thread. When the
disk cannot keep up or fails, lines are lost, which is logged, and serving goes on.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from stepwell.base.errors import ConfigError
from stepwell.base.request import Delta, FinishReason, GenerationRequest
from stepwell.cache.keys import extend_keys, root_key
from stepwell.simulate.trace import TraceRecorder

logger = logging.getLogger(__name__)

_MOST_WAITING = 1024
"""Finished choices that wait for the thread; more are lost."""


@dataclass(frozen=True, slots=True)
class _Finished:
    request: GenerationRequest
    output: Sequence[int]


class Recorder:
    """`add` and `close` belong to one thread, the event loop's."""

    def __init__(self, path: Path, *, block_tokens: int) -> None:
        """Raises ConfigError for a file that holds something or cannot be written."""
        self.lost = 0
        self._file = _create(path)
        self._path = path
        self._block = block_tokens
        self._trace = TraceRecorder(
            self._file, block_tokens=block_tokens, start=time.monotonic()
        )  # fmt: skip
        self._outputs: dict[tuple[str, int], list[int]] = {}
        self._queue: queue.Queue[_Finished | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="stepwell-record", daemon=True)
        self._thread.start()

    def add(self, request: GenerationRequest, delta: Delta) -> None:
        """What one step added to a choice of `request`. Neither blocks nor raises."""
        place = (delta.request_id, delta.index)
        if delta.finish_reason is None:
            self._outputs.setdefault(place, []).extend(delta.token_ids)
            return
        output = [*self._outputs.pop(place, ()), *delta.token_ids]
        if delta.finish_reason is FinishReason.ERROR:
            return
        if delta.finish_reason is FinishReason.ABORT and not output:
            return  # nothing of it was computed
        try:
            self._queue.put_nowait(_Finished(request, output))
        except queue.Full:
            self._lose("the disk cannot keep up")

    def close(self, timeout: float = 10.0) -> None:
        """Write what waits, for at most `timeout` seconds, and close the file."""
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)
        if self.lost:
            logger.warning("%d lines are missing in %s", self.lost, self._path)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._write(item)
                if self._queue.empty():
                    self._file.flush()
            except Exception as error:  # a trace is never worth a request
                self._lose(f"{type(error).__name__}: {error}")
        try:
            self._file.close()
        except OSError as error:
            self._lose(str(error))

    def _write(self, item: _Finished) -> None:
        request = item.request
        tokens = [*request.prompt_token_ids, *item.output]
        keys: list[bytes] = []
        extend_keys(
            keys,
            tokens,
            count=len(tokens) // self._block,
            block_size=self._block,
            root=root_key(b"trace", request.tenant),
        )
        self._trace.write(
            now=request.arrival,
            keys=keys,
            prompt=len(request.prompt_token_ids),
            output=len(item.output),
            session=request.session_id,
            tenant=request.tenant,
            workload=request.workload,
        )

    def _lose(self, because: str) -> None:
        self.lost += 1
        if self.lost == 1:
            logger.warning("a line for %s was lost: %s", self._path, because)


def _create(path: Path) -> TextIO:
    """Hashes of two recordings have different salts, so they do not share a file."""
    try:
        if path.exists() and path.stat().st_size:
            raise ConfigError(
                f"{path} holds something already.", hint="Name another file.", param="record"
            )
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}.", param="record") from error
