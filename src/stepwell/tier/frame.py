"""One frame: how a value lies in any tier, so that it can be told from damage.

    offset  bytes  field
         0      8  magic
         8      2  format version
        10      2  flags (0)
        12      4  meta length
        16      8  payload length
        24      8  stamp: a number of the tier's own (the disk tier: its sequence)
        32     32  key
        64     16  xxh3_128 of meta + payload
        80      8  xxh3_64 of the 80 bytes before, seeded with the place
        88         meta, then payload

All integers are little-endian. `place` is where the frame lies (0 where that has no sense): bytes
that were written for another place do not verify, so that a frame inside a payload is never taken
for one of the tier's. Nothing is believed before the header's own checksum has matched; no length
is used before that. Parts are hashed where they lie and never joined.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from stepwell.codec.buffers import total_bytes
from stepwell.tier.contract import KEY_BYTES, Buffer

MAGIC = b"STEPWELL"
FORMAT_VERSION = 1
MAX_META_BYTES = 1 << 16
MAX_PAYLOAD_BYTES = 1 << 40

_FIELDS = struct.Struct(f"<8sHHIQQ{KEY_BYTES}s16s")
_CHECKSUM = struct.Struct("<Q")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size


class FrameFault(enum.Enum):
    """What is wrong with bytes that should be a frame."""

    SHORT = "short"  # fewer bytes than the frame has
    MAGIC = "magic"  # no frame begins here
    VERSION = "version"  # of a format that this code does not read
    HEADER = "header"  # the header's checksum does not match
    LENGTH = "length"  # the lengths are not the expected ones
    KEY = "key"  # a whole frame, of another key
    BODY = "body"  # meta or payload do not match their checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """A verified header. Sizes in bytes."""

    key: bytes
    meta_size: int
    payload_size: int
    stamp: int
    digest: bytes

    @property
    def frame_size(self) -> int:
        """Bytes of header, meta and payload."""
        return HEADER_BYTES + self.meta_size + self.payload_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A verified frame; `meta` and `payload` are views of the caller's bytes."""

    header: FrameHeader
    meta: Buffer
    payload: Buffer


def build_header(
    *, key: bytes, parts: Sequence[Buffer], meta: bytes = b"", stamp: int = 0, place: int = 0
) -> bytes:
    """The header of a frame; the caller writes it, `meta` and the parts one after the other.

    Raises ValueError for a key, meta or payload that no frame can hold.
    """
    size = total_bytes(parts)
    if len(key) != KEY_BYTES or len(meta) > MAX_META_BYTES or size > MAX_PAYLOAD_BYTES:
        raise ValueError(
            f"a frame holds a key of {KEY_BYTES} bytes and at most {MAX_META_BYTES} bytes of meta"
        )
    header = FrameHeader(
        key=key,
        meta_size=len(meta),
        payload_size=size,
        stamp=stamp,
        digest=_digest(meta, parts),
    )
    return pack_header(header, place=place)


def pack_header(header: FrameHeader, *, place: int = 0) -> bytes:
    """The header's bytes for a place: what moving a verified frame needs."""
    fields = _FIELDS.pack(
        MAGIC,
        FORMAT_VERSION,
        0,
        header.meta_size,
        header.payload_size,
        header.stamp,
        header.key,
        header.digest,
    )
    return fields + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(fields, seed=place))


def parse_header(data: bytes | bytearray | Buffer, *, place: int = 0) -> FrameHeader | FrameFault:
    """The header that `data` begins with, or what is wrong with it. Never raises."""
    if len(data) < HEADER_BYTES:
        return FrameFault.SHORT
    magic, version, flags, meta_size, payload_size, stamp, key, digest = _FIELDS.unpack_from(data)
    if magic != MAGIC:
        return FrameFault.MAGIC
    fields = memoryview(data)[: _FIELDS.size]
    (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
    if xxhash.xxh3_64_intdigest(fields, seed=place) != checksum:
        return FrameFault.HEADER
    if version != FORMAT_VERSION or flags:
        return FrameFault.VERSION
    if meta_size > MAX_META_BYTES or payload_size > MAX_PAYLOAD_BYTES:
        return FrameFault.LENGTH
    return FrameHeader(
        key=key, meta_size=meta_size, payload_size=payload_size, stamp=stamp, digest=digest
    )


def check_body(
    header: FrameHeader, *, key: bytes, meta: bytes | Buffer, parts: Sequence[Buffer]
) -> FrameFault | None:
    """None if this is the frame of `key`, and meta and parts are its bytes."""
    if header.key != key:
        return FrameFault.KEY
    if header.meta_size != len(meta) or header.payload_size != total_bytes(parts):
        return FrameFault.LENGTH
    return None if _digest(meta, parts) == header.digest else FrameFault.BODY


def open_frame(data: Buffer, *, key: bytes, place: int = 0) -> Frame | FrameFault:
    """The frame of `key` that fills `data` exactly, verified; views of it, nothing copied."""
    header = parse_header(data, place=place)
    if isinstance(header, FrameFault):
        return header
    if header.frame_size != len(data):
        return FrameFault.SHORT if header.frame_size > len(data) else FrameFault.LENGTH
    body = HEADER_BYTES + header.meta_size
    frame = Frame(header=header, meta=data[HEADER_BYTES:body], payload=data[body:])
    return check_body(header, key=key, meta=frame.meta, parts=[frame.payload]) or frame


def _digest(meta: bytes | Buffer, parts: Sequence[Buffer]) -> bytes:
    hasher = xxhash.xxh3_128(meta)
    for part in parts:
        hasher.update(part)
    return hasher.digest()
