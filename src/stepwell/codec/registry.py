"""Codecs by name.

A codec is made for one shape of block: `make_codec("int8", shape=shape)`. Codecs that need more
than a shape (a calibration artifact, say) are made by their own packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.codec.cast import CastCodec
from stepwell.codec.contract import Codec
from stepwell.codec.lossless import LosslessCodec
from stepwell.codec.raw import RawCodec
from stepwell.codec.shape import BlockShape
from stepwell.kernels.cast import Form

Factory = Callable[[BlockShape], Codec]


def _raw(shape: BlockShape) -> Codec:
    return RawCodec()


def _lossless(shape: BlockShape) -> Codec:
    return LosslessCodec(shape.dtype, shape=shape)


def _cast(form: Form) -> Factory:
    return lambda shape: CastCodec(form, shape=shape)


CODECS: Mapping[str, Factory] = MappingProxyType(
    {
        "raw": _raw,
        "lossless": _lossless,
        "fp8": _cast(Form.FP8),
        "int8": _cast(Form.INT8),
        "int4": _cast(Form.INT4),
    }
)


def make_codec(name: str, *, shape: BlockShape) -> Codec:
    """The codec of this name for blocks of this shape.

    ConfigError for an unknown name, or a dtype that the codec does not take.
    """
    if name not in CODECS:
        message, hint = unknown_name("codec", name, CODECS)
        raise ConfigError(message, hint=hint, param="codec")
    try:
        return CODECS[name](shape)
    except ValueError as error:
        message = f"codec {name}: {error}."
        raise ConfigError(message, hint="`raw` takes every dtype.", param="codec") from None


def warm_codec(codec: Codec, *, shape: BlockShape) -> None:
    """Compile what the codec needs, by taking a block of zeros through it: some seconds the first
    time on a machine. Before serving, so that no mover thread waits for a compiler."""
    block = [memoryview(bytearray(shape.nbytes))]
    codec.decode(codec.encode(block), block)
