"""Making the store: one unit at a time out of the checkpoint, never the model as a whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from stepwell.base.errors import WeightStoreError
from stepwell.base.units import format_bytes
from stepwell.hardware.malloc import give_back_freed_memory
from stepwell.model.identity import Coverage, weights_manifest
from stepwell.model.streaming.checkpoint import CheckpointTensors
from stepwell.model.streaming.packing import Packing, empty, pack_unit, tensors_of
from stepwell.model.streaming.skeleton import Origin, Skeleton, Unit
from stepwell.model.streaming.store import VERSION, StoreWriter

Say = Callable[[str], None]
_MARGIN = 64 << 20  # bytes: padding, index, and what other writers may need meanwhile


def store_path(identity: str) -> Path:
    """Where the store of these weights is kept: the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "stepwell" / "streamed" / f"{identity}.weights"


def store_identity(folder: Path, *, dtype: torch.dtype, packing: Packing) -> str:
    """Differs where the bytes of a store would. The weights files are known by their sampled
    contents and their times of change: reading all of them at each start would cost a pass."""
    times = [path.stat().st_mtime_ns for path in sorted(folder.glob("*.safetensors"))]
    parts = [
        VERSION,
        str(dtype),
        packing.identity,
        weights_manifest(folder, Coverage.SAMPLED),
        times,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def build_store(
    path: Path,
    *,
    identity: str,
    folder: Path,
    skeleton: Skeleton,
    dtype: torch.dtype,
    packing: Packing,
    say: Say,
) -> None:
    """Write the store of a checkpoint to `path`. The skeleton's units are packed by that, and hold
    no bytes afterwards. Raises WeightStoreError where it cannot be
    written, UnsupportedArchitecture where the checkpoint has not the model's tensors."""
    checkpoint = CheckpointTensors(folder)
    checkpoint.check(skeleton)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            _clear_partial(path)
            _check_space(path, skeleton)
            _write(path, identity, checkpoint, skeleton, dtype, packing, say)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise WeightStoreError(
            f"the weights could not be written to {path.parent}: {error.strerror or error}.",
            hint=f"It needs {format_bytes(_needed(skeleton))} of free space."
            if full
            else "Check its permissions, or set XDG_CACHE_HOME to another folder.",
        ) from error


def _write(
    path: Path,
    identity: str,
    checkpoint: CheckpointTensors,
    skeleton: Skeleton,
    dtype: torch.dtype,
    packing: Packing,
    say: Say,
) -> None:
    writer = StoreWriter(path, identity=identity, coded=packing.coded)
    try:
        for number, unit in enumerate(skeleton.units):
            say(f"writing weights to stream: {number + 1} of {len(skeleton.units)}")
            _fill(unit, checkpoint, dtype)
            checkpoint.forget()
            linears = pack_unit(unit.module, packing, unit=unit.name)
            writer.add_unit(tensors_of(unit.module), linears)
            empty(unit.module, linears)
            give_back_freed_memory()
        writer.add_embedding(checkpoint.read(Origin(skeleton.embedding_name), dtype))
        checkpoint.forget()
        writer.finish()
    finally:
        writer.abandon()
        give_back_freed_memory()


def _fill(unit: Unit, checkpoint: CheckpointTensors, dtype: torch.dtype) -> None:
    for name, origin in unit.origins.items():
        owner_name, _, own = name.rpartition(".")
        parameter = nn.Parameter(checkpoint.read(origin, dtype), requires_grad=False)
        unit.module.get_submodule(owner_name)._parameters[own] = parameter


def _needed(skeleton: Skeleton) -> int:
    embedding = skeleton.embedding.weight
    return skeleton.whole_bytes + embedding.numel() * embedding.element_size() + _MARGIN


def _check_space(path: Path, skeleton: Skeleton) -> None:
    stats = os.statvfs(path.parent)
    free = stats.f_bavail * stats.f_frsize
    if free < _needed(skeleton):
        raise OSError(errno.ENOSPC, f"{format_bytes(free)} are free")


def _clear_partial(path: Path) -> None:
    """What killed builds left. Under the lock, so no living one's."""
    for leftover in path.parent.glob(f"{path.name}.partial-*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process builds; others wait for it and then find the file."""
    fd = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
