"""What a codec is: device blocks to the bytes of a value, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Buffer = memoryview
MAX_NAME_BYTES = 8


class KeepExact(Exception):
    """A lossy codec will not take this chunk: its error would exceed the limit."""


class DecodeError(Exception):
    """The encoded bytes are whole but are not what this codec writes for these buffers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """`name`: at most 8 ASCII characters. `version`: changes whenever old bytes would decode
    otherwise. `lossless`: what comes out is what went in, bit for bit. `identity`: the encoded
    parts *are* the parts, so a tier may read straight into the destination."""

    name: str
    version: int
    lossless: bool
    identity: bool = False


class Codec(Protocol):
    """Called from mover threads, several at a time: implementations keep no state between calls.

    All buffers are flat, contiguous views of bytes.
    """

    @property
    def spec(self) -> CodecSpec:
        """Who this is; goes into the header of every value."""
        ...

    def encode(self, parts: Sequence[Buffer], *, index: int = 0) -> Sequence[Buffer]:
        """The encoded parts of the chunk at place `index` of its chain. Only an `identity` codec
        may return views of its input. A lossy one may raise KeepExact."""
        ...

    def decode(self, parts: Sequence[Buffer], out: Sequence[Buffer]) -> None:
        """Fill `out` completely from what `encode` gave.

        Raises DecodeError; `out` then holds garbage.
        """
        ...
