"""The levers one after another, each with what it gains, costs and risks."""

from __future__ import annotations

import math
from dataclasses import replace

from stepwell.base.units import format_bytes, format_seconds
from stepwell.plan.architecture import KVPrecision
from stepwell.plan.levers import (
    CODEC_RISK,
    KV_RISK,
    WEIGHT_RISK,
    codec_choices,
    kv_choices,
    weight_choices,
)
from stepwell.plan.memory import kv_bytes_per_token
from stepwell.plan.roofline import Efficiency, Roofline
from stepwell.plan.setup import Codec, Engine, Setup, Tiers
from stepwell.plan.steps import Score, Step, best_of, change
from stepwell.plan.workload import Workload, format_tokens


def climb(
    chosen: Setup, workload: Workload, *, kv: KVPrecision | None
) -> tuple[Setup, tuple[Step, ...]]:
    """From the naive deployment of the chosen devices to what is recommended. `chosen`: weights,
    devices and the tiers that are there are decided; `kv`: fixed by the user."""
    first = weight_choices(chosen.spec, chosen.device, chosen.engine)[0]
    naive = replace(
        chosen, weights=first, kv=KVPrecision.MODEL, is_paged=False, reuses=False, tiers=Tiers()
    )
    ladder = _Ladder(naive, workload)
    ladder.parallelism()
    ladder.paging()
    ladder.reuse()
    ladder.weights(chosen)
    ladder.kv(kv)
    ladder.tiers(chosen.tiers)
    ladder.codec()
    ladder.batch()
    ladder.groups()
    return ladder.setup, tuple(ladder.steps)


class _Ladder:
    """The setup so far, and how it came about."""

    def __init__(self, setup: Setup, workload: Workload) -> None:
        self.setup, self.workload = setup, workload
        self.steps: list[Step] = []
        self.score = Score.of(setup, workload)

    def parallelism(self) -> None:
        """Devices side by side: decided before, since the weights must fit."""
        count, device = self.setup.devices, self.setup.device.name
        if count == 1:
            self._add("parallelism", "one device", self.setup, taken=False, gain="not needed",
                      cost="none", risk="none")  # fmt: skip
            return
        one, many = (self._step_seconds(replace(self.setup, devices=n)) for n in (1, count))
        self._add(
            "parallelism", f"{count} x {device} side by side (tensor parallel)", self.setup,
            gain=f"{format_bytes(self.setup.weight_bytes / count)} of weights on each; a step "
                 f"takes {format_seconds(many)} at least, not {format_seconds(one)}",
            cost=f"{count} devices; two all-reduces in every layer"
                 + ("; K and V lie on several of them" if self._copies() > 1 else ""),
            risk="one device that fails stops all",
        )  # fmt: skip

    def paging(self) -> None:
        """Blocks instead of a reservation of the longest length."""
        longest, usual = self.workload.longest, self.workload.active
        sizes = [self.setup.session_bytes(n) for n in (longest, usual)]
        self._take(
            "paging", "KV in blocks of 16 tokens", replace(self.setup, is_paged=True),
            gain=f"a sequence takes {format_bytes(sizes[1])} ({usual:,} tokens), not "
                 f"{format_bytes(sizes[0])} ({format_tokens(longest)} reserved)"
            if sizes[1] < sizes[0] else "little: what a sequence takes hardly grows",
            cost="the last block of a sequence is half empty: 8 tokens",
            risk="when all sequences grow at once, some are preempted",
        )  # fmt: skip

    def reuse(self) -> None:
        """Prefix caching."""
        history = self.workload.history
        line = Roofline(self.setup.spec, self.setup.device, self.setup.shape)
        whole, new = (
            line.seconds(line.prefill(tokens=n, context=c), Efficiency.LIKELY.prefill)
            for n, c in ((self.workload.context, 0), (self.workload.prompt, history))
        )
        self._take(
            "prefix reuse", "keep the KV of open sessions", replace(self.setup, reuses=True),
            gain=f"a request computes {self.workload.prompt:,} tokens, not "
                 f"{self.workload.context:,}: {format_seconds(new)}, not {format_seconds(whole)}",
            cost="idle sessions hold memory",
            risk="none: keys cover tokens, weights and tenant",
        )  # fmt: skip

    def weights(self, chosen: Setup) -> None:
        """Precision of weights: decided with the devices."""
        before, after = self.setup, replace(self.setup, weights=chosen.weights)
        if before.weights == after.weights:
            others = weight_choices(chosen.spec, chosen.device, chosen.engine)[1:]
            start = Score.of(chosen, self.workload)
            tried = {
                each: change(start, Score.of(replace(chosen, weights=each), self.workload))
                for each in others
            }
            said = "; ".join(f"{each}: {text or 'no change'}" for each, text in tried.items())
            self._add(
                "weights", f"{before.weights}, as the checkpoint", before, taken=False,
                gain=f"not worth its risk with the other levers pulled ({said})"
                if said else "no other precision here",
                cost="none", risk="none",
            )  # fmt: skip
            return
        sizes = [format_bytes(each.weight_bytes) for each in (before, after)]
        times = [format_seconds(self._step_seconds(each)) for each in (before, after)]
        self._take(
            "weights", f"{after.weights}", after,
            gain=f"{sizes[0]} → {sizes[1]}; a step of one sequence takes {times[0]} → {times[1]} "
                 "at least",
            cost="packed while loading" if after.engine is Engine.STEPWELL
                 else "quantized while loading" if after.weights == "fp8"
                 else "needs a checkpoint that is quantized so",
            risk=WEIGHT_RISK[after.weights],
        )  # fmt: skip

    def kv(self, fixed: KVPrecision | None) -> None:
        """Precision of K and V."""
        wanted = (fixed,) if fixed else kv_choices(self.setup)[:1]
        for kv in wanted:
            after = replace(self.setup, kv=kv)
            sizes = [
                kv_bytes_per_token(self.setup.spec, each, self.setup.rounding)
                for each in (self.setup.kv, kv)
            ]
            self._take(
                "KV precision", f"{kv}", after, is_risky=fixed is None,
                gain=f"{sizes[0]:,} → {sizes[1]:,} bytes a token",
                cost="rounding while writing; part of the kernel's work while reading",
                risk=KV_RISK[kv],
            )  # fmt: skip

    def tiers(self, tiers: Tiers) -> None:
        """Host memory and disk for idle sessions."""
        for name, wanted in (
            ("host tier", replace(tiers, disk=0)),
            ("disk tier", tiers),
        ):
            size = wanted.host if name == "host tier" else wanted.disk
            if not size:
                continue
            after = replace(self.setup, tiers=wanted)
            each = after.stored_bytes(self.workload.context)
            rate = wanted.disk_rate
            if name == "host tier":
                rate = after.device.host_link * after.devices
            self._take(
                name, format_bytes(size), after, is_risky=True,
                gain=f"{size // each:,} more idle sessions of {self.workload.context:,} tokens",
                cost=f"a session comes back in {format_seconds(each / rate)}",
                risk="none: what is late or damaged is computed again",
            )  # fmt: skip

    def codec(self) -> None:
        """What lower tiers keep."""
        below = self.setup.tiers.host + self.setup.tiers.disk
        for codec in codec_choices(self.setup) if below else ():
            after = replace(self.setup, codec=codec)
            sizes = [s.stored_bytes(self.workload.context) for s in (self.setup, after)]
            self._take(
                "codec", f"{codec}", after, is_risky=codec is Codec.KVTC,
                gain=f"a session takes {format_bytes(sizes[0])} → {format_bytes(sizes[1])} below "
                     "the device",
                cost="time of a core to code and decode", risk=CODEC_RISK[codec],
            )  # fmt: skip

    def batch(self) -> None:
        """Sequences that decode at once."""
        one, _ = best_of(replace(self.setup, most_sequences=1), self.workload)
        best, _ = best_of(self.setup, self.workload)
        if one is None or best is None:
            return
        rates = [each.output_rate(self.workload) for each in (one, best)]
        self._add(
            "batch", f"at most {best.batch} sequences at once",
            replace(self.setup, most_sequences=best.batch),
            gain=f"{rates[0]:,.0f} → {rates[1]:,.0f} output tokens/s; further is limited by "
                 f"{best.limit}",
            cost=f"time per token {format_seconds(one.tpot)} → {format_seconds(best.tpot)}",
            risk="none", before=one.users,
        )  # fmt: skip

    def groups(self) -> None:
        """Copies of the whole."""
        asked, each = self.workload.users, self.score.within
        if not asked or not each:
            return
        count = math.ceil(asked / each)
        if count == 1:
            return
        total = count * self.setup.devices
        price = total * self.setup.device.price_per_hour
        self.steps.append(
            Step(
                lever="replicas",
                choice=f"{count} groups, {total} devices",
                is_taken=True,
                gain=f"{each:.0f} → {count * each:.0f} users",
                cost=f"${price:,.2f} an hour" if price else f"{total} machines",
                risk="sessions must stay with their group, or share a network tier",
                users_before=each,
                users_after=count * each,
            )
        )

    def _take(
        self,
        lever: str,
        choice: str,
        after: Setup,
        *,
        gain: str,
        cost: str,
        risk: str,
        is_risky: bool = False,
    ) -> None:
        """Take the lever unless it has a price and gains too little."""
        found = Score.of(after, self.workload)
        before = self.score
        enough = bool(self.workload.users) and before.within >= self.workload.users
        if is_risky and enough:
            self._add(lever, choice, after, taken=False, cost=cost, risk=risk,
                      gain=f"not needed: {before.within:.0f} users are served already")  # fmt: skip
        elif is_risky and not found.is_worth(before):
            self._add(lever, choice, after, taken=False, cost=cost, risk=risk,
                      gain=f"gains too little: {self._users_text(after)}")  # fmt: skip
        else:
            self._add(lever, choice, after, gain=gain, cost=cost, risk=risk)

    def _add(
        self,
        lever: str,
        choice: str,
        after: Setup,
        *,
        gain: str,
        cost: str,
        risk: str,
        taken: bool = True,
        before: float | None = None,
    ) -> None:
        start, found = self.score, Score.of(after, self.workload)
        if taken:
            self.setup, self.score = after, found
            said = change(start, found)
            gain = f"{gain}; {said}" if said else gain
        self.steps.append(
            Step(
                lever=lever,
                choice=choice,
                is_taken=taken,
                gain=gain,
                cost=cost,
                risk=risk,
                users_before=start.within if before is None else before,
                users_after=found.within if taken else start.within,
            )
        )

    def _copies(self) -> float:
        return Roofline(self.setup.spec, self.setup.device, self.setup.shape).copies

    def _users_text(self, setup: Setup) -> str:
        return change(self.score, Score.of(setup, self.workload)) or "no change"

    def _step_seconds(self, setup: Setup) -> float:
        line = Roofline(setup.spec, setup.device, setup.shape)
        return line.seconds(line.decode(batch=1, context=self.workload.context))
