"""What was chosen for a streamed model, for `--explain`."""

from __future__ import annotations

from stepwell.base.decisions import Decision
from stepwell.base.units import format_bytes
from stepwell.model.streaming.plan import SLOTS
from stepwell.model.streaming.store import StoreIndex
from stepwell.model.streaming.streamer import Streamer


def explain(
    streamer: Streamer, index: StoreIndex, *, whole_bytes: int, built: str
) -> tuple[Decision, ...]:
    """`whole_bytes`: of all weights unpacked; `built`: why the store was, empty where it was there
    already."""
    formats = sorted({row.format for unit in index.linears for row in unit})
    packed = f"{sum(map(len, index.linears))} packed, as they are in the store"
    decisions = [
        Decision("weights.budget", format_bytes(streamer.nbytes), _split(streamer, whole_bytes)),
        _streaming(streamer, index),
        Decision("kernels.linear", " and ".join(formats) or "plain", packed),
    ]
    decisions += _coding(index)
    if built:
        decisions.append(Decision("weights.store", "built", built))
    return tuple(decisions)


def _split(streamer: Streamer, whole_bytes: int) -> str:
    found, landing = streamer.residency, streamer.landing_bytes
    return (
        f"{format_bytes(whole_bytes)} of weights: {format_bytes(found.resident)} of layers and "
        f"head stay, {SLOTS} slots of {format_bytes(found.slot)}, "
        f"{format_bytes(landing)} to unpack into, "
        f"{format_bytes(streamer.nbytes - found.total - landing)} of norms and buffers; "
        "embedding rows come from disk as tokens name them"
    )


def _coding(index: StoreIndex) -> list[Decision]:
    coded = [row for unit in index.units for row in unit if row.coding is not None]
    if not coded:
        return []
    share = sum(row.size for row in coded) / sum(row.nbytes for row in coded)
    aside = sum(row.coding.aside for row in coded if row.coding is not None)
    why = (
        f"{len(coded)} matrices in {share:.1%} of their bytes, bit for bit: an exponent takes 4 "
        f"bits; {aside} numbers whose exponent is rare are kept aside"
    )
    return [Decision("weights.coding", "12 bits", why)]


def _streaming(streamer: Streamer, index: StoreIndex) -> Decision:
    found = streamer.residency
    name = "weights.streaming"
    if not found.streamed:
        return Decision(name, "off", "as they are packed, all layers and the head stay")
    whole = sum(k == len(unit) for k, unit in zip(found.kept, index.units, strict=True))
    seconds = found.streamed / streamer.speed
    how = "past the page cache" if streamer.direct else "through the page cache, dropped after use"
    why = (
        f"{whole} of {len(found.kept)} layers and head slabs stay whole, the others in part or not "
        f"at all; {format_bytes(found.streamed)} read in each step {how}, at the "
        f"{streamer.speed / 1e9:.2f} GB/s of the first pass in {seconds:.2f} s (predicted, seconds)"
    )
    return Decision(name, "disk", why, predicted=seconds)
