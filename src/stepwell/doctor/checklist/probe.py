"""Two short requests that show whether reuse works: the same new prompt twice, and what each took.

The prompt is random words, so that no cache can know it; each round has a new one. Its first tokens
are generated and thrown away. Costs the server a few prompts of the given length.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx

from stepwell.doctor.errors import DoctorError

ROUNDS = 3
WORDS = (64, 192, 512, 1536)
"""Lengths of the prompts in words of four letters, shortest first; those that do not fit are left
out. Reuse is judged at the longest."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TOO_LONG = (400, 413, 422)


class ProbeRefused(DoctorError):
    """The server did not answer a probe."""

    code = "probe_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One prompt, sent twice. Seconds to the first token; tokens that the second one reused (None:
    the server does not say)."""

    prompt_tokens: int
    first: float
    second: float
    reused_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """`pairs`: shortest prompts first. `refused_too_long`: status of a request that can never fit;
    None: not tried, as the longest length is not known."""

    pairs: tuple[Pair, ...]
    refused_too_long: int | None

    @property
    def longest(self) -> list[Pair]:
        """Rounds of the longest prompt that fitted."""
        most = max(pair.prompt_tokens for pair in self.pairs)
        return [pair for pair in self.pairs if pair.prompt_tokens >= 0.9 * most]

    @property
    def speedup(self) -> float:
        """Median over rounds of the longest prompt: first time by second."""
        return median(pair.first / max(pair.second, 1e-6) for pair in self.longest)


def probe(
    root: str, *, model: str, headers: Mapping[str, str], max_model_len: int | None,
    rounds: int = ROUNDS, seed: int | None = None,
) -> ProbeResult:  # fmt: skip
    """Send them. Raises ProbeRefused when not even the shortest is answered."""
    words = random.Random(seed)
    pairs: list[Pair] = []
    with httpx.Client(headers=dict(headers), trust_env=False, timeout=120.0) as client:
        _send(client, root, model, _text(words, 8))  # the first request of a server is not typical
        for count in WORDS:
            try:
                pairs += [_pair(client, root, model, _text(words, count)) for _ in range(rounds)]
            except _TooLong:
                break
        if not pairs:
            raise ProbeRefused(
                f"{root} refuses a prompt of {WORDS[0]} words as too long.",
                hint="Its longest sequence is too short to tell anything.",
            )
        refused = None if max_model_len is None else _too_long(client, root, model, max_model_len)
    return ProbeResult(pairs=tuple(pairs), refused_too_long=refused)


class _TooLong(Exception):
    pass


def _pair(client: httpx.Client, root: str, model: str, text: str) -> Pair:
    first, _, tokens = _send(client, root, model, text)
    second, reused, _ = _send(client, root, model, text)
    return Pair(prompt_tokens=tokens, first=first, second=second, reused_tokens=reused)


def _send(client: httpx.Client, root: str, model: str, text: str) -> tuple[float, int | None, int]:
    """(seconds to the first event with a choice, reused tokens, prompt tokens)."""
    body = {
        "model": model, "prompt": text, "max_tokens": 1, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    usage: dict[str, Any] = {}
    start, first = time.perf_counter(), 0.0
    try:
        with client.stream("POST", f"{root}/v1/completions", json=body) as reply:
            if reply.status_code in _TOO_LONG:
                raise _TooLong
            if reply.status_code != 200:
                reply.read()
                raise ProbeRefused(
                    f"{root}/v1/completions answers HTTP {reply.status_code}.",
                    hint="Give a key with --api-key, or leave --probe out.",
                )
            for line in reply.iter_lines():
                payload = _payload(line)
                if payload.get("choices") and not first:
                    first = time.perf_counter() - start
                usage = payload.get("usage") or usage
    except httpx.HTTPError as error:
        raise ProbeRefused(f"no answer to a probe: {error or type(error).__name__}.") from error
    details = usage.get("prompt_tokens_details") or {}
    return (
        first or time.perf_counter() - start,
        details.get("cached_tokens"),
        int(usage.get("prompt_tokens", 0)),
    )


def _payload(line: str) -> dict[str, Any]:
    if not line.startswith("data: ") or line == "data: [DONE]":
        return {}
    try:
        found = json.loads(line.removeprefix("data: "))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _too_long(client: httpx.Client, root: str, model: str, longest: int) -> int | None:
    """A prompt within the limit whose answer would exceed it: refused before anything is computed,
    or cut."""
    body = {"model": model, "prompt": "one", "max_tokens": longest + 1, "stop": [" "]}
    try:
        return client.post(f"{root}/v1/completions", json=body).status_code
    except httpx.HTTPError:
        return None


def _text(words: random.Random, count: int) -> str:
    return " ".join("".join(words.choices(_LETTERS, k=4)) for _ in range(count))
