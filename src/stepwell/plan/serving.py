"""What a deployment does under load, by steady-state arithmetic.

A request takes the device for `p` seconds of prompt and `O` steps of `t(B)` seconds that it shares
with the B sequences that decode beside it; a share of the device's time is left free, so that
queues stay short.

    requests/s    r = busy * B / (O * t(B) + B * p)
    per token     tpot = t(B) / (1 - r * p)                    prompts interrupt decoding
    first token   ttft = p * (1 + r * p / (2 * (1 - r * p))) + t(B) + load     (M/D/1 queue)
    users         U = r * (think + ttft + O * tpot)
    misses        sessions beyond what device, host and disk hold are computed again: p grows

`B` is the largest that memory, objectives and the users asked for allow. Times are bounds divided
by the share of them that engines reach (`Efficiency`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stepwell.plan.roofline import Efficiency, Roofline
from stepwell.plan.setup import Setup
from stepwell.plan.workload import Workload

BUSY = 0.8  # of the device's time at most: an assumption that keeps queues short
_MOST_BATCH = 4096
_GROWTH = 1.1  # from one batch that is tried to the next
_ROUNDS = 12  # of the search for the share of misses


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One group of devices under a workload. `batch`: sequences that decode at once; `users`: open
    sessions; `missed`: share of requests whose history is computed again; `limit`: what keeps it
    from more."""

    batch: int
    users: float
    requests_per_s: float
    ttft: float
    tpot: float
    prompt_seconds: float
    step_seconds: float
    missed: float
    limit: str

    def output_rate(self, workload: Workload) -> float:
        """Output tokens/s."""
        return self.requests_per_s * workload.output

    def input_rate(self, workload: Workload) -> float:
        """Prompt tokens/s as users send them, their history included."""
        return self.requests_per_s * workload.context


def serve(setup: Setup, workload: Workload, efficiency: Efficiency) -> Served | None:
    """The most users that one group serves within the objectives, or None where not even one
    sequence fits or meets them."""
    load = _Load(setup, workload, efficiency)
    best: Served | None = None
    batch, last = 1, 0
    limit = "memory" if load.fits < _MOST_BATCH else "the largest batch tried"
    if setup.most_sequences and load.fits == setup.most_sequences:
        limit = "the batch"
    while batch <= load.fits:
        found = load.at(batch)
        late = _late(found, workload)
        if late:
            limit = late
            break
        last = batch
        if best is None or found.users > best.users:
            best = found
        batch = max(batch + 1, int(batch * _GROWTH))
    if best is None:
        return None
    return replace(best, limit=limit if best.batch == last else "a larger batch gains nothing")


def most_active(setup: Setup, workload: Workload) -> int:
    """Sequences that decode at once, by memory. Without pages each takes its longest length."""
    each = setup.session_bytes(_active_tokens(setup, workload))
    most = setup.most_sequences or _MOST_BATCH
    if setup.free < 0:
        return 0
    return max(0, min(most, setup.free // each if each else most))


def kept_sessions(setup: Setup, workload: Workload, batch: int) -> tuple[int, int, int]:
    """Idle sessions on the device beside `batch` active ones, in host memory, on disk."""
    return _Load(setup, workload, Efficiency.LIKELY).kept(batch)


def _active_tokens(setup: Setup, workload: Workload) -> int:
    return workload.active if setup.is_paged else workload.longest


class _Load:
    """What does not depend on the batch, computed once."""

    def __init__(self, setup: Setup, workload: Workload, efficiency: Efficiency) -> None:
        self.setup, self.workload, self.efficiency = setup, workload, efficiency
        self.line = Roofline(setup.spec, setup.device, setup.shape)
        self.fits = most_active(setup, workload)
        self.free = setup.free
        self.active_bytes = setup.session_bytes(_active_tokens(setup, workload))
        held = workload.context if setup.is_paged else workload.longest
        self.idle_bytes = setup.session_bytes(held)
        self.stored_bytes = setup.stored_bytes(workload.context)
        self.new, self.whole = (
            self.line.seconds(self.line.prefill(tokens=tokens, context=context), efficiency.prefill)
            for tokens, context in ((workload.prompt, workload.history), (workload.context, 0))
        )

    def at(self, batch: int, *, missed: float | None = None) -> Served:
        """With so many sequences that decode at once; `missed` where it is given, else what
        follows from the users that this gives: more misses, fewer users, so there is one answer."""
        step = self.line.decode(
            batch=batch, context=self.workload.context + self.workload.output // 2
        )
        step_seconds = self.line.seconds(step, self.efficiency.decode)
        kept = self.kept(batch)
        loading = self._loading(kept)

        def served(share: float) -> Served:
            return self._served(batch, step_seconds, loading, share)

        if missed is not None or not self.setup.reuses:
            return served(1.0 if missed is None else missed)
        low, high = 0.0, 1.0
        found = served(low)
        if _implied(found, kept) <= low:
            return found
        for _ in range(_ROUNDS):
            found = served((low + high) / 2.0)
            if _implied(found, kept) > found.missed:
                low = found.missed
            else:
                high = found.missed
        return found

    def _served(self, batch: int, step_seconds: float, loading: float, missed: float) -> Served:
        work = self.workload
        prompt = self.new + missed * (self.whole - self.new)
        rate = BUSY * batch / (work.output * step_seconds + batch * prompt)
        loaded = rate * prompt
        tpot = step_seconds / (1.0 - loaded)
        ttft = prompt * (1.0 + loaded / (2.0 * (1.0 - loaded))) + step_seconds
        ttft += (1.0 - missed) * loading
        return Served(
            batch=batch,
            users=rate * (work.think + ttft + work.output * tpot),
            requests_per_s=rate,
            ttft=ttft,
            tpot=tpot,
            prompt_seconds=prompt,
            step_seconds=step_seconds,
            missed=missed,
            limit="",
        )

    def kept(self, batch: int) -> tuple[int, int, int]:
        """See `kept_sessions`."""
        beside = max(0, self.free - batch * self.active_bytes)
        on_device = beside // self.idle_bytes if self.idle_bytes else _MOST_BATCH
        tiers = self.setup.tiers
        return on_device, tiers.host // self.stored_bytes, tiers.disk // self.stored_bytes

    def _loading(self, kept: tuple[int, int, int]) -> float:
        """Seconds to bring a history back, by where sessions lie: the device's own need none."""
        total, setup = sum(kept), self.setup
        if not total:
            return 0.0
        links = (float("inf"), setup.device.host_link * setup.devices, setup.tiers.disk_rate)
        shares = (count / total / link for count, link in zip(kept, links, strict=True))
        return self.stored_bytes * sum(shares)


def _implied(found: Served, kept: tuple[int, int, int]) -> float:
    """Share of idle sessions that nothing keeps."""
    idle = found.users - found.batch
    return 0.0 if idle <= 0 else max(0.0, 1.0 - sum(kept) / idle)


def _late(found: Served, workload: Workload) -> str:
    if workload.slo.tpot and found.tpot > workload.slo.tpot:
        return "time per token"
    if workload.slo.ttft and found.ttft > workload.slo.ttft:
        return "time to first token"
    return ""


def at_efficiency(
    setup: Setup, workload: Workload, likely: Served, efficiency: Efficiency
) -> Served:
    """The same batch and the same share of histories computed again, whatever the objectives."""
    found = _Load(setup, workload, efficiency).at(likely.batch, missed=likely.missed)
    return replace(found, limit=likely.limit)
