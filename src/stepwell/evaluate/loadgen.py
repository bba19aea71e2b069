"""Load on a server, timed from when each request was *due*, and what the figures come to.

In an open loop a request is due at its offset, whether or not earlier ones are back: a stall of
the server then shows in every request that it delayed, instead of only in the one that met it
("coordinated omission"). In a closed loop it is due when a slot becomes free.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from stepwell.evaluate.statistics import Latencies, percentile
from stepwell.evaluate.stream_client import BadReply, StreamClient
from stepwell.evaluate.workload import Request, Workload

Finished = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Record:
    """One request as the client saw it; times in seconds from the start of the load.

    `first`, `last`: arrival of the first and last piece of text. `gaps`: between pieces. `error`
    is empty for a request that came back whole.
    """

    due: float
    sent: float
    first: float = math.nan
    last: float = math.nan
    gaps: tuple[float, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    error: str = ""

    @property
    def ttft(self) -> float:
        """From due to the first text."""
        return self.first - self.due

    @property
    def end_to_end(self) -> float:
        """From due to the last text."""
        return self.last - self.due

    @property
    def tpot(self) -> float:
        """Mean time of an output token after the first; 0 for a single token."""
        return (self.last - self.first) / max(1, self.output_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a good request keeps to, in seconds. `itl` bounds the request's mean time per output
    token after the first."""

    ttft: float = 1.0
    itl: float = 0.1

    def kept_by(self, record: Record) -> bool:
        """Whether this request met both bounds."""
        return not record.error and record.ttft <= self.ttft and record.tpot <= self.itl


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All records of one load. `client_seconds`: processor time that the client itself took."""

    records: tuple[Record, ...]
    seconds: float
    client_seconds: float

    def summary(self, slo: Slo) -> dict[str, Any]:
        """Rates, latencies and goodput."""
        good = [record for record in self.records if not record.error]
        gaps = [gap for record in good for gap in record.gaps]
        kept = sum(slo.kept_by(record) for record in self.records)
        return {
            "requests": len(self.records),
            "failed": len(self.records) - len(good),
            "errors": sorted({record.error for record in self.records if record.error})[:5],
            "seconds": self.seconds,
            "output_tokens": sum(record.output_tokens for record in good),
            "cached_tokens": sum(record.cached_tokens for record in good),
            "prompt_tokens": sum(record.prompt_tokens for record in good),
            "output_tokens_per_s": sum(r.output_tokens for r in good) / self.seconds,
            "requests_per_s": len(good) / self.seconds,
            "ttft_s": Latencies.of([record.ttft for record in good]).as_dict(),
            "itl_s": Latencies.of(gaps).as_dict(),
            "e2e_s": Latencies.of([record.end_to_end for record in good]).as_dict(),
            "send_lag_p99_s": percentile([record.sent - record.due for record in good], 99),
            "goodput_requests_per_s": kept / self.seconds,
            "goodput_share": kept / max(1, len(self.records)),
            "slo": {"ttft_s": slo.ttft, "itl_s": slo.itl},
            "client_cpu_share": self.client_seconds / self.seconds,
        }


@dataclass(slots=True)
class LoadGenerator:
    """Sends a workload to one server."""

    base: str
    model: str
    api_key: str = ""
    timeout: float = 600.0
    on_finished: Finished = field(default=lambda: None)

    def run_open(self, workload: Workload) -> LoadResult:
        """Each request at its offset."""
        return self._run(lambda client: self._open(client, workload.requests))

    def run_closed(self, workload: Workload, *, concurrency: int) -> LoadResult:
        """At most `concurrency` at a time, in order."""
        return self._run(lambda client: self._closed(client, workload.requests, concurrency))

    def _run(self, load: Callable[[StreamClient], Any]) -> LoadResult:
        async def body() -> LoadResult:
            client = StreamClient(self.base, model=self.model, api_key=self.api_key)
            start, cpu = time.monotonic(), time.process_time()
            records = await load(client)
            result = LoadResult(tuple(records), time.monotonic() - start, time.process_time() - cpu)
            await client.close()
            return result

        return asyncio.run(body())

    async def _open(self, client: StreamClient, requests: Sequence[Request]) -> list[Record]:
        start = asyncio.get_running_loop().time()
        return await asyncio.gather(
            *(self._one(client, request, start, request.offset) for request in requests)
        )

    async def _closed(
        self, client: StreamClient, requests: Sequence[Request], concurrency: int
    ) -> list[Record]:
        clock = asyncio.get_running_loop().time
        start = clock()
        waiting = iter(enumerate(requests))
        records: dict[int, Record] = {}

        async def slot() -> None:
            for index, request in waiting:
                records[index] = await self._one(client, request, start, clock() - start)

        await asyncio.gather(*(slot() for _ in range(min(concurrency, len(requests)))))
        return [records[index] for index in sorted(records)]

    async def _one(
        self, client: StreamClient, request: Request, start: float, due: float
    ) -> Record:
        """Wait until it is due, send it, time it. Failures become records too."""
        clock = asyncio.get_running_loop().time
        if (delay := start + due - clock()) > 0:
            await asyncio.sleep(delay)
        sent = clock() - start
        try:
            async with asyncio.timeout(self.timeout):
                stream = await client.complete(request.prompt, request.max_tokens)
        except (OSError, BadReply, TimeoutError, ValueError) as error:
            self.on_finished()
            return Record(due, sent, error=f"{type(error).__name__}: {error}"[:300])
        self.on_finished()
        times = stream.times or [clock()]
        return Record(
            due=due,
            sent=sent,
            first=times[0] - start,
            last=times[-1] - start,
            gaps=tuple(b - a for a, b in pairwise(times)),
            prompt_tokens=len(request.prompt),
            output_tokens=stream.output_tokens,
            cached_tokens=stream.cached_tokens,
        )
