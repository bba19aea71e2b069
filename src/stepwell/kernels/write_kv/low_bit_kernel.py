"""The compiled part of writing into a low-bit pool: rows to levels and scales.

The arithmetic is that of `kernels/cast`, the layout that of `paged_attention/low_bit`. One token's
levels lie apart (beside those of its neighbours), so they are stored by fours (K) and by ones (V).
Numba knows no keyword-only arguments.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from stepwell.kernels.cast.base import Form
from stepwell.kernels.cast.cpu_kernel import code_of, scale_bits, scale_of
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.integers import store_uint16
from stepwell.kernels.native.memory import add_int64, literal, load_int64, take
from stepwell.kernels.paged_attention.base import KVFormat
from stepwell.kernels.paged_attention.low_bit import (
    INT4_GROUP,
    QUAD,
    TOKENS,
    LowBitShape,
    groups_of,
)

TASK_TOKENS = 64

# Fields of the int64 record whose address the kernel gets.
NEXT, COUNT, SLOTS, HEADS, BLOCK_SIZE, BLOCKS, OUTSIDE = range(7)
KEY, KEY_TOKEN_STRIDE, KEY_HEAD_STRIDE, VALUE, VALUE_TOKEN_STRIDE, VALUE_HEAD_STRIDE = range(7, 13)
POOL, BLOCK_STRIDE, FIELDS = range(13, 16)

_A = types.int64
_NAN_BITS = 0x7FC0
_BYTE = ir.IntType(8)
_BYTES = ir.VectorType(_BYTE, v.LANES)


def _levels(
    builder: ir.IRBuilder, row: ir.Value, scale: ir.Value, at: int, kind: int, form: Form
) -> ir.Value:
    """Stored levels of the 16 numbers from `at` on, as 32-bit lanes."""
    value = v.load(builder, v.offset(builder, row, at * v.ELEMENT_BYTES[kind]), kind=kind)
    one = ir.Constant(v.F32, 1.0)
    inverse = v.splat(builder, builder.fdiv(one, scale_of(builder, scale)))
    code = code_of(builder, builder.fmul(value, inverse), form)
    return builder.add(code, v.integers(int(form.largest) + 1))


def _paired(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """Two vectors of levels in the halves of one vector of bytes."""
    shift = ir.Constant(low.type, [4] * low.type.count)
    return builder.or_(low, builder.shl(high, shift))


@intrinsic(prefer_literal=True)
def _store_keys(
    _typing: Any, row: Any, target: Any, scale: Any, dim: Any, kind: Any, form: Any
) -> Any:
    """`dim` numbers of one token's key: four dims together, tokens of a tile between them."""
    size, stored, shape = literal(dim), literal(kind), Form(literal(form))

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        row, target, scale = args[:3]
        for at in range(0, size, v.LANES):
            levels = _levels(builder, row, scale, at, stored, shape)
            narrow = builder.trunc(levels, _BYTES)
            first = at // QUAD
            if shape is Form.INT4:
                quads = [list(range(i, i + QUAD)) for i in range(0, v.LANES, QUAD)]
                low, high = (
                    builder.shuffle_vector(
                        narrow, narrow, ir.Constant(ir.VectorType(v.I32, 8), order)
                    )
                    for order in (quads[0] + quads[2], quads[1] + quads[3])
                )
                narrow, first = _paired(builder, low, high), first // 2
            words = ir.VectorType(v.I32, narrow.type.count // QUAD)
            whole = builder.bitcast(narrow, words)
            for word in range(words.count):
                value = builder.extract_element(whole, ir.Constant(v.I32, word))
                place = v.offset(builder, target, (first + word) * TOKENS * QUAD)
                builder.store(value, v.pointer(builder, place, v.I32), align=4)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, dim, kind, form), generate


@intrinsic(prefer_literal=True)
def _store_values(
    _typing: Any, row: Any, target: Any, scale: Any, dim: Any, kind: Any, form: Any
) -> Any:
    """`dim` numbers of one token's value: tokens together, so each byte is four from the next."""
    size, stored, shape = literal(dim), literal(kind), Form(literal(form))
    step = INT4_GROUP if shape is Form.INT4 else v.LANES

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        row, target, scale = args[:3]
        for number, at in enumerate(range(0, size, step)):
            narrow = builder.trunc(_levels(builder, row, scale, at, stored, shape), _BYTES)
            if shape is Form.INT4:
                other = _levels(builder, row, scale, at + v.LANES, stored, shape)
                narrow = _paired(builder, narrow, builder.trunc(other, _BYTES))
            for lane in range(v.LANES):
                value = builder.extract_element(narrow, ir.Constant(v.I32, lane))
                place = v.offset(builder, target, (number * v.LANES + lane) * QUAD)
                builder.store(value, v.pointer(builder, place, _BYTE), align=1)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, dim, kind, form), generate


@njit(inline="always", error_model="numpy")
def _write_key(row, tile, scales, token, dim, group, kind, item, form, per_byte):
    """One token's key into its tile. A group that is not finite gets the scale nan, no levels."""
    for number in range(dim // group):
        bits = scale_bits(row, group, kind, form)
        store_uint16(scales, number * TOKENS + token, _NAN_BITS if bits < 0 else bits)
        if bits >= 0:
            _store_keys(row, tile + token * QUAD, bits, group, kind, form)
        row += group * item
        tile += group // per_byte * TOKENS


@njit(inline="always", error_model="numpy")
def _write_value(row, tile, scales, token, dim, group, kind, item, form, per_byte):
    """The same for its value."""
    tile += token // QUAD * QUAD * (dim // per_byte) + token % QUAD
    for number in range(dim // group):
        bits = scale_bits(row, group, kind, form)
        store_uint16(scales, number * TOKENS + token, _NAN_BITS if bits < 0 else bits)
        if bits >= 0:
            _store_values(row, tile, bits, group, kind, form)
        row += group * item
        tile += group // per_byte * QUAD


@cache
def compiled_kernel(kind: int, form: int, key_dim: int, value_dim: int) -> Any:
    """The machine code for rows of this kind (`native/vector`) and levels of this form (`Form`)."""
    kv_format = KVFormat.INT4 if form == Form.INT4 else KVFormat.INT8
    per_byte = 2 if form == Form.INT4 else 1
    key_group = key_dim // groups_of(kv_format, key_dim)
    value_group = value_dim // groups_of(kv_format, value_dim)
    key_bytes, value_bytes = TOKENS * key_dim // per_byte, TOKENS * value_dim // per_byte
    shape = LowBitShape(
        form=kv_format, kv_heads=1, key_dim=key_dim, value_dim=value_dim, block_size=TOKENS
    )
    tile_bytes = shape.tile_bytes
    item = v.ELEMENT_BYTES[kind]
    value_scales = 2 * TOKENS * (key_dim // key_group)

    def kernel(args):
        tokens, heads = load_int64(args, COUNT), load_int64(args, HEADS)
        size = load_int64(args, BLOCK_SIZE)
        while True:
            first = take(args, NEXT) * TASK_TOKENS
            if first >= tokens:
                break
            for token in range(first, min(tokens, first + TASK_TOKENS)):
                slot = load_int64(load_int64(args, SLOTS), token)
                if slot < 0 or slot >= load_int64(args, BLOCKS) * size:
                    add_int64(args, OUTSIDE, 1)
                    continue
                tile = load_int64(args, POOL) + slot // size * load_int64(args, BLOCK_STRIDE)
                tile += slot % size // TOKENS * tile_bytes
                key = load_int64(args, KEY) + token * load_int64(args, KEY_TOKEN_STRIDE)
                value = load_int64(args, VALUE) + token * load_int64(args, VALUE_TOKEN_STRIDE)
                for _ in range(heads):
                    scales = tile + key_bytes + value_bytes
                    _write_key(
                        key, tile, scales, slot % TOKENS,
                        key_dim, key_group, kind, item, form, per_byte,
                    )  # fmt: skip
                    _write_value(
                        value, tile + key_bytes, scales + value_scales, slot % TOKENS,
                        value_dim, value_group, kind, item, form, per_byte,
                    )  # fmt: skip
                    tile += size // TOKENS * tile_bytes
                    key += load_int64(args, KEY_HEAD_STRIDE)
                    value += load_int64(args, VALUE_HEAD_STRIDE)

    return compile_kernel(kernel)
