"""Levers on memory: pages, reuse, precision of KV, tiers, codecs."""

from __future__ import annotations

from dataclasses import replace

from stepwell.base.units import format_bytes, format_seconds
from stepwell.plan.architecture import KVPrecision
from stepwell.plan.ladder import Ladder
from stepwell.plan.levers import CODEC_RISK, KV_RISK, codec_choices, kv_choices
from stepwell.plan.memory import kv_bytes_per_token
from stepwell.plan.roofline import Efficiency, Roofline
from stepwell.plan.setup import Codec, Tiers
from stepwell.plan.workload import format_tokens


def paging(ladder: Ladder) -> None:
    """Blocks instead of a reservation of the longest length."""
    longest, usual = ladder.workload.longest, ladder.workload.active
    sizes = [ladder.setup.session_bytes(n) for n in (longest, usual)]
    ladder.take(
        "paging", "KV in blocks of 16 tokens", replace(ladder.setup, is_paged=True),
        gain=f"a sequence takes {format_bytes(sizes[1])} ({usual:,} tokens), not "
             f"{format_bytes(sizes[0])} ({format_tokens(longest)} reserved)"
        if sizes[1] < sizes[0] else "little: what a sequence takes hardly grows",
        cost="the last block of a sequence is half empty: 8 tokens",
        risk="when all sequences grow at once, some are preempted",
    )  # fmt: skip


def reuse(ladder: Ladder) -> None:
    """Prefix caching."""
    history = ladder.workload.history
    line = Roofline(ladder.setup.spec, ladder.setup.device, ladder.setup.shape)
    whole, new = (
        line.seconds(line.prefill(tokens=n, context=c), Efficiency.LIKELY.prefill)
        for n, c in ((ladder.workload.context, 0), (ladder.workload.prompt, history))
    )
    ladder.take(
        "prefix reuse", "keep the KV of open sessions", replace(ladder.setup, reuses=True),
        gain=f"a request computes {ladder.workload.prompt:,} tokens, not "
             f"{ladder.workload.context:,}: {format_seconds(new)}, not {format_seconds(whole)}",
        cost="idle sessions hold memory",
        risk="none: keys cover tokens, weights and tenant",
    )  # fmt: skip


def kv(ladder: Ladder, fixed: KVPrecision | None) -> None:
    """Precision of K and V."""
    wanted = (fixed,) if fixed else kv_choices(ladder.setup)[:1]
    for kv in wanted:
        after = replace(ladder.setup, kv=kv)
        sizes = [
            kv_bytes_per_token(ladder.setup.spec, each, ladder.setup.rounding)
            for each in (ladder.setup.kv, kv)
        ]
        ladder.take(
            "KV precision", f"{kv}", after, is_risky=fixed is None,
            gain=f"{sizes[0]:,} → {sizes[1]:,} bytes a token",
            cost="rounding while writing; part of the kernel's work while reading",
            risk=KV_RISK[kv],
        )  # fmt: skip


def tiers(ladder: Ladder, tiers: Tiers) -> None:
    """Host memory and disk for idle sessions."""
    for name, wanted in (
        ("host tier", replace(tiers, disk=0)),
        ("disk tier", tiers),
    ):
        size = wanted.host if name == "host tier" else wanted.disk
        if not size:
            continue
        after = replace(ladder.setup, tiers=wanted)
        each = after.stored_bytes(ladder.workload.context)
        rate = wanted.disk_rate
        if name == "host tier":
            rate = after.device.host_link * after.devices
        ladder.take(
            name, format_bytes(size), after, is_risky=True,
            gain=f"{size // each:,} more idle sessions of {ladder.workload.context:,} tokens",
            cost=f"a session comes back in {format_seconds(each / rate)}",
            risk="none: what is late or damaged is computed again",
        )  # fmt: skip


def codec(ladder: Ladder) -> None:
    """What lower tiers keep."""
    below = ladder.setup.tiers.host + ladder.setup.tiers.disk
    for codec in codec_choices(ladder.setup) if below else ():
        after = replace(ladder.setup, codec=codec)
        sizes = [s.stored_bytes(ladder.workload.context) for s in (ladder.setup, after)]
        ladder.take(
            "codec", f"{codec}", after, is_risky=codec is Codec.KVTC,
            gain=f"a session takes {format_bytes(sizes[0])} → {format_bytes(sizes[1])} below "
                 "the device",
            cost="time of a core to code and decode", risk=CODEC_RISK[codec],
        )  # fmt: skip
