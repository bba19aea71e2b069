"""What a stored chunk carries beside its bytes, so that the books can be rebuilt after a restart.

    version u8 | class u8 | tenant digest 8 bytes | position u32 | parent key (0 or 32 bytes)

The tenant appears only as a digest: nothing readable about a user is written.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

_HEAD = struct.Struct("<BB8sI")
_VERSION = 1


@dataclass(frozen=True, slots=True)
class ChunkMeta:
    """`kind`: index of the workload class. `position`: chunk index in its chain. `parent`: key of
    the chunk before, empty at the start of a chain."""

    kind: int
    tenant: bytes
    position: int
    parent: bytes


def tenant_digest(tenant: str) -> bytes:
    """Eight bytes that stand for a tenant."""
    return hashlib.sha256(b"tenant\0" + tenant.encode()).digest()[:8]


def pack_meta(meta: ChunkMeta) -> bytes:
    """At most 46 bytes."""
    return _HEAD.pack(_VERSION, meta.kind, meta.tenant, meta.position) + meta.parent


def unpack_meta(data: bytes) -> ChunkMeta | None:
    """None for bytes that are not of this version."""
    if len(data) < _HEAD.size or data[0] != _VERSION:
        return None
    _, kind, tenant, position = _HEAD.unpack_from(data)
    return ChunkMeta(kind, tenant, position, bytes(data[_HEAD.size :]))
