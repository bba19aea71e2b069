"""What a stored chunk carries beside its bytes, so that the books can be rebuilt after a restart.

    version u8 | class u8 | tenant digest 8 bytes | position u32 | parent key (0 or 32 bytes)

The two highest bits of the class: the copy is exact though its tier's codec is lossy; its numbers
have been through a lossy codec before.

The tenant appears only as a digest: nothing readable about a user is written.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

_HEAD = struct.Struct("<BB8sI")
_VERSION = 1
_EXACT, _CODED, _KIND = 0x80, 0x40, 0x3F


@dataclass(frozen=True, slots=True)
class ChunkMeta:
    """`kind`: index of the workload class. `position`: chunk index in its chain. `parent`: key of
    the chunk before, empty at the start of a chain. `exact`: this copy lost nothing in a tier whose
    codec is lossy. `coded`: the numbers have been through a lossy codec before."""

    kind: int
    tenant: bytes
    position: int
    parent: bytes
    exact: bool = False
    coded: bool = False


def tenant_digest(tenant: str) -> bytes:
    """Eight bytes that stand for a tenant."""
    return hashlib.sha256(b"tenant\0" + tenant.encode()).digest()[:8]


def pack_meta(meta: ChunkMeta) -> bytes:
    """At most 46 bytes."""
    kind = meta.kind | (_EXACT if meta.exact else 0) | (_CODED if meta.coded else 0)
    return _HEAD.pack(_VERSION, kind, meta.tenant, meta.position) + meta.parent


def unpack_meta(data: bytes) -> ChunkMeta | None:
    """None for bytes that are not of this version."""
    if len(data) < _HEAD.size or data[0] != _VERSION:
        return None
    _, kind, tenant, position = _HEAD.unpack_from(data)
    return ChunkMeta(
        kind & _KIND,
        tenant,
        position,
        bytes(data[_HEAD.size :]),
        exact=bool(kind & _EXACT),
        coded=bool(kind & _CODED),
    )
