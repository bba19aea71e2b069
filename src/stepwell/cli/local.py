"""An engine inside this process, for verbs that need no server."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stepwell.base.config import Config
from stepwell.base.errors import ConfigError, StepwellError
from stepwell.base.request import Delta, FinishReason
from stepwell.server.errors import error_body
from stepwell.server.ports import EngineLike, TokenizerLike
from stepwell.server.protocol import Job, kind_of, prepare
from stepwell.server.reply import ReplyBuilder


class Pending:
    """One job under way. Iterate for its deltas as they come, or ask for the whole reply."""

    def __init__(self, job: Job, local: LocalEngine) -> None:
        self.job = job
        self.builder = ReplyBuilder(job, tokenizer=local.tokenizer)
        self.deltas: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        self._local = local

    def __iter__(self) -> Iterator[Delta]:
        """Each delta once. Raises StepwellError when the engine failed; leaving early aborts."""
        try:
            while not self.builder.finished:
                delta = self.deltas.get()
                if delta.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
                    raise delta.error or StepwellError("the engine stopped.")
                self.builder.add([delta])
                yield delta
        finally:
            self._local.forget(self)

    def reply(self) -> dict[str, Any]:
        """The reply as the server would write it; an error in the same shape."""
        try:
            for _ in self:
                pass
        except StepwellError as error:
            return error_body(error)
        return self.builder.whole()


class LocalEngine:
    """Feeds bodies in the server's JSON to an engine and sorts what comes out."""

    def __init__(self, engine: EngineLike) -> None:
        if engine.tokenizer is None:
            raise ConfigError("this model has no tokenizer.", param="model.path")
        self.engine = engine
        self.tokenizer: TokenizerLike = engine.tokenizer
        self._pending: dict[str, Pending] = {}
        engine.start(self._deliver)

    def submit(self, body: dict[str, Any]) -> Pending:
        """Start a job. Raises RequestError."""
        job = prepare(body, kind=kind_of(body), info=self.engine.info, tokenizer=self.tokenizer)
        pending = Pending(job, self)
        for request in job.requests:
            self._pending[request.request_id] = pending
        try:
            for request in job.requests:
                self.engine.submit(request)
        except StepwellError:
            self.forget(pending)
            raise
        return pending

    def forget(self, pending: Pending) -> None:
        """Drop a job; what of it still runs is aborted."""
        for request in pending.job.requests:
            self._pending.pop(request.request_id, None)
            if not pending.builder.finished:
                self.engine.abort(request.request_id)

    def _deliver(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            pending = self._pending.get(delta.request_id)
            if pending is not None:
                pending.deltas.put(delta)


@contextmanager
def local_engine(config: Config) -> Iterator[LocalEngine]:
    """A loaded, started engine that is stopped at the end."""
    from stepwell.cli.output import note
    from stepwell.model.quick_imports import import_transformers

    import_transformers()
    from stepwell.engine.loop import build_engine_loop

    local = LocalEngine(build_engine_loop(config, progress=note))
    try:
        yield local
    finally:
        local.engine.stop(grace=0.0)
