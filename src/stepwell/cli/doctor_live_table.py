"""The report of a live server for people: a memory bar, rates, latencies, findings."""

from __future__ import annotations

from stepwell.base.units import format_bytes, format_seconds
from stepwell.cli.output import print_table
from stepwell.doctor.account import Account, Latency
from stepwell.doctor.examine import Report
from stepwell.doctor.finding import Finding

_BAR = 60
_FILLS = {
    "weights": "█",
    "KV used": "▓",
    "KV waste": "x",
    "KV cached": "▒",
    "KV free": "·",
    "KV cached or free": "·",
    "workspace": "-",
}
_SHARE_OF = {"prefill": "of the prefill bound", "decode": "of the decode bound"}


def print_report(report: Report, *, url: str) -> None:
    """Everything on stdout."""
    case, account = report.case, report.account
    window = case.window
    print(
        f"{url}: {case.engine.value}, {case.card.name or 'model not told'}; "
        f"{len(window.readings)} readings in {window.seconds:.0f} s"
    )
    _print_memory(account)
    print_table("load", ("what", "value"), _load_rows(report))
    if account.latencies:
        columns = ("seconds", "mean", "P50", "P99", "values", "over")
        rows = [(name, *_latency_row(found)) for name, found in account.latencies.items()]
        print_table("latency", columns, rows)
    _print_tiers(report)
    if not report.findings:
        print("No finding.")
    for number, finding in enumerate(report.findings, 1):
        _print_finding(number, finding)


def _print_memory(account: Account) -> None:
    parts = account.memory.parts()
    total = sum(parts.values())
    if not total:
        print("memory: not reported in bytes; name the model with --model")
        return
    cells = {name: max(1, round(_BAR * size / total)) for name, size in parts.items()}
    print("[" + "".join(_FILLS[name] * count for name, count in cells.items()) + "]")
    planned = {name for name, source in account.memory.source.items() if source == "plan"}
    rows = [
        (f"{_FILLS[name]} {name}", format_bytes(size), f"{size / total:.1%}",
         "planned" if name.removeprefix("KV ") in planned or " or " in name else "reported")
        for name, size in parts.items()
    ]  # fmt: skip
    print_table("memory of the device", ("part", "size", "share", "source"), rows)


def _load_rows(report: Report) -> list[tuple[str, str]]:
    account = report.account
    rows = [
        (name, f"{value:.1%}" if name == "KV pool in use" else f"{value:.1f}")
        for name, value in account.gauges.items()
    ]
    rows += [(name, f"{value:,.1f}") for name, value in account.rates.items()]
    rows += [
        (f"prompt tokens found: {name}", f"{share.value:.1%} ({share.over})")
        for name, share in account.hits.items()
    ]
    share = account.prefill_share
    split = f" (prefill {share:.0%} of the computing time)" if share is not None else ""
    rows.append(("bound by", f"{account.bound.value}{split}"))
    rows += [(_SHARE_OF[name], f"{value:.1%}") for name, value in account.roofline.items()]
    if account.unknown:
        rows.append(("not reported", ", ".join(account.unknown)))
    return rows


def _latency_row(found: Latency) -> tuple[str, str, str, str, str]:
    sign = "≤ " if found.coarse else ""
    return (
        format_seconds(found.mean),
        f"{sign}{format_seconds(found.p50)}",
        format_seconds(found.p99),
        f"{found.count:,.0f}",
        "the window" if found.recent else "since the start",
    )


def _print_tiers(report: Report) -> None:
    tiers = report.case.window.readings[-1].tiers
    rows = [
        (
            name,
            format_bytes(tier["used"]) if "used" in tier else "?",
            format_bytes(tier["capacity"]) if tier.get("capacity") else "?",
            {1.0: "yes", 0.0: "no"}.get(tier.get("healthy", -1.0), "?"),
            format_seconds(tier["load_seconds"]) if tier.get("load_seconds") else "?",
        )
        for name, tier in tiers.items()
    ]
    if rows:
        columns = ("tier", "used", "capacity", "healthy", "load of a chunk")
        print_table("below the device", columns, rows)


def _print_finding(number: int, finding: Finding) -> None:
    print(f"\n{number}. {finding.title} [{finding.severity.value}: {finding.code}]")
    print(f"   symptom    {finding.symptom}")
    print(f"   diagnosis  {finding.diagnosis}")
    print(f"   action     {finding.action}")
    if finding.gain:
        print(f"   gain       {finding.gain}")
    proof = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in finding.evidence.items()
    )
    print(f"   proof      {proof}")
