"""How an explanation is printed."""

from __future__ import annotations

from stepwell.base.units import format_bytes
from stepwell.cli.output import print_table
from stepwell.doctor.oom.explain import WHAT_TO_SEND, LogReport
from stepwell.doctor.oom.snapshot_sums import DeviceSums
from stepwell.doctor.oom.words import Explanation, Holder, Phase


def print_explanation(found: Explanation, log: LogReport | None) -> None:
    """Where, what, who holds what, why, and the steps."""
    where = f"line {found.line:,} of {log.lines:,}, " if log is not None else ""
    phase = "" if found.phase is Phase.UNKNOWN else f", while {found.phase.value}"
    device = f", {found.device}" if found.device else ""
    print(f"{found.title[0].upper()}{found.title[1:]}.")
    print(f"({where}{found.source}{device}{phase})\n")
    if found.text:
        print(f"{found.text}\n")
    if found.holders:
        rows = [(h.name, _size(h, found), h.note) for h in found.holders]
        print_table("who holds what", ("", "bytes", ""), rows)
    print("\n".join(filter(None, (found.why, found.fragmentation))))
    print()
    steps = [(n, step.change, step.effect) for n, step in enumerate(found.steps, start=1)]
    print_table("what to change, in this order", ("", "change", "expected effect"), steps)
    if log is not None and sum(log.kinds.values()) > 1:
        seen = ", ".join(f"{count} {kind}" for kind, count in log.kinds.items())
        print(f"Messages in this log: {seen}. The last that explains most is shown.")


def print_snapshot(devices: tuple[DeviceSums, ...]) -> None:
    """Sums of each device, then the lines that hold most of the last."""
    rows = [
        (
            f"GPU {s.device}", format_bytes(s.reserved), format_bytes(s.allocated),
            format_bytes(s.free), format_bytes(s.largest_free), f"{s.fragmentation:.2f}",
            format_bytes(s.oom.size) if s.oom else "",
        )
        for s in devices
    ]  # fmt: skip
    columns = ("", "reserved", "allocated", "free", "largest free", "fragmentation", "failed")
    print_table("PyTorch's allocator", columns, rows)
    top = [(t.where, t.part, format_bytes(t.size), t.blocks) for t in devices[-1].top]
    print_table(f"lines that hold most, GPU {devices[-1].device}",
                ("where", "part", "bytes", "blocks"), top)  # fmt: skip


def print_unknown(log: LogReport) -> None:
    """What was read, the nearest lines, and what would make it explainable."""
    if log.suspicious:
        print("I do not know this one. Lines that speak of memory:")
        for number, text in log.suspicious:
            print(f"  {number:,}: {text}")
    else:
        print(
            f"I do not know this one: none of its {log.lines:,} lines speaks of memory running out."
        )
    print("\nTo have it explained, send:")
    for item in WHAT_TO_SEND:
        print(f"  - {item}")


def _size(holder: Holder, found: Explanation) -> str:
    if holder.size is None:
        return "unknown"
    share = f" ({holder.size / found.capacity:.0%})" if found.capacity else ""
    return format_bytes(holder.size) + share
