"""Planted faults: a real server with one thing wrong, its traffic, and the finding it must give."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from stepwell.doctor.case import Case
from stepwell.doctor.examine import Report, examine
from stepwell.doctor.fetch import connected
from stepwell.plan.read import read_model
from tests.doctor.faulty_server import MARKED, STARVED
from tests.doctor.servers import HOUSE, ServerProcess, stepwell, vllm
from tests.doctor.traffic import Prompt, Traffic, chats, dated, sessions, unlike

Start = Callable[[Path], ServerProcess]
Act = Callable[[ServerProcess], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """`expected`: codes that must be found; none for a healthy server. `also`: what may be found
    beside them, because the fault causes it. `act`: done once before the window."""

    name: str
    start: Start
    prompt: Prompt
    expected: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    clients: int = 4
    output: int = 40
    pause: float = 0.0
    warm_up: float = 2.0
    window: float = 4.0
    act: Act | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one. `missed`: expected and not found. `false`: found, and nobody planted
    it."""

    planted: Planted
    report: Report
    seconds: float
    status: dict[int, int] = field(default_factory=dict)

    @property
    def found(self) -> list[str]:
        return [finding.code for finding in self.report.findings]

    @property
    def missed(self) -> list[str]:
        return [code for code in self.planted.expected if code not in self.found]

    @property
    def false(self) -> list[str]:
        allowed = (*self.planted.expected, *self.planted.also)
        return [code for code in self.found if code not in allowed]


def run(planted: Planted, folder: Path) -> Outcome:
    """Start the server, let its traffic flow, look at it. Raises NotReady."""
    began = time.monotonic()
    log = folder / (planted.name.replace(" ", "-") + ".log")
    with planted.start(log) as server:
        traffic = Traffic(
            server.url, planted.prompt, clients=planted.clients, output=planted.output,
            pause=planted.pause,
        )  # fmt: skip
        with traffic.flowing(warm_up=planted.warm_up):
            if planted.act is not None:
                planted.act(server)
            report = look(server.url, seconds=planted.window)
        return Outcome(planted, report, time.monotonic() - began, dict(traffic.status))


def look(url: str, *, seconds: float, every: float = 0.5) -> Report:
    """What `stepwell doctor URL` does."""
    with connected(url) as server:
        window = server.watch(seconds=seconds, every=every)
        return examine(Case(window, server.model(), read_model(str(HOUSE))))


def own(fault: str = "none", **settings: object) -> Start:
    """Our server, broken in one way."""
    return lambda log: stepwell(log, fault=fault, **settings)


def own_with_disk(fault: str = "none", **settings: object) -> Start:
    """With a disk tier beside its log."""
    return lambda log: stepwell(
        log, fault=fault, tiers__disk=str(log.with_suffix(".tier")), **settings
    )


def rival(*options: str) -> Start:
    """vLLM on the CPU."""
    return lambda log: vllm(log, *options)


def send(body: dict[str, object]) -> Act:
    """One request that nobody waits for, and time for it to get stuck."""

    def act(server: ServerProcess) -> None:
        def post() -> None:
            with httpx.Client(trust_env=False, timeout=60) as client:
                try:
                    client.post(server.url + "/v1/completions", json={"model": "house", **body})
                except httpx.HTTPError:
                    return  # the server is stopped while it waits: as planned

        threading.Thread(target=post, daemon=True).start()
        time.sleep(6.0)

    return act


def stop_engine(server: ServerProcess) -> None:
    """The processes that compute stop; the one that answers goes on."""
    time.sleep(0.5)
    for process in _engine_processes(server):
        os.kill(process, signal.SIGSTOP)
    time.sleep(0.5)


def _engine_processes(server: ServerProcess) -> Iterator[int]:
    for process in server.group:
        name = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
        if b"EngineCore" in name or b"VLLM::Worker" in name:
            yield process


OWN: tuple[Planted, ...] = (
    Planted(
        name="healthy, with a host tier",
        start=own(cache__pool="64MiB", tiers__host="512MiB"),
        prompt=chats(),
    ),
    Planted(
        name="healthy, sessions that pause",
        start=own(cache__pool="64MiB"), prompt=sessions(8, length=300), pause=0.2,
    ),
    Planted(
        name="healthy, sessions that return from host memory",
        start=own(
            cache__pool="16MiB", model__max_model_len=2048, tiers__chunk_blocks=16,
            tiers__host="256MiB",
        ),
        prompt=sessions(5, length=1300), clients=2, output=10, pause=0.3, warm_up=8.0, window=6.0,
    ),
    Planted(
        name="healthy, prompts with nothing in common",
        start=own(cache__pool="32MiB", model__max_model_len=2048), prompt=unlike(),
    ),
    Planted(
        name="healthy, nobody asks", start=own(cache__pool="64MiB"), prompt=chats(), clients=0,
    ),
    Planted(
        name="pool too small",
        start=own(cache__pool="3MiB", model__max_model_len=900),
        prompt=chats(shared=20, own=200), clients=8, output=100,
        expected=("pool_too_small",), also=("recomputed_context",),
    ),
    Planted(
        name="prefix caching off",
        start=own(cache__prefix_caching=False, cache__pool="64MiB"),
        prompt=chats(shared=300), expected=("no_prefix_reuse",),
    ),
    Planted(
        name="prompts that begin with a date",
        start=own(cache__pool="64MiB"), prompt=dated(), expected=("no_prefix_reuse",),
    ),
    Planted(
        name="idle sessions without a tier",
        start=own(cache__pool="12MiB", model__max_model_len=2048),
        prompt=sessions(8), clients=2, warm_up=4.0, window=5.0,
        expected=("idle_sessions",), also=("oversize_context",),
    ),
    Planted(
        name="requests longer than the limit",
        start=own(cache__pool="64MiB", model__max_model_len=512),
        prompt=unlike(length=700), pause=0.2, expected=("oversize_context",),
    ),
    Planted(
        name="limit far above use",
        start=own(cache__pool="13MiB"), prompt=chats(shared=20, own=20), output=20,
        expected=("oversize_context",),
    ),
    Planted(
        name="throttled disk tier",
        start=own_with_disk(
            "slow-tier", cache__pool="16MiB", model__max_model_len=2048, tiers__chunk_blocks=16
        ),
        prompt=sessions(5, length=1300), clients=2, output=10, pause=0.3, warm_up=8.0, window=6.0,
        expected=("sick_tier",), also=("recomputed_context",),
    ),
    Planted(
        name="disk tier that fails",
        start=own_with_disk(
            "failing-tier", cache__pool="16MiB", model__max_model_len=2048, tiers__chunk_blocks=16
        ),
        prompt=sessions(5, length=1300), clients=2, output=10, pause=0.3, warm_up=6.0, window=6.0,
        expected=("sick_tier",), also=("recomputed_context",),
    ),
    Planted(
        name="one stuck request",
        start=own("starved", cache__pool="64MiB"), prompt=chats(), clients=2,
        act=send({"prompt": "one two three", "max_tokens": STARVED}),
        expected=("stuck_request",),
    ),
    Planted(
        name="a forward pass that hangs",
        start=own("hanging", cache__pool="64MiB"), prompt=chats(), clients=2,
        act=send({"prompt": [7] * MARKED, "max_tokens": 8}), expected=("engine_stalled",),
    ),
    Planted(
        name="steps that fail",
        start=own("failing-steps", cache__pool="64MiB"),
        prompt=lambda client, number: [7] * MARKED, pause=0.1, expected=("errors",),
    ),
    Planted(
        name="more requests than can be served",
        start=own(cache__pool="64MiB", scheduler__max_sequences=4), prompt=chats(), clients=24,
        output=100, expected=("overload",), also=("prefill_bound",),
    ),
    Planted(
        name="blocks far larger than requests",
        start=own(cache__block_size=256, cache__pool="12MiB", model__max_model_len=1024),
        prompt=unlike(length=20), clients=16, output=90,
        expected=("fragmentation",), also=("pool_too_small",),
    ),
)  # fmt: skip

_SMALL = ("--max-model-len", "2048", "--max-num-seqs", "16")

VLLM: tuple[Planted, ...] = (
    Planted(
        name="healthy",
        start=rival(*_SMALL, "--num-gpu-blocks-override", "256"),
        prompt=chats(), window=8.0,
    ),
    Planted(
        name="healthy, sessions that pause, residency metrics",
        start=rival(
            *_SMALL, "--num-gpu-blocks-override", "256", "--kv-cache-metrics",
            "--kv-cache-metrics-sample", "1.0",
        ),
        prompt=sessions(8, length=300), pause=0.2, window=8.0,
    ),
    Planted(
        name="healthy, prompts with nothing in common",
        start=rival(*_SMALL, "--num-gpu-blocks-override", "256"), prompt=unlike(), window=8.0,
    ),
    Planted(
        name="pool too small",
        start=rival(*_SMALL, "--num-gpu-blocks-override", "17"),
        prompt=chats(shared=20, own=300), clients=16, output=200, window=8.0,
        expected=("pool_too_small",), also=("oversize_context",),
    ),
    Planted(
        name="prefix caching off",
        start=rival(*_SMALL, "--num-gpu-blocks-override", "256", "--no-enable-prefix-caching"),
        prompt=chats(shared=300), window=8.0, expected=("no_prefix_reuse",),
    ),
    Planted(
        name="idle sessions without a tier",
        start=rival(
            *_SMALL, "--num-gpu-blocks-override", "40", "--kv-cache-metrics",
            "--kv-cache-metrics-sample", "1.0",
        ),
        prompt=sessions(10), clients=2, window=8.0, warm_up=8.0, expected=("idle_sessions",),
    ),
    Planted(
        name="limit far above use",
        start=rival("--max-model-len", "4096", "--num-gpu-blocks-override", "48"),
        prompt=chats(shared=20, own=20), output=20, window=8.0, expected=("oversize_context",),
    ),
    Planted(
        name="requests longer than the limit",
        start=rival("--max-model-len", "512", "--num-gpu-blocks-override", "256"),
        prompt=unlike(length=700), pause=0.2, window=8.0, expected=("requests_refused",),
    ),
    Planted(
        name="more requests than can be served",
        start=rival("--max-model-len", "2048", "--max-num-seqs", "4",
                    "--num-gpu-blocks-override", "256"),
        prompt=chats(), clients=24, output=100, window=8.0,
        expected=("overload",), also=("prefill_bound",),
    ),
    Planted(
        name="an engine that stands still",
        start=rival(*_SMALL, "--num-gpu-blocks-override", "256"),
        prompt=chats(), window=8.0, act=stop_engine, expected=("engine_stalled",),
    ),
)  # fmt: skip
