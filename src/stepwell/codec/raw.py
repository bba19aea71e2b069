"""The codec that leaves bytes as they are."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.codec.buffers import copy_parts, total_bytes
from stepwell.codec.contract import Buffer, CodecSpec, DecodeError

_SPEC = CodecSpec(name="raw", version=1, lossless=True, identity=True)


class RawCodec:
    """Bytes in, the same bytes out."""

    @property
    def spec(self) -> CodecSpec:
        """raw, lossless, identity."""
        return _SPEC

    def encode(self, parts: Sequence[Buffer], *, index: int = 0) -> Sequence[Buffer]:
        """The parts themselves."""
        return parts

    def decode(self, parts: Sequence[Buffer], out: Sequence[Buffer]) -> None:
        """Copy. Raises DecodeError if the sizes differ."""
        if total_bytes(parts) != total_bytes(out):
            raise DecodeError(f"{total_bytes(parts)} bytes do not fill {total_bytes(out)}")
        copy_parts(source=parts, target=out)
