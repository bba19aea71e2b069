"""The load client against a small server of its own, with stalls and faults put in."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from stepwell.base.errors import ConfigError
from stepwell.evaluate.arrival import with_offsets
from stepwell.evaluate.loadgen import LoadGenerator, Record, Slo
from stepwell.evaluate.stream_client import StreamClient
from stepwell.evaluate.workload import Mix, Workload

WORK = Mix(count=6, prompt=(3, 9), output=(4, 4), seed=1).draw()
Writer = asyncio.StreamWriter


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"


class Stub:
    """Streams `max_tokens` events a request; `stall` seconds before request number `stall_at`."""

    def __init__(self, *, stall: float = 0.0, stall_at: int = -1) -> None:
        self.bodies: list[dict[str, object]] = []
        self.connections = 0
        self.stall, self.stall_at = stall, stall_at
        self.busy = asyncio.Lock()

    async def handle(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await self.answer(json.loads(await reader.readexactly(length)), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, body: dict[str, object], writer: Writer) -> None:
        async with self.busy:  # one at a time, so that a stall delays those behind it
            number = len(self.bodies)
            self.bodies.append(body)
            if number == self.stall_at:
                await asyncio.sleep(self.stall)
        writer.write(HEAD)
        count = int(str(body["max_tokens"]))
        for i in range(count):
            event = b'data: {"choices":[{"index":0,"text":"x%d"}]}\n\n' % i
            # cut anywhere: HTTP chunks need not be events
            writer.write(chunk(event[:7]) + chunk(event[7:]))
            await writer.drain()
        usage = {"completion_tokens": count, "prompt_tokens_details": {"cached_tokens": 2}}
        last = json.dumps({"choices": [], "usage": usage}, separators=(",", ":"))
        writer.write(chunk(f"data: {last}\n\n".encode()) + chunk(b"data: [DONE]\n\n"))
        writer.write(chunk(b""))
        await writer.drain()


class Broken(Stub):
    """Answers each request in another wrong way."""

    async def answer(self, body: dict[str, object], writer: Writer) -> None:
        self.bodies.append(body)
        wrong: list[bytes] = [
            b"HTTP/1.1 429 Too Many\r\nConnection: close\r\nContent-Length: 4\r\n\r\nslow",
            HEAD + chunk(b'data: {"choices":[{"text":"x"}]}\n\n'),
            HEAD + chunk(b"data: [DO"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            HEAD + chunk(b'data: {"error":{"code":"step_failed"}}\n\n') + chunk(b""),
            b"",
        ]
        writer.write(wrong[len(self.bodies) - 1])
        await writer.drain()
        raise ConnectionError


@contextmanager
def serving(make: Callable[[], Stub]) -> Iterator[tuple[str, Stub]]:
    """A stub on a thread with its own event loop."""
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()
    found: list[tuple[int, Stub]] = []

    async def main() -> None:
        stub = make()
        server = await asyncio.start_server(stub.handle, "127.0.0.1", 0)
        found.append((server.sockets[0].getsockname()[1], stub))
        started.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports close on the next turn

    def run() -> None:
        loop.run_until_complete(main())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    try:
        yield f"http://127.0.0.1:{found[0][0]}/v1", found[0][1]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)


def test_closed_loop_brings_every_request_back_once_in_order() -> None:
    finished: list[int] = []
    with serving(Stub) as (url, stub):
        generator = LoadGenerator(url, "m", on_finished=lambda: finished.append(1))
        result = generator.run_closed(WORK, concurrency=2)
    assert [r.prompt_tokens for r in result.records] == [len(r.prompt) for r in WORK.requests]
    assert all(r.output_tokens == 4 and r.cached_tokens == 2 for r in result.records)
    assert all(len(r.gaps) == 3 and not r.error for r in result.records)
    assert len(finished) == len(stub.bodies) == 6
    assert stub.connections == 2, "connections are reused"
    body = stub.bodies[0]
    assert (body["stream"], body["ignore_eos"], body["temperature"]) == (True, True, 0)


def test_a_stall_shows_in_every_request_that_was_due_meanwhile() -> None:
    spaced = with_offsets(WORK, [i * 0.05 for i in range(6)])
    with serving(lambda: Stub(stall=0.6, stall_at=1)) as (url, _):
        result = LoadGenerator(url, "m").run_open(spaced)
    for index, record in enumerate(result.records[1:], start=1):
        assert record.due == pytest.approx(index * 0.05)
        # What is left of the stall, which began when the second was due or later.
        assert record.ttft > 0.6 - (index - 1) * 0.05 - 0.02


def test_each_fault_is_one_failed_record_and_no_exception() -> None:
    with serving(Broken) as (url, _):
        result = LoadGenerator(url, "m", timeout=5).run_closed(WORK, concurrency=1)
    errors = [record.error for record in result.records]
    assert len(errors) == 6
    assert all(errors)
    assert "429" in errors[0]
    assert "step_failed" in errors[4]
    summary = result.summary(Slo())
    assert summary["failed"] == 6
    assert summary["goodput_share"] == 0


def test_a_dead_server_is_a_failed_record() -> None:
    with serving(Stub) as (url, _):
        pass
    one = Workload("one", WORK.requests[:1])
    (record,) = LoadGenerator(url, "m", timeout=5).run_closed(one, concurrency=4).records
    assert "Error" in record.error


def test_goodput_counts_requests_within_both_bounds() -> None:
    slo = Slo(ttft=1.0, itl=0.1)
    quick = Record(due=0, sent=0, first=0.5, last=0.9, output_tokens=5)
    late = Record(due=0, sent=0.9, first=1.2, last=1.4, output_tokens=5)
    slow = Record(due=0, sent=0, first=0.5, last=1.5, output_tokens=5)
    assert [slo.kept_by(r) for r in (quick, late, slow)] == [True, False, False]
    assert not slo.kept_by(Record(due=0, sent=0, error="x"))
    assert late.ttft == 1.2, "from due, not from sent"


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://x/v1", "http:///v1"])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        StreamClient(url, model="m")
