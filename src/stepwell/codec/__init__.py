"""Chunks of K,V as bytes: codecs, and the header that says how to read a value back.

    contract  what a codec is
    raw       bytes as they are
    lossless  exact and smaller: exponents through rANS
    cast      lossy and cheap: fp8, int8, int4 with a scale for each head of each token
    shape     what the numbers of a block are
    registry  codecs by name
    header    the versioned header at the start of every value
    value     header and codec together: buffers -> value, value -> buffers
    buffers   copying between lists of buffers

Owns: what the bytes of a value mean. Does not own: where they lie, their checksum (the tiers),
threads and deadlines (the mover). A value that this process cannot decode exactly is refused with
a reason, never guessed at.
"""

from __future__ import annotations

from stepwell.codec.contract import Codec, CodecSpec
from stepwell.codec.header import LAYOUT_BYTES, HeaderFault, ValueHeader
from stepwell.codec.raw import RawCodec
from stepwell.codec.value import ValueFormat

__all__ = [
    "LAYOUT_BYTES",
    "Codec",
    "CodecSpec",
    "HeaderFault",
    "RawCodec",
    "ValueFormat",
    "ValueHeader",
]
