"""Header and codec together: device blocks to a value and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.codec.buffers import total_bytes
from stepwell.codec.contract import Buffer, Codec, CodecSpec, DecodeError, KeepExact
from stepwell.codec.header import LAYOUT_BYTES, HeaderFault, ValueHeader, header_bytes, parse


@dataclass(frozen=True, slots=True)
class EncodedValue:
    """Header and encoded parts. `kept_exact`: the codec would not take it. `views`: the parts are
    the caller's own memory."""

    parts: list[Buffer]
    kept_exact: bool
    views: bool


class ValueFormat:
    """One codec that writes, others that are read too, and one layout. Every method may be called
    from several threads."""

    def __init__(
        self,
        codec: Codec,
        *,
        layout: bytes,
        also: Sequence[Codec] = (),
        exact: Codec | None = None,
    ) -> None:
        """`layout`: 16 bytes, equal exactly when the decoded bytes mean the same. `also`: codecs
        of values that were written under other settings. `exact`: writes what must not go through
        a lossy `codec`, which needs one."""
        if (exact is None) != codec.spec.lossless or (exact and not exact.spec.lossless):
            raise ValueError("a lossy codec, and no other, needs an exact one beside it")
        if len(layout) != LAYOUT_BYTES:
            raise ValueError(f"a layout hash has {LAYOUT_BYTES} bytes, not {len(layout)}")
        self._codec = codec
        self._exact = exact or codec
        self._layout = layout
        self._readable = {other.spec.name: other for other in (*also, self._exact, codec)}
        self._specs = tuple(other.spec for other in self._readable.values())

    @property
    def spec(self) -> CodecSpec:
        """Of the codec that writes."""
        return self._codec.spec

    @property
    def mixed(self) -> bool:
        """Whether values of several codecs are read."""
        return len(self._specs) > 1

    def identity_size(self, parts: Sequence[Buffer]) -> int:
        """Bytes of the value of these parts under an identity codec."""
        return header_bytes(len(parts)) + total_bytes(parts)

    def encode(
        self, parts: Sequence[Buffer], *, index: int = 0, exact: bool = False
    ) -> EncodedValue:
        """The value of the chunk at place `index` of its chain."""
        codec = self._exact if exact else self._codec
        try:
            encoded = codec.encode(parts, index=index)
        except KeepExact:
            codec = self._exact
            encoded = codec.encode(parts, index=index)
        header = self._header(codec.spec, encoded, decoded=total_bytes(parts))
        kept = not exact and codec is not self._codec
        parts = [memoryview(header.build()), *encoded]
        return EncodedValue(parts, kept_exact=kept, views=codec.spec.identity)

    def takes(self, header: ValueHeader, *, exact: bool) -> bool:
        """Whether a value with this header is as `encode` would write it."""
        return header.codec == (self._exact if exact else self._codec).spec.name

    def header_for(self, out: Sequence[Buffer]) -> Buffer:
        """An empty header buffer of the right size, to read in front of `out` when the codec is
        an identity: decoding is then no more than `check`."""
        return memoryview(bytearray(header_bytes(len(out))))

    def check(self, header: Buffer, out: Sequence[Buffer]) -> HeaderFault | None:
        """None if `header`, read in front of `out`, says that `out` now holds the parts."""
        parsed = parse(header, specs=(self.spec,), layout=self._layout)
        if isinstance(parsed, HeaderFault):
            return parsed
        expected = self._header(self.spec, out, decoded=total_bytes(out))
        return None if parsed == expected else HeaderFault.SIZES

    def open(self, value: Buffer, *, decoded_size: int | None = None) -> ValueHeader | HeaderFault:
        """The header of a whole value (that decodes to so many bytes), or why it is refused."""
        header = parse(value, specs=self._specs, layout=self._layout)
        if isinstance(header, HeaderFault):
            return header
        whole = header.nbytes + sum(header.part_sizes) == len(value)
        fits = decoded_size is None or header.decoded_size == decoded_size
        return header if whole and fits else HeaderFault.SIZES

    def decode(self, value: Buffer, out: Sequence[Buffer]) -> HeaderFault | None:
        """Fill `out` from a whole value. `out` is touched only after the header has matched."""
        header = self.open(value, decoded_size=total_bytes(out))
        if isinstance(header, HeaderFault):
            return header
        parts, offset = [], header.nbytes
        for size in header.part_sizes:
            parts.append(value[offset : offset + size])
            offset += size
        try:
            self._readable[header.codec].decode(parts, out)
        except DecodeError:
            return HeaderFault.CONTENT
        return None

    def _header(self, spec: CodecSpec, encoded: Sequence[Buffer], *, decoded: int) -> ValueHeader:
        return ValueHeader(
            codec=spec.name,
            codec_version=spec.version,
            layout=self._layout,
            decoded_size=decoded,
            part_sizes=tuple(part.nbytes for part in encoded),
        )
