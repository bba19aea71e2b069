"""What a mover thread does with bytes. Runs without the lock; asks the desk before it touches the
engine's buffers and tells it how each order ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from stepwell.base.hierarchy import (
    EraseChunks,
    Failure,
    LoadChunk,
    LookupChunks,
    MoveChunk,
    StoreChunk,
    TierName,
)
from stepwell.codec.buffers import copy_parts, total_bytes
from stepwell.codec.header import HeaderFault
from stepwell.codec.value import ValueFormat
from stepwell.tier.contract import (
    BatchReader,
    Buffer,
    ReadOutcome,
    Tier,
    WriteOutcome,
    footprint,
)
from stepwell.tier.mover.config import Access
from stepwell.tier.mover.desk import Desk
from stepwell.tier.mover.job import Job, Outcome
from stepwell.tier.mover.lane import Lane, Worker

_READ_FAILURES = {
    ReadOutcome.OK: None,
    ReadOutcome.MISSING: Failure.MISSING,
    ReadOutcome.CORRUPT: Failure.CORRUPT,
}


class Carrier:
    """Carries out orders of any lane in the calling thread. Holds no state of its own.

    `forms`: how each tier's values are written. `block_bytes`: of the parts that a chunk consists
    of, for values that change their codec on the way between two tiers.
    """

    def __init__(
        self,
        tiers: Mapping[TierName, Tier],
        forms: Mapping[TierName, ValueFormat],
        desk: Desk,
        *,
        block_bytes: int,
    ) -> None:
        self._tiers = tiers
        self._forms = forms
        self._desk = desk
        self._block_bytes = block_bytes

    def carry(self, lane: Lane, worker: Worker, jobs: Sequence[Job]) -> None:
        """Bring these orders, all of one kind, to their ends. Never raises for a tier's sake."""
        order = jobs[0].order
        try:
            if isinstance(order, LookupChunks):
                self._look_up(lane, jobs[0], order)
            elif isinstance(order, EraseChunks):
                self._erase(lane, worker, jobs[0], order)
            elif isinstance(order, StoreChunk):
                self._store(lane, worker, jobs[0], order)
            elif isinstance(order, MoveChunk):
                self._move(lane, worker, jobs[0], order)
            elif lane.access is Access.DIRECT and self._forms[lane.name].spec.identity:
                self._load_direct(lane, jobs[0], order)
            else:
                self._load(lane, worker, jobs)
        except Exception as error:  # a tier or a codec with a bug is a failed transfer, no more
            for job in jobs:
                self._desk.finish(job, _failed(error, lane.name))

    def _look_up(self, lane: Lane, job: Job, order: LookupChunks) -> None:
        found = lane.tier.contains(order.keys)
        self._desk.finish(job, Outcome(found=found))

    def _erase(self, lane: Lane, worker: Worker, job: Job, order: EraseChunks) -> None:
        lane.tier.erase(order.keys, also=order.also)
        worker.scratch[:] = bytes(len(worker.scratch))
        self._desk.finish(job, Outcome())

    def _load_direct(self, lane: Lane, job: Job, order: LoadChunk) -> None:
        form = self._forms[lane.name]
        header = form.header_for(job.buffers)
        read = lane.tier.read(order.key, [header, *job.buffers])
        fault = form.check(header, job.buffers) if read is ReadOutcome.OK else None
        if fault is not None:
            lane.tier.delete([order.key])
        self._desk.finish(job, _read_outcome(read, lane.name, fault=fault))

    def _load(self, lane: Lane, worker: Worker, jobs: Sequence[Job]) -> None:
        buffers = [job.buffers for job in jobs]
        sizes = self._value_sizes(lane, jobs)
        values = _cut(_scratch(worker, sum(sizes)), sizes)
        keys = [cast(LoadChunk, job.order).key for job in jobs]
        reads = read_batch(lane.tier, keys, [[value] for value in values])
        shares = [size / max(1, sum(sizes)) for size in sizes]
        for job, out, value, read, share in zip(jobs, buffers, values, reads, shares, strict=True):
            if read is ReadOutcome.OK:
                self._deliver(lane, job, value, out, share)
            else:
                self._desk.finish(job, _read_outcome(read, lane.name, share=share))

    def _deliver(
        self, lane: Lane, job: Job, value: Buffer, out: Sequence[Buffer], share: float
    ) -> None:
        key = cast(LoadChunk, job.order).key
        form = self._forms[lane.name]
        header = form.open(value, decoded_size=total_bytes(out))
        if isinstance(header, HeaderFault):
            lane.tier.delete([key])
            outcome = _read_outcome(ReadOutcome.OK, lane.name, fault=header, share=share)
            self._desk.finish(job, outcome)
            return
        if not self._desk.claim(job):
            return
        fault = form.decode(value, out)
        outcome = _read_outcome(ReadOutcome.OK, lane.name, fault=fault, share=share)
        self._desk.finish(job, outcome)
        if fault is not None:
            lane.tier.delete([key])  # after the report: this may hang, and the order is claimed

    def _store(self, lane: Lane, worker: Worker, job: Job, order: StoreChunk) -> None:
        if not self._desk.claim(job):
            return
        form = self._forms[lane.name]
        encoded = form.encode(job.buffers, index=order.index, exact=order.exact)
        value = encoded.parts
        if lane.access is Access.STAGED:
            if encoded.views:
                staged = _scratch(worker, total_bytes(value))
                copy_parts(source=value, target=[staged])
                value = [staged]
            self._desk.unclaim(job)
        job.kept_exact = encoded.kept_exact
        self._write(lane, job, order, value)

    def _move(self, lane: Lane, worker: Worker, job: Job, order: MoveChunk) -> None:
        value = job.handoff  # read once: a report lets go of it
        if value is not None:
            self._write(lane, job, order, [value])
            return
        changes_lane = job.then is not None
        try:
            # What the tier has, not what the order expected: a read of another length is CORRUPT.
            size = self._tiers[order.source].size_of(order.key)
            if size is None:
                self._desk.finish(job, _read_outcome(ReadOutcome.MISSING, order.source))
                return
            value = _memory(size) if changes_lane else _scratch(worker, size)
            read = self._tiers[order.source].read(order.key, [value])
        except Exception as error:
            self._desk.finish(job, _failed(error, order.source))
            return
        if read is not ReadOutcome.OK:
            self._desk.finish(job, _read_outcome(read, order.source))
            return
        parts = self._recoded(value, job, order)
        if isinstance(parts, HeaderFault):
            self._tiers[order.source].delete([order.key])
            self._desk.finish(job, _read_outcome(read, order.source, fault=parts))
        elif changes_lane:
            self._desk.hand_over(job, _joined(parts))
        else:
            self._write(lane, job, order, parts)

    def _write(
        self, lane: Lane, job: Job, order: StoreChunk | MoveChunk, value: Sequence[Buffer]
    ) -> None:
        target = order.target if isinstance(order, MoveChunk) else lane.name
        tier = self._tiers[target]
        try:
            if order.replaces:
                tier.delete([order.key])
            written = tier.write(order.key, value, meta=order.meta)
        except Exception as error:
            self._desk.finish(job, _failed(error, target))
            return
        full = written is WriteOutcome.FULL
        size = footprint(tier, order.key, size=total_bytes(value))
        outcome = Outcome(failure=Failure.FULL if full else None, size=size)
        if not self._desk.finish(job, outcome) and written is WriteOutcome.STORED:
            tier.delete([order.key])  # reported as failed long ago: the books do not have it

    def _value_sizes(self, lane: Lane, jobs: Sequence[Job]) -> list[int]:
        """Bytes of the values that loads are to read: known where the codec changes no size, else
        what the tier has by now."""
        form = self._forms[lane.name]
        if form.spec.identity and not form.mixed:
            return [form.identity_size(job.buffers) for job in jobs]
        keys = [cast(LoadChunk, job.order).key for job in jobs]
        found = sizes_of(lane.tier, keys)
        return [size or job.size for size, job in zip(found, jobs, strict=True)]

    def _recoded(self, value: Buffer, job: Job, order: MoveChunk) -> list[Buffer] | HeaderFault:
        """The value as its new tier writes it."""
        source, target = self._forms[order.source], self._forms[order.target]
        header = source.open(value)
        if isinstance(header, HeaderFault):
            return header
        if target.takes(header, exact=order.exact):
            return [value]
        step = self._block_bytes or header.decoded_size
        decoded = _memory(header.decoded_size)
        parts = [decoded[at : at + step] for at in range(0, header.decoded_size, step)]
        fault = source.decode(value, parts)
        if fault is not None:
            return fault
        encoded = target.encode(parts, index=order.index, exact=order.exact)
        job.kept_exact = encoded.kept_exact
        return encoded.parts


def read_batch(
    tier: Tier, keys: Sequence[bytes], outs: Sequence[Sequence[Buffer]]
) -> list[ReadOutcome]:
    """Read several keys: in one call where the tier can, else one by one.

    Raises OSError like `Tier.read`.
    """
    if len(keys) > 1 and isinstance(tier, BatchReader):
        return tier.read_batch(keys, outs)
    return [tier.read(key, out) for key, out in zip(keys, outs, strict=True)]


def sizes_of(tier: Tier, keys: Sequence[bytes]) -> list[int | None]:
    """Bytes of several values: in one call where the tier can. Raises OSError."""
    if len(keys) > 1 and isinstance(tier, BatchReader):
        return tier.sizes_of(keys)
    return [tier.size_of(key) for key in keys]


def _read_outcome(
    read: ReadOutcome, tier: TierName, *, fault: HeaderFault | None = None, share: float = 1.0
) -> Outcome:
    """A damaged value speaks against the medium; a foreign header only against the value."""
    if fault is not None:
        because = f"header refused: {fault.value}"
        return Outcome(failure=Failure.CORRUPT, because=because, refused_header=True, share=share)
    culprit = tier if read is ReadOutcome.CORRUPT else None
    return Outcome(failure=_READ_FAILURES[read], culprit=culprit, because=read.value, share=share)


def _failed(error: Exception, tier: TierName) -> Outcome:
    because = f"{type(error).__name__}: {error}"
    return Outcome(failure=Failure.IO, culprit=tier, because=because)


def _scratch(worker: Worker, size: int) -> Buffer:
    """`size` bytes of the thread's own memory, which grows to the largest value seen."""
    if len(worker.scratch) < size:
        worker.scratch = _memory(size)
    return worker.scratch[:size]


def _memory(size: int) -> Buffer:
    return np.empty(size, np.uint8).data


def _joined(parts: Sequence[Buffer]) -> Buffer:
    """One buffer; copies only where there are several."""
    if len(parts) == 1:
        return parts[0]
    whole = _memory(total_bytes(parts))
    copy_parts(source=parts, target=[whole])
    return whole


def _cut(value: Buffer, sizes: Sequence[int]) -> list[Buffer]:
    views, start = [], 0
    for size in sizes:
        views.append(value[start : start + size])
        start += size
    return views
