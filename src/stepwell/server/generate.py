"""One job to its one reply: whole or streamed, and what ends it early.

Three things race: the answer, the client leaving, and the time limit. Whichever comes first, the
engine's memory for the job is given back at once and the client (if still there) gets one reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from stepwell.server.async_engine import AsyncEngine, Mailbox
from stepwell.server.errors import RequestTimeout
from stepwell.server.http import Exchange
from stepwell.server.protocol import Job
from stepwell.server.reply import ReplyBuilder, first_fault

logger = logging.getLogger(__name__)

_LAST_WORDS_SECONDS = 5.0
"""For the error event of a stream whose client reads slowly or no more."""


async def answer(
    exchange: Exchange,
    job: Job,
    *,
    engine: AsyncEngine,
    timeout: float,
    charge: Callable[[int], None],
) -> None:
    """Submit a job and reply. `timeout` in seconds, 0: none. `charge` is told the output tokens.

    Raises StepwellError (RequestTimeout among them) for the caller to write as the reply.
    """
    exchange.reply_id = job.options.reply_id
    builder = ReplyBuilder(job, tokenizer=engine.tokenizer)
    work = asyncio.create_task(_work(exchange, job, builder, engine))
    gone = asyncio.create_task(exchange.disconnected())
    try:
        done, _ = await asyncio.wait(
            {work, gone}, timeout=timeout or None, return_when=asyncio.FIRST_COMPLETED
        )
        if work in done:
            work.result()
        elif gone in done:
            logger.info("%s: the client left", job.options.reply_id)
            exchange.status = exchange.status or 499
        else:
            await _cancel(work)
            raise RequestTimeout(
                f"the request did not finish within {timeout:g} s and was aborted.",
                hint="Ask for fewer tokens, or raise server.request_timeout.",
            )
    finally:
        await _cancel(gone)
        await _cancel(work)
        charge(sum(choice.output_tokens for choice in builder.choices))


async def last_words(write: asyncio.Task[None]) -> None:
    """Wait for a final write, but not for a client that no longer reads."""
    done, _ = await asyncio.wait({write}, timeout=_LAST_WORDS_SECONDS)
    if not done:
        await _cancel(write)
    else:
        write.result()


async def _work(exchange: Exchange, job: Job, builder: ReplyBuilder, engine: AsyncEngine) -> None:
    box = await engine.submit(job.requests, streams=job.options.stream)
    try:
        if job.options.stream:
            await _stream(exchange, job, builder, engine, box)
        else:
            while not builder.finished:
                await _next(builder, engine, box)
            await exchange.reply_json(builder.whole())
    finally:
        engine.abandon(box)


async def _stream(
    exchange: Exchange, job: Job, builder: ReplyBuilder, engine: AsyncEngine, box: Mailbox
) -> None:
    """The headers go out with the first token, so that earlier errors keep their status."""
    while not builder.finished:
        data = await _next(builder, engine, box)
        if not data:
            continue
        if not exchange.status:
            await exchange.start_events()
        await exchange.write(data)
    if job.options.include_usage:
        await exchange.write(builder.usage_chunk())
    await exchange.end_events()


async def _next(builder: ReplyBuilder, engine: AsyncEngine, box: Mailbox) -> bytes:
    """Book what has come; when streaming, the chunks for it. Raises EngineError."""
    deltas = await box.take()
    bad = first_fault(deltas)
    if bad is not None:
        error = engine.fault_of(bad)
        if error is not None:
            raise error
    touched = builder.add(deltas)
    if not builder.streams:
        return b""
    return b"".join([builder.chunk(choice) for choice in touched])


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel and wait; its errors were handled or came too late to matter."""
    if task.done():
        return
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
