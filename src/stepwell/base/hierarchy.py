"""Words between the brain and its bodies: orders out, events in.

The brain (`cache/`) decides, a body (`engine/`, `simulate/`, a connector) carries out. Both import
this file and never each other's parts. Keys are the chain keys of `cache/keys.py`; a chunk's key is
the key of its last block. All times are seconds on the body's clock, all sizes bytes.

    order         the body answers with
    LookupChunks  LookupReport
    LoadChunk     TransferReport    lower tier -> device blocks
    StoreChunk    TransferReport    device blocks -> lower tier
    MoveChunk     TransferReport    lower tier -> lower tier
    EvictChunk    nothing           the books have already let go of it
    EraseChunks   TransferReport    as EvictChunk, and no byte of them is to be left

An order pins what it touches until its report arrives, whatever the outcome. A failed move leaves
the value where it was.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class TierName(enum.IntEnum):
    """Tiers, ordered by cost."""

    DEVICE = 0
    HOST = 1
    DISK = 2
    REMOTE = 3


class WorkloadClass(enum.Enum):
    """What kind of work a request is; decides default placement, write policy, time to live."""

    CHAT = "chat"
    DOCUMENT = "document"
    CODE = "code"
    BATCH = "batch"


class Failure(enum.Enum):
    """Why a transfer did not happen. Every one of them means: recompute, count, say."""

    MISSING = "missing"  # the tier does not have it (any more)
    CORRUPT = "corrupt"  # checksum, header or key did not match; quarantined
    IO = "io"  # the tier raised
    FULL = "full"  # quota, free-space floor or arena
    DEADLINE = "deadline"  # not done in time
    SICK = "sick"  # the breaker has switched the tier off
    CANCELLED = "cancelled"  # no longer wanted before it began


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupChunks:
    """Which of these does a shared tier have? `keys` are in chain order."""

    order_id: int
    tier: TierName
    keys: tuple[bytes, ...]
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadChunk:
    """Bring chunk `index` of a request's chain to the device, by `deadline`."""

    order_id: int
    request_id: str
    index: int
    key: bytes
    tier: TierName
    size: int
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChunk:
    """Write chunk `index` of some chain, which is on the device, to a lower tier. `exact`: without
    loss, whatever the tier's codec. `replaces`: the tier may have it in another form, which goes.
    `meta` comes back from a scan."""

    order_id: int
    key: bytes
    tier: TierName
    size: int
    meta: bytes
    index: int
    exact: bool = False
    replaces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveChunk:
    """Copy chunk `index` of some chain between lower tiers; the brain evicts the source afterwards
    if it wants to. `exact` and `replaces` as in StoreChunk."""

    order_id: int
    key: bytes
    source: TierName
    target: TierName
    size: int
    meta: bytes
    index: int
    exact: bool = False
    replaces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictChunk:
    """Remove a chunk from one tier."""

    key: bytes
    tier: TierName


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseChunks:
    """Remove these from one tier so that none of their bytes are left there, neither of copies that
    were removed before. `also`: of a tier that others write to, whatever (key, meta) it says yes
    to; None: nothing else."""

    order_id: int
    tier: TierName
    keys: tuple[bytes, ...]
    also: Callable[[bytes, bytes], bool] | None = None


Order = LookupChunks | LoadChunk | StoreChunk | MoveChunk | EvictChunk | EraseChunks


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupReport:
    """The answer to LookupChunks. `found` are keys the tier has; empty on failure."""

    order_id: int
    now: float
    seconds: float
    found: frozenset[bytes] = frozenset()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """The end of a LoadChunk, StoreChunk, MoveChunk or EraseChunks.

    `seconds` is the transfer itself, `queued` the wait before it; together they are what the
    request saw. `size` is what the tier holds for the chunk. `kept_exact`: a lossy codec would not
    take it, its error being beyond the limit.
    """

    order_id: int
    now: float
    seconds: float
    queued: float
    size: int
    failure: Failure | None = None
    kept_exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TierHealth:
    """A breaker switched a tier off or on again."""

    tier: TierName
    now: float
    healthy: bool
    because: str


Event = LookupReport | TransferReport | TierHealth
