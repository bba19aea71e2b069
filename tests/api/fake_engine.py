"""An engine without a model: same interface and promises, and faults on demand.

Output token i of every choice is the letter `a + i % 26`, so that texts can be predicted.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stepwell.base.errors import ContextLengthExceeded, EngineStopped, QueueFull, StepFailed
from stepwell.base.prefix import Erased, Erasure, PinState, PrefixPin
from stepwell.base.request import (
    Delta,
    EngineStats,
    FinishReason,
    GenerationRequest,
    MemoryUse,
    Timings,
    TokenLogprobs,
    Usage,
)

BLOCK = 16
BLOCK_BYTES = 1024
BOS, END, FIRST_BYTE = 0, 1, 2


@dataclass(frozen=True)
class FakeInfo:
    name: str = "fake"
    max_model_len: int = 512
    vocab_size: int = FIRST_BYTE + 256
    dtype: str = "float32"
    device: str = "cpu"
    architecture: str = "fake"
    parameters: int = 0


class FakeTokenizer:
    """One token per byte, two special ones."""

    eos_token_ids = frozenset({END})

    def encode(self, text, *, special_tokens=True):
        ids = [FIRST_BYTE + byte for byte in text.encode()]
        return [BOS, *ids] if special_tokens else ids

    def encode_chat(
        self,
        messages,
        *,
        tools=None,
        add_generation_prompt=True,
        continue_final_message=False,
        template_kwargs=None,
    ):
        text = "".join(f"{m['role']}: {m['content']}\n" for m in messages)
        return self.encode(text)

    def decode(self, ids, *, skip_special_tokens=True):
        return b"".join(self.token_bytes(i) for i in ids if i >= FIRST_BYTE).decode(
            errors="replace"
        )

    def token_bytes(self, token_id):
        return bytes([token_id - FIRST_BYTE]) if token_id >= FIRST_BYTE else b"<special>"

    def token_text(self, token_id):
        return self.token_bytes(token_id).decode(errors="replace")


@dataclass
class _Running:
    request: GenerationRequest
    index: int
    limit: int
    cached: int
    produced: int = 0
    first_token: float | None = None
    scheduled: float = field(default_factory=time.monotonic)


class FakeEngine:
    """Each step yields one token of every running choice, `step_seconds` apart."""

    def __init__(
        self,
        *,
        step_seconds=0.001,
        max_waiting=64,
        freeze=False,
        fail_at=None,
        crash_at=None,
        burst=1,
    ):
        self.info = FakeInfo()
        self.tokenizer = FakeTokenizer()
        self.decisions = []
        self.freeze = freeze
        self.fail_at = fail_at
        self.crash_at = crash_at
        self.finals: Counter[str] = Counter()
        self.submitted: list[GenerationRequest] = []
        self.pins: dict[str, PrefixPin] = {}
        self.erasures: list[Erasure] = []
        self._burst = burst
        self._step_seconds = step_seconds
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._running: list[_Running] = []
        self._aborts: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._seen: list[tuple[str, tuple[int, ...]]] = []
        self._stopping = False
        self._dead = False
        self._thread: threading.Thread | None = None
        self._deliver: Callable[[Sequence[Delta]], None] = lambda deltas: None
        self._counts = Counter()

    def start(self, deliver):
        self._deliver = deliver
        self._thread = threading.Thread(target=self._run, name="fake-engine", daemon=True)
        self._thread.start()

    def submit(self, request):
        with self._lock:
            if self._stopping or self._dead:
                raise EngineStopped("the engine is shutting down.")
            prompt = request.prompt_token_ids
            wanted = request.sampling.max_tokens
            limit = self.info.max_model_len - len(prompt) if wanted is None else wanted
            if len(prompt) + limit > self.info.max_model_len or limit < 0:
                raise ContextLengthExceeded("too long.", param="prompt")
            if len(self._running) + request.sampling.n > self._max_waiting:
                raise QueueFull("the queue is full.")
            cached = self._cached(request.tenant, prompt)
            self._seen.append((request.tenant, prompt))
            self._counts["queries"] += len(prompt)
            self._counts["hits"] += cached
            self._counts["prompt"] += len(prompt)
            self.submitted.append(request)
            self._running += [
                _Running(request, i, limit, cached) for i in range(request.sampling.n)
            ]

    def abort(self, request_id):
        self._aborts.put(request_id)

    def account(self):
        return None

    def pin_prefix(self, pin):
        self.pins[pin.name] = pin
        size = len(pin.token_ids)
        return PinState(tokens=size, kept=size, on_device=size, in_tiers=0, bytes=size)

    def unpin_prefix(self, name):
        self.pins.pop(name, None)

    def forget(self, erasure):
        self.erasures.append(erasure)
        return Erased(blocks=1, chunks=0, live=0)

    def stats(self):
        with self._lock:
            used = sum(
                -(-(len(r.request.prompt_token_ids) + r.produced) // BLOCK) for r in self._running
            )
            return EngineStats(
                running=len(self._running),
                prompt_tokens=self._counts["prompt"],
                generation_tokens=self._counts["output"],
                prefix_queries=self._counts["queries"],
                prefix_hits=self._counts["hits"],
                finished=dict(self.finals),
                blocks_total=1000,
                blocks_used=used,
                memory=MemoryUse(pool=1000 * BLOCK_BYTES, weights=7, used=used * BLOCK_BYTES),
            )

    def stop(self, *, grace):
        with self._lock:
            self._stopping = True
        end = time.monotonic() + grace
        while self._running and time.monotonic() < end:
            time.sleep(0.005)
        for running in list(self._running):
            self.abort(running.request.request_id)
        self._dead = True
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _cached(self, tenant, prompt):
        best = 0
        for other, ids in self._seen:
            same = 0
            while (
                other == tenant
                and same < min(len(ids), len(prompt)) - 1
                and ids[same] == prompt[same]
            ):
                same += 1
            best = max(best, same // BLOCK * BLOCK)
        return best

    def _run(self):
        while True:
            deltas = self._step()
            if deltas:
                self._deliver(deltas)
            if self._dead and not self._running:
                return
            time.sleep(self._step_seconds)

    def _step(self):
        with self._lock:
            deltas = []
            aborted = set()
            while not self._aborts.empty():
                aborted.add(self._aborts.get())
            for running in list(self._running):
                if running.request.request_id in aborted or self._dead:
                    deltas.append(self._final(running, FinishReason.ABORT))
                elif not self.freeze:
                    for _ in range(self._burst):
                        deltas.append(self._advance(running))
                        if deltas[-1].finish_reason is not None:
                            break
            return deltas

    def _advance(self, running):
        if running.produced == self.crash_at:
            self._dead = True
            return self._final(running, FinishReason.ABORT)
        if running.produced == self.fail_at:
            return self._final(
                running, FinishReason.ERROR, error=StepFailed("the forward pass raised.")
            )
        if running.limit == 0:
            return self._final(running, FinishReason.LENGTH)
        if running.first_token is None:
            running.first_token = time.monotonic()
        letter = FIRST_BYTE + ord("a") + running.produced % 26
        running.produced += 1
        self._counts["output"] += 1
        text = self.tokenizer.token_text(letter)
        if any(stop == text for stop in running.request.sampling.stop):
            return self._final(running, FinishReason.STOP, token=letter, stop_reason=text)
        if running.produced >= running.limit:
            return self._final(running, FinishReason.LENGTH, token=letter, text=text)
        return Delta(
            request_id=running.request.request_id,
            index=running.index,
            token_ids=(letter,),
            text=text,
            **self._logprobs(running, letter),
        )

    def _final(self, running, reason, *, token=None, text="", error=None, stop_reason=None):
        self._running.remove(running)
        self.finals[reason.value] += 1
        request = running.request
        return Delta(
            request_id=request.request_id,
            index=running.index,
            token_ids=() if token is None else (token,),
            text=text,
            finish_reason=reason,
            stop_reason=stop_reason,
            error=error,
            usage=Usage(len(request.prompt_token_ids), running.cached, running.produced),
            timings=Timings(
                request.arrival, running.scheduled, running.first_token, time.monotonic(), 0
            ),
            **self._logprobs(running, token),
        )

    def _logprobs(self, running, token):
        sampling = running.request.sampling
        result = {}
        if sampling.logprobs is not None and token is not None:
            result["logprobs"] = (self._entry(token, sampling.logprobs),)
        if sampling.prompt_logprobs is not None and running.produced <= 1:
            ids = running.request.prompt_token_ids
            result["prompt_logprobs"] = (
                None,
                *(self._entry(i, sampling.prompt_logprobs) for i in ids[1:]),
            )
        return result

    def _entry(self, token, count):
        top = tuple((token + i, -0.5 - i) for i in range(count) if token + i < 258)
        return TokenLogprobs(token, -0.5, 1, top)
