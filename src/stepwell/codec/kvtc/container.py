"""Named arrays in one file: magic, a table, checksums. No code can hide in it.

    offset  bytes  field
         0      8  magic
         8      2  version
        10      2  number of sections, n
        12      4  zero
        16     32  hash of the weights that the file belongs to
        48      8  bytes of the file
        56  88 n   table: name 24, type 1, packed 1, dimensions 1, zero 5, shape 4 * 8, offset 8,
                   bytes 8, checksum 8
                8  checksum of everything before it
                   sections, one after another

Little-endian; checksums are XXH3-64 of the stored bytes. A packed section is deflated. Sizes are
checked against limits before anything is allocated.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

MAGIC = b"SWKVTC\r\n"
VERSION = 2  # 2: matrices as entropy-coded levels
MAX_SECTIONS = 4096
MAX_UNPACKED = 1 << 28  # bytes that packed sections may become, all together
_HEAD = struct.Struct("<8sHHI32sQ")
_ENTRY = struct.Struct("<24sBBB5x4QQQQ")
_SUM = struct.Struct("<Q")
_DTYPES = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.float16, np.float32)

Array = NDArray[Any]


class ArtifactError(ValueError):
    """The file is not a calibration artifact of this version, or it is damaged."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: np.dtype[Any]
    packed: bool
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    checksum: int

    @property
    def plain_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_sections(arrays: Mapping[str, Array], *, weights: bytes, packed: frozenset[str]) -> bytes:
    """The file's bytes. `packed`: names of the sections to deflate."""
    bodies, entries = [], []
    offset = _HEAD.size + _ENTRY.size * len(arrays) + _SUM.size
    for name, array in arrays.items():
        plain = np.ascontiguousarray(array).tobytes()
        body = zlib.compress(plain, 9) if name in packed else plain
        shape = [*array.shape, 0, 0, 0, 0][:4]
        code = _DTYPES.index(array.dtype.type)
        digest = xxhash.xxh3_64_intdigest(body)
        entries.append(
            _ENTRY.pack(
                name.encode("ascii"), code, name in packed, array.ndim, *shape, offset,
                len(body), digest,
            )
        )  # fmt: skip
        bodies.append(body)
        offset += len(body)
    head = _HEAD.pack(MAGIC, VERSION, len(arrays), 0, weights, offset) + b"".join(entries)
    return head + _SUM.pack(xxhash.xxh3_64_intdigest(head)) + b"".join(bodies)


def read_sections(data: bytes | memoryview) -> tuple[bytes, dict[str, Array]]:
    """(weights hash, arrays by name). ArtifactError for anything that `write_sections` does not
    write. Arrays are read-only; they point into `data` unless packed."""
    view = memoryview(data)
    weights, entries = _read_table(view)
    arrays = {}
    for entry in entries:
        body = view[entry.offset : entry.offset + entry.nbytes]
        if xxhash.xxh3_64_intdigest(body) != entry.checksum:
            raise ArtifactError(f"section {entry.name!r} is damaged")
        plain = _inflate(body, entry) if entry.packed else body
        array = np.frombuffer(plain, entry.dtype) if len(plain) else np.empty(0, entry.dtype)
        array = array.reshape(entry.shape)
        array.setflags(write=False)
        arrays[entry.name] = array
    return weights, arrays


def _version_message(version: int) -> str:
    """What to do about a file of another version."""
    if version < VERSION:
        return f"of an older version, {version}, not {VERSION}: make it anew: stepwell calibrate"
    return f"of a newer version, {version}: this release reads {VERSION}"


def _read_table(view: memoryview) -> tuple[bytes, list[_Entry]]:
    if len(view) < _HEAD.size:
        raise ArtifactError("shorter than its header")
    magic, version, count, zero, weights, size = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise ArtifactError("not a calibration artifact")
    if version != VERSION:
        raise ArtifactError(_version_message(version))
    end = _HEAD.size + _ENTRY.size * count
    if zero or count > MAX_SECTIONS or size != len(view) or end + _SUM.size > size:
        raise ArtifactError("its sizes do not add up")
    if xxhash.xxh3_64_intdigest(view[:end]) != _SUM.unpack_from(view, end)[0]:
        raise ArtifactError("its table is damaged")
    entries, offset = [], end + _SUM.size
    for number in range(count):
        entry = _parse_entry(view, _HEAD.size + _ENTRY.size * number)
        if entry.offset != offset:
            raise ArtifactError("its sections do not follow one another")
        offset += entry.nbytes
        entries.append(entry)
    unpacked = sum(entry.plain_bytes for entry in entries if entry.packed)
    names = {entry.name for entry in entries}
    if offset != size or len(names) != count or unpacked > MAX_UNPACKED:
        raise ArtifactError("its sizes do not add up")
    return bytes(weights), entries


def _parse_entry(view: memoryview, where: int) -> _Entry:
    name, code, packed, dims, *rest = _ENTRY.unpack_from(view, where)
    shape, (offset, nbytes, checksum) = rest[:4], rest[4:]
    if code >= len(_DTYPES) or packed > 1 or dims > 4 or any(shape[dims:]):
        raise ArtifactError("a section of no known type")
    try:
        text = name.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise ArtifactError("a section's name is not ASCII") from None
    dtype = np.dtype(_DTYPES[code]).newbyteorder("<")
    entry = _Entry(text, dtype, bool(packed), tuple(shape[:dims]), offset, nbytes, checksum)
    if not packed and entry.plain_bytes != nbytes:
        raise ArtifactError(f"section {text!r} is of another size than its shape")
    return entry


def _inflate(body: memoryview, entry: _Entry) -> bytes:
    engine = zlib.decompressobj()
    try:
        plain = engine.decompress(body, entry.plain_bytes + 1)
    except zlib.error as error:
        raise ArtifactError(f"section {entry.name!r}: {error}") from None
    if not engine.eof or engine.unused_data or len(plain) != entry.plain_bytes:
        raise ArtifactError(f"section {entry.name!r} does not unpack to its shape")
    return plain
