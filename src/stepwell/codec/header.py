"""The header at the start of every value: everything needed to decode it or to refuse it.

    offset  bytes  field
         0      4  magic
         4      2  header version
         6      2  codec version
         8      8  codec name, ASCII, padded with zeros
        16     16  layout: the engine's hash of dtype, block shape and layer order
        32      8  bytes of the decoded parts together
        40      4  number of encoded parts
        44      4  zero
        48    8 n  size of each encoded part
               ..  zeros up to a multiple of 64

Little-endian. Damage is the tier's affair (its frame covers this header too); the header guards
against bytes that are whole but mean something else: of another codec, another layout, another
release.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from stepwell.codec.contract import MAX_NAME_BYTES, Buffer, CodecSpec

MAGIC = b"SWKV"
HEADER_VERSION = 1
LAYOUT_BYTES = 16
MAX_PARTS = 1 << 16

_ALIGN = 64
_FIXED = struct.Struct(f"<4sHH{MAX_NAME_BYTES}s{LAYOUT_BYTES}sQII")


class HeaderFault(enum.Enum):
    """Why a value is refused."""

    SHORT = "short"  # fewer bytes than its header has
    MAGIC = "magic"  # not a value
    VERSION = "version"  # a header that this code does not read
    CODEC = "codec"  # written by a codec that is not read here
    CODEC_VERSION = "codec version"  # by another version of this codec
    LAYOUT = "layout"  # other dtype, shapes or order
    SIZES = "sizes"  # parts, padding or destination do not add up
    CONTENT = "content"  # the codec could not decode what the header promised


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueHeader:
    """What stands in front of the encoded parts. Sizes in bytes."""

    codec: str
    codec_version: int
    layout: bytes
    decoded_size: int
    part_sizes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the header itself."""
        return header_bytes(len(self.part_sizes))

    def build(self) -> bytes:
        """The header's bytes. ValueError if a field does not fit."""
        name = self.codec.encode("ascii")
        if not 0 < len(name) <= MAX_NAME_BYTES or len(self.layout) != LAYOUT_BYTES:
            raise ValueError(f"a codec name has 1 to {MAX_NAME_BYTES} bytes, a layout 16")
        if len(self.part_sizes) > MAX_PARTS:
            raise ValueError(f"a value has at most {MAX_PARTS} parts")
        fixed = _FIXED.pack(
            MAGIC,
            HEADER_VERSION,
            self.codec_version,
            name,
            self.layout,
            self.decoded_size,
            len(self.part_sizes),
            0,
        )
        sizes = struct.pack(f"<{len(self.part_sizes)}Q", *self.part_sizes)
        return (fixed + sizes).ljust(self.nbytes, b"\0")


def header_bytes(parts: int) -> int:
    """Bytes of the header of a value with this many encoded parts."""
    return -(-(_FIXED.size + 8 * parts) // _ALIGN) * _ALIGN


def parse(data: Buffer, *, specs: Iterable[CodecSpec], layout: bytes) -> ValueHeader | HeaderFault:
    """The header at the start of `data`, if one of these codecs and this layout wrote it.
    Never raises."""
    if len(data) < _FIXED.size:
        return HeaderFault.SHORT
    magic, version, codec_version, name, found, decoded, count, zero = _FIXED.unpack_from(data)
    if magic != MAGIC:
        return HeaderFault.MAGIC
    if version != HEADER_VERSION:
        return HeaderFault.VERSION
    spec = next((s for s in specs if s.name.encode().ljust(MAX_NAME_BYTES, b"\0") == name), None)
    if spec is None:
        return HeaderFault.CODEC
    if codec_version != spec.version:
        return HeaderFault.CODEC_VERSION
    if found != layout:
        return HeaderFault.LAYOUT
    if zero or count > MAX_PARTS:
        return HeaderFault.SIZES
    if len(data) < header_bytes(count):
        return HeaderFault.SHORT
    end = _FIXED.size + 8 * count
    if any(data[end : header_bytes(count)]):
        return HeaderFault.SIZES
    return ValueHeader(
        codec=spec.name,
        codec_version=codec_version,
        layout=layout,
        decoded_size=decoded,
        part_sizes=struct.unpack_from(f"<{count}Q", data, _FIXED.size),
    )
