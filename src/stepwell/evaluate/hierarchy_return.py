"""A session comes back whose context lies in one lower tier: time to first token, cold and again.

Each prompt is served cold (A), again from the device cache (a control of what is equal at all),
and, after the device has forgotten it, from the tier (B); then the next prompt. Whether to load is
the brain's own choice; what it chose is in the figures.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from stepwell.base.units import format_seconds
from stepwell.engine.llm import LLM
from stepwell.evaluate.hierarchy_drive import (
    Reply,
    differing,
    draw_prompt,
    drop_page_cache,
    forget,
    remote_binary,
    remote_server,
    serve,
    settle,
)
from stepwell.evaluate.hierarchy_scale import Scale
from stepwell.evaluate.options import OnProgress, Section
from stepwell.evaluate.statistics import median, median_ratio

NO_SERVER = "no valkey-server or redis-server on PATH"
_COLUMNS = ("context in", "cold", "again", "speed-up", "from device", "wrong tokens", "restored")


def return_section(model: str, scale: Scale, workdir: Path, say: OnProgress) -> Section:
    """All tiers, and the disk once more after a restart."""
    figures: dict[str, Any] = {}
    say("returning session: host")
    figures["host"] = _one_tier(model, scale, tiers__host="1GiB")
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        disk = Path(folder)
        say("returning session: disk")
        prompts, cold = _prompts(scale, "restart"), []
        figures["disk"] = _one_tier(
            model, scale, disk=disk, leave=(prompts, cold), **_disk_settings(disk)
        )
        say("returning session: disk after a restart")
        figures["disk_restart"] = _restarted(model, scale, disk, prompts, cold)
    binary = remote_binary()
    if binary is None:
        figures["network"] = {"reason": NO_SERVER}
    else:
        say("returning session: network")
        with (
            tempfile.TemporaryDirectory(dir=workdir) as folder,
            remote_server(binary, Path(folder)) as url,
        ):
            figures["network"] = _one_tier(model, scale, tiers__remote=url)
    rows = tuple(_row(name, found) for name, found in figures.items())
    notes = tuple(
        f"{name}: {line}"
        for name, found in figures.items()
        for line in found.get("decisions", ())[-1:]
    )
    title = f"Returning session of {scale.prefix:,} tokens, n = {scale.returns} prompts a tier"
    return Section("return", title, _COLUMNS, rows, figures, notes)


def _disk_settings(folder: Path) -> dict[str, str]:
    return {"tiers__disk": str(folder), "tiers__disk_capacity": "4GiB",
            "tiers__disk_free_floor": "64MiB"}  # fmt: skip


def _prompts(scale: Scale, name: str) -> list[list[int]]:
    source = random.Random(f"{name}/{scale.seed}")
    length = scale.prefix + 1
    return [draw_prompt(source, length, vocab_size=scale.vocab_size) for _ in range(scale.returns)]


def _one_tier(
    model: str,
    scale: Scale,
    *,
    disk: Path | None = None,
    leave: tuple[list[list[int]], list[Reply]] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """`leave`: prompts served once at the end and stored, and where their replies go."""
    llm = LLM(model, cache__pool=scale.pool, **settings)
    cold, device, again = [], [], []
    try:
        for prompt in _prompts(scale, "/".join(settings)):
            cold.append(serve(llm, prompt))
            device.append(serve(llm, prompt))
            forget(llm, disk=disk)
            again.append(serve(llm, prompt))
            forget(llm, disk=disk)
        result = _figures(llm, cold=cold, again=again, device=device)
        if leave is not None:
            leave[1].extend(serve(llm, prompt) for prompt in leave[0])
            settle(llm)
    finally:
        llm.close()
    return result


def _restarted(
    model: str, scale: Scale, disk: Path, prompts: list[list[int]], cold: list[Reply]
) -> dict[str, Any]:
    """A new engine on the folder that an earlier one left; `first`: its very first reply."""
    drop_page_cache(disk)
    llm = LLM(model, cache__pool=scale.pool, **_disk_settings(disk))
    try:
        again = [serve(llm, prompt) for prompt in prompts]
        result = _figures(llm, cold=cold, again=again, device=[])
        return result | {"first_speedup": cold[0].ttft / again[0].ttft}
    finally:
        llm.close()


def _figures(
    llm: LLM, *, cold: list[Reply], again: list[Reply], device: list[Reply]
) -> dict[str, Any]:
    tiers = llm.built.engine.tiers
    assert tiers is not None
    stats = tiers.hierarchy.stats()
    colds, agains = [r.ttft for r in cold], [r.ttft for r in again]
    devices = [r.ttft for r in device]
    return {
        "cold_s": colds,
        "again_s": agains,
        "device_s": devices,
        "speedup": median_ratio(colds, agains),
        "device_speedup": median_ratio(colds, devices) if devices else None,
        "wrong_tokens": sum(
            differing(a.tokens, b.tokens) for a, b in zip(cold, again, strict=True)
        ),
        "wrong_tokens_device": sum(
            differing(a.tokens, b.tokens) for a, b in zip(cold, device, strict=False)
        ),
        "restored_tokens": tiers.restored_tokens,
        "loads": stats.ledger.loads,
        "splits": stats.ledger.splits,
        "probes": stats.ledger.probes,
        "chunks_failed": stats.ledger.chunks_failed,
        "decisions": [f"{d.value}: {d.because}" for d in stats.decisions],
    }


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    if "reason" in found:
        return (name, "-", "-", "-", "-", "-", found["reason"])
    device = found["device_speedup"]
    return (
        name.replace("_", ", after a "),
        format_seconds(median(found["cold_s"])),
        format_seconds(median(found["again_s"])),
        f"{found['speedup']:.1f}x",
        "-" if device is None else f"{device:.1f}x",
        str(found["wrong_tokens"]),
        f"{found['restored_tokens']:,} tokens",
    )
