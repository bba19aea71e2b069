"""A real server with a disk tier is killed with SIGKILL and started again; its sessions return.

Everything is seen from an HTTP client. The page cache is dropped before the second server starts,
so the context comes from the disk.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from stepwell.evaluate.page_cache import drop_page_cache
from stepwell.evaluate.server_process import ServerProcess
from stepwell.evaluate.statistics import median

_OUTPUT = 8
_STORED = "stepwell_tier_stored_bytes_total"
_SETTLE_SECONDS = 60.0
_FLUSH_SECONDS = 2.0  # an idle lane flushes a second after its last store
Reply = tuple[float, tuple[int, ...], int]
"""Seconds to the first token, tokens, cached prompt tokens."""


@dataclass(slots=True)
class RestartResult:
    """Seconds to the first token, prompt by prompt: `computed` by the first server, `restored` by
    the second. `start_s`: until the second was ready, recovery included. `cached_tokens`: of
    prompts, by its own account. `wrong`: tokens that differ from a hit on the first server's
    device."""

    computed: list[float] = field(default_factory=list)
    restored: list[float] = field(default_factory=list)
    cached_tokens: list[int] = field(default_factory=list)
    start_s: float = 0.0
    wrong: int = 0

    @property
    def speedup(self) -> float:
        """Median computed over median restored."""
        return median(self.computed) / median(self.restored)


def run_restart(
    model: Path, folder: Path, *, prompt: int, repeats: int, vocabulary: int
) -> RestartResult:
    """`folder`: for the disk tier and logs. Raises ContestantFailed, OSError, httpx.HTTPError."""
    prompts = [_prompt(prompt, vocabulary, seed=number) for number in range(repeats + 1)]
    result = RestartResult()
    expected = []
    with _server(model, folder, "first") as server:
        with _client(server) as client:
            for number, tokens in enumerate(prompts):
                seconds, _, _ = _complete(client, tokens)
                expected.append(_complete(client, tokens)[1])
                if number:  # the first one is a warm-up, of both servers
                    result.computed.append(seconds)
            _wait_until_stored(client)
        server.kill()
    drop_page_cache(folder / "disk")
    began = time.monotonic()
    with _server(model, folder, "second") as server, _client(server) as client:
        result.start_s = time.monotonic() - began
        for number, tokens in enumerate(prompts):
            seconds, found, cached = _complete(client, tokens)
            result.wrong += sum(a != b for a, b in zip(found, expected[number], strict=True))
            if number:
                result.restored.append(seconds)
                result.cached_tokens.append(cached)
    return result


def _server(model: Path, folder: Path, name: str) -> ServerProcess:
    settings = {
        "cache.pool": "256MiB",
        "tiers.disk": str(folder / "disk"),
        "tiers.disk_capacity": "4GiB",
    }
    return ServerProcess(
        model=str(model), name="restart", settings=settings, log=folder / f"{name}.log"
    )


def _client(server: ServerProcess) -> httpx.Client:
    url = server.wait_ready().removesuffix("/v1")
    return httpx.Client(base_url=url, timeout=300, trust_env=False)


def _complete(client: httpx.Client, prompt: Sequence[int]) -> Reply:
    body = {
        "model": "restart", "prompt": list(prompt), "max_tokens": _OUTPUT, "temperature": 0,
        "ignore_eos": True, "stream": True, "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    began, first, cached = time.monotonic(), 0.0, 0
    tokens: tuple[int, ...] = ()
    with client.stream("POST", "/v1/completions", json=body) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            for choice in event["choices"]:
                first = first or time.monotonic() - began
                tokens += tuple(choice.get("token_ids") or ())
            if usage := event.get("usage"):
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return first, tokens, cached


def _wait_until_stored(client: httpx.Client) -> None:
    """Until nothing more arrives on the disk, and it has been flushed."""
    deadline, before = time.monotonic() + _SETTLE_SECONDS, -1.0
    while (stored := _stored_bytes(client)) != before and time.monotonic() < deadline:
        before = stored
        time.sleep(0.5)
    time.sleep(_FLUSH_SECONDS)


def _stored_bytes(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(_STORED))


def _prompt(length: int, vocabulary: int, *, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(16, vocabulary) for _ in range(length)]
