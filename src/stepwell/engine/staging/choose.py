"""Which transfers a pool needs, by the device that it is on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import TierName
from stepwell.base.units import format_bytes
from stepwell.engine.staging.contract import Copies, Transfers
from stepwell.engine.staging.cuda import CudaCopies
from stepwell.engine.staging.direct import DirectTransfers
from stepwell.engine.staging.staged import MakeMover, StagedTransfers
from stepwell.model.pool import KVPool

_IN_FLIGHT = 16  # chunks for each tier and direction


def open_transfers(
    pool: KVPool,
    make_mover: MakeMover,
    *,
    tiers: Sequence[TierName],
    chunk_blocks: int,
    on_ready: Callable[[], None],
) -> tuple[Transfers, list[Decision]]:
    """Start the mover and what is between it and the pool. Raises HardwareError."""
    copies = copies_for(pool)
    if copies is None:
        return DirectTransfers(make_mover(on_ready), pool.views), []
    try:
        staged = StagedTransfers(
            make_mover,
            copies,
            tiers=tiers,
            chunk_blocks=chunk_blocks,
            in_flight=_IN_FLIGHT,
            on_ready=on_ready,
        )
    except BaseException:
        copies.close(0.0)
        raise
    why = f"{_IN_FLIGHT} chunks for each tier and direction"
    return staged, [Decision("tiers.staging", format_bytes(staged.staging_bytes), why)]


def copies_for(pool: KVPool) -> Copies | None:
    """How blocks get to the CPU and back; None where they are there."""
    if pool.storage.device.type == "cpu":
        return None
    return CudaCopies(pool.storage.view(torch.uint8))


def check_device(device: torch.device) -> None:
    """Raises ConfigError for a device whose blocks nothing here can copy."""
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"lower tiers need model.device = cpu or cuda, not {device.type}.",
            hint="Leave [tiers] empty, or serve on another device.",
            param="model.device",
        )
