"""Numba intrinsics for small integers at plain addresses; everything widens to int64.

Beside `memory`: what byte-level codecs read and write. Little-endian machines only, as the rest.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_I64 = ir.IntType(64)


def _place(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, bits: int) -> ir.Value:
    kind = ir.PointerType(ir.IntType(bits))
    return builder.gep(builder.inttoptr(base, kind), [index])


def _loader(bits: int, what: str) -> Any:
    def load(_typing: Any, base: Any, index: Any) -> Any:
        def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
            value = builder.load(_place(builder, args[0], args[1], bits), align=1)
            return builder.zext(value, _I64)

        return types.int64(types.int64, types.int64), generate

    load.__name__ = f"load_{what}"
    load.__doc__ = f"The index-th {what} at base, any alignment, as int64."
    return intrinsic(load)


def _storer(bits: int, what: str) -> Any:
    def store(_typing: Any, base: Any, index: Any, value: Any) -> Any:
        def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
            narrow = builder.trunc(args[2], ir.IntType(bits))
            builder.store(narrow, _place(builder, args[0], args[1], bits), align=1)
            return ir.Constant(_I64, 0)

        return types.int64(types.int64, types.int64, types.int64), generate

    store.__name__ = f"store_{what}"
    store.__doc__ = f"Write the low {bits} bits as the index-th {what} at base, any alignment."
    return intrinsic(store)


load_uint8, store_uint8 = _loader(8, "uint8"), _storer(8, "uint8")
load_uint16, store_uint16 = _loader(16, "uint16"), _storer(16, "uint16")
load_uint32, store_uint32 = _loader(32, "uint32"), _storer(32, "uint32")


@intrinsic
def store_int64(_typing: Any, base: Any, index: Any, value: Any) -> Any:
    """Write the index-th int64 at base."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        builder.store(args[2], _place(builder, args[0], args[1], 64), align=8)
        return ir.Constant(_I64, 0)

    return types.int64(types.int64, types.int64, types.int64), generate
