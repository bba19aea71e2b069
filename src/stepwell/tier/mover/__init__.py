"""The mover: carries out the brain's orders beside compute, in a few threads per tier.

Owns: threads, queues, deadlines, breakers and the scratch memory of transfers. Does not own: the
tiers, the device's memory, or any decision.

Late threads and reused blocks
------------------------------
A transfer that is reported as failed gives its device blocks back, and they will soon hold
somebody else's tokens. A thread that is still busy with it must therefore never touch them again,
neither write (a late load) nor read (a late store would file foreign bytes under this key, with a
checksum that matches). The rule here, for every tier that may take arbitrarily long (STAGED):

  1. The tier reads into, and writes from, scratch memory that belongs to the *thread*. A thread
     that hangs keeps its scratch; nobody else ever sees it.
  2. Device blocks are touched only by a memcpy (or codec) between them and scratch. To begin it,
     the thread must *claim* the order, under the lock. A claimed order can neither expire nor be
     cancelled: its report waits for the memcpy, which takes bounded time.
  3. An order that has been reported cannot be claimed. What its thread brings home is dropped.

So a report always means: the buffers are free, now. There is no second "released" event that an
engine could forget to wait for, and the copy does not run on the engine's thread. The price is one
memcpy per transfer. A tier whose own work is no more than a memcpy (DIRECT: the host arena) is
read into device blocks and written from them directly; its orders are claimed from the beginning,
and one that ends after its deadline is reported as what it is, done.

A store that is reported as failed because its tier hangs may still succeed later; the books then
do not have it, so the thread deletes it again.
"""

from __future__ import annotations

from stepwell.tier.mover.config import Access, LaneConfig, LaneUsage, MoverUsage
from stepwell.tier.mover.mover import Mover

__all__ = ["Access", "LaneConfig", "LaneUsage", "Mover", "MoverUsage"]
