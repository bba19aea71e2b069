"""Between the engine, which knows device blocks, and the mover, which knows bytes of the CPU.

Owns: how the bytes of device blocks get into the mover's hands and back. Does not own: any
decision, the books of blocks (`engine/tiers.py` holds them until it hears that they are free), the
tiers, or what the mover does.

    pool on the CPU     DirectTransfers   the mover gets views of the pool itself
    pool elsewhere      StagedTransfers   the mover gets views of staging memory (slots)

With staging, a transfer takes these steps; those in brackets use the device blocks:

    store   waits for a slot -> [blocks to slot] -> the mover writes the slot to the tier -> report
    load    waits for a slot -> the mover reads into the slot -> [slot to blocks] -> report

Copies run on streams of their own, one each way (`Copies`), after the moment of the compute stream
at which the order was given, and never make compute wait. A load is reported after its copy has
been seen complete, so that whatever is launched next finds its bytes. The blocks of a store are
free as soon as they have been copied (`BlocksRead`), before the tier has them.

Staging memory is allocated once: a number of slots of one chunk for each tier and direction, so
that a slow tier takes none of another's, and stores none of the loads'. Orders beyond wait, as
they do in the mover: loads until their deadlines, stores up to a backlog, beyond which they are
refused with FULL.
"""

from __future__ import annotations

from stepwell.engine.staging.choose import check_device, open_transfers
from stepwell.engine.staging.contract import BlocksRead, Copies, Done, Transfers
from stepwell.engine.staging.direct import DirectTransfers
from stepwell.engine.staging.staged import StagedTransfers

__all__ = [
    "BlocksRead",
    "Copies",
    "DirectTransfers",
    "Done",
    "StagedTransfers",
    "Transfers",
    "check_device",
    "open_transfers",
]
