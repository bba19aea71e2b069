"""Words for prefixes that are kept, and for KV that must be forgotten: plain data.

A *mark* says what a prompt holds and from which token on. An *erasure* names what must be
forgotten; it takes every block and chunk that may hold a marked token, and all computed after it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The prompt's tokens from `start` on may hold what `labels` name; those before do not."""

    labels: tuple[str, ...]
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixPin:
    """Keep the KV of these tokens: on the device evicted last, in lower tiers not at all.

    `name`: of the pin; pinning it again replaces it. `worth`: where room is short, pins of less
    worth give way; any unit.
    """

    name: str
    tenant: str
    token_ids: tuple[int, ...]
    worth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PinState:
    """What became of a pin. All in tokens of its whole blocks: `tokens` of them in all, `kept` that
    the device's share for pins protects, `on_device` that are there now, `in_tiers` that lower
    tiers protect. `bytes`: of all of them on the device."""

    tokens: int
    kept: int
    on_device: int
    in_tiers: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """Forget all KV of a tenant that holds what one of `labels` names."""

    tenant: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What an erasure did. `blocks` of the device, `chunks` of lower tiers, counted once for each
    tier. `everything`: what was computed where was not known for certain, so all of the tenant
    went. `live`: sequences that hold it and go on; nobody else will be given what they compute.
    """

    blocks: int
    chunks: int
    live: int
    everything: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStats:
    """`pins`: how many. `pinned_blocks`: protected on the device now; `pin_evictions`: of such
    blocks, because a request needed the room. `erasing`: orders to tiers without a report yet, or
    to be given again because a tier failed. `erased_blocks`, `erased_chunks`: since the start."""

    pins: int = 0
    pinned_blocks: int = 0
    pin_evictions: int = 0
    erasing: int = 0
    erased_blocks: int = 0
    erased_chunks: int = 0
