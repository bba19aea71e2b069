"""The compiled part: rows of 16-lane vectors. Numba knows no keyword-only arguments."""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.cast.base import LEAST_SCALE_BITS, Form
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.integers import load_uint16, store_int64, store_uint16
from stepwell.kernels.native.memory import literal, load_int64

# Fields of the int64 record whose address the kernel gets. LIMIT: bits of a float32.
ROWS, COUNT, DIM, CODES, SCALES, LIMIT, FINITE, FIELDS = range(8)

_A = types.int64
_BYTES = ir.VectorType(ir.IntType(8), v.LANES)
_HALF_BYTES = ir.VectorType(ir.IntType(8), v.LANES // 2)
_INFINITE = 0x7F800000
_TWO_TO_120 = 2.0**120


def code_of(builder: ir.IRBuilder, scaled: ir.Value, form: Form) -> ir.Value:
    """float32 lanes to 32-bit codes."""
    if form is not Form.FP8:
        return builder.fptosi(v.nearest(builder, scaled), v.INTEGERS)
    bits = builder.bitcast(scaled, v.INTEGERS)
    sign = builder.and_(builder.lshr(bits, v.integers(24)), v.integers(0x80))
    size = builder.and_(bits, v.integers(0x7FFFFFFF))
    # Above 2^-6: round the mantissa to 3 bits and move the exponent's zero from 127 to 7.
    odd = builder.and_(builder.lshr(size, v.integers(20)), v.integers(1))
    rounded = builder.add(builder.add(size, v.integers(0x7FFFF)), odd)
    normal = builder.sub(builder.lshr(rounded, v.integers(20)), v.integers(120 << 3))
    # Below: whole 2^-9ths, of which 8 are 2^-6 again.
    fixed = builder.fmul(builder.bitcast(size, v.VECTOR), v.constant(512.0))
    tiny = builder.fptosi(v.nearest(builder, fixed), v.INTEGERS)
    is_tiny = builder.icmp_unsigned("<", size, v.integers((127 - 6) << 23))
    # The compiler may convert lanes that are not chosen: what it makes of them is not looked at.
    return builder.or_(sign, builder.select(is_tiny, tiny, normal))


def _number(builder: ir.IRBuilder, code: ir.Value, form: Form) -> ir.Value:
    """8-bit codes in 32-bit lanes (any upper bits) to float32."""
    if form is not Form.FP8:
        shift = v.integers(24 if form is Form.INT8 else 28)
        signed = builder.ashr(builder.shl(code, shift), shift)
        return builder.sitofp(signed, v.VECTOR)
    sign = builder.shl(builder.and_(code, v.integers(0x80)), v.integers(24))
    size = builder.shl(builder.and_(code, v.integers(0x7F)), v.integers(20))
    number = builder.fmul(builder.bitcast(size, v.VECTOR), v.constant(_TWO_TO_120))
    return builder.bitcast(builder.or_(builder.bitcast(number, v.INTEGERS), sign), v.VECTOR)


def _shuffled(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, order: list[int]) -> ir.Value:
    mask = ir.Constant(ir.VectorType(v.I32, len(order)), order)
    return builder.shuffle_vector(left, right, mask)


def _store_codes(builder: ir.IRBuilder, code: ir.Value, address: ir.Value, form: Form) -> None:
    narrow = builder.trunc(code, _BYTES)
    if form is Form.INT4:
        even = _shuffled(builder, narrow, narrow, list(range(0, v.LANES, 2)))
        odd = _shuffled(builder, narrow, narrow, list(range(1, v.LANES, 2)))
        low = builder.and_(even, ir.Constant(_HALF_BYTES, [15] * (v.LANES // 2)))
        four = ir.Constant(_HALF_BYTES, [4] * (v.LANES // 2))
        narrow = builder.or_(low, builder.shl(odd, four))
    builder.store(narrow, v.pointer(builder, address, narrow.type), align=1)


def _load_codes(builder: ir.IRBuilder, address: ir.Value, form: Form) -> ir.Value:
    if form is not Form.INT4:
        return builder.zext(builder.load(v.pointer(builder, address, _BYTES), align=1), v.INTEGERS)
    pairs = builder.load(v.pointer(builder, address, _HALF_BYTES), align=1)
    high = builder.lshr(pairs, ir.Constant(_HALF_BYTES, [4] * (v.LANES // 2)))
    half = v.LANES // 2
    order = [lane // 2 + half * (lane % 2) for lane in range(v.LANES)]
    return builder.zext(_shuffled(builder, pairs, high, order), v.INTEGERS)


def _columns(builder: ir.IRBuilder, dim: ir.Value) -> Any:
    zero, step = ir.Constant(v.I64, 0), ir.Constant(v.I64, v.LANES)
    return cgutils.for_range_slice(builder, zero, dim, step, inc=True)


def _place(builder: ir.IRBuilder, base: ir.Value, column: ir.Value, kind: int) -> ir.Value:
    size = ir.Constant(v.I64, v.ELEMENT_BYTES[kind])
    return builder.add(base, builder.mul(column, size))


def _code_place(builder: ir.IRBuilder, base: ir.Value, column: ir.Value, form: Form) -> ir.Value:
    half = ir.Constant(v.I64, 1 if form is Form.INT4 else 0)
    return builder.add(base, builder.lshr(column, half))


@intrinsic(prefer_literal=True)
def scale_bits(_typing: Any, row: Any, dim: Any, kind: Any, form: Any) -> Any:
    """The scale's 16 bits, or -1 where the row holds nan or an infinity."""
    stored, shape = literal(kind), Form(literal(form))

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        peak = cgutils.alloca_once_value(builder, v.integers(0))
        with _columns(builder, args[1]) as (column, _):
            value = v.load(builder, _place(builder, args[0], column, stored), kind=stored)
            bits = builder.and_(builder.bitcast(value, v.INTEGERS), v.integers(0x7FFFFFFF))
            old = builder.load(peak)
            more = builder.icmp_signed(">", bits, old)
            builder.store(builder.select(more, bits, old), peak)
        # Numbers compare as their bits do, and nan above all.
        name = f"llvm.vector.reduce.umax.v{v.LANES}i32"
        reduce = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(v.I32, [v.INTEGERS]), name
        )
        bits = builder.call(reduce, [builder.load(peak)])
        share = builder.fdiv(builder.bitcast(bits, v.F32), ir.Constant(v.F32, shape.largest))
        up = builder.add(builder.bitcast(share, v.I32), ir.Constant(v.I32, 0xFFFF))
        up = builder.lshr(up, ir.Constant(v.I32, 16))
        least = ir.Constant(v.I32, LEAST_SCALE_BITS)
        up = builder.select(builder.icmp_signed("<", up, least), least, up)
        finite = builder.icmp_signed("<", bits, ir.Constant(v.I32, _INFINITE))
        up = builder.select(finite, up, ir.Constant(v.I32, -1))
        return builder.sext(up, v.I64)

    return types.int64(_A, _A, kind, form), generate


def scale_of(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """float32 from the bits of a bfloat16."""
    wide = builder.shl(builder.trunc(bits, v.I32), ir.Constant(v.I32, 16))
    return builder.bitcast(wide, v.F32)


@intrinsic(prefer_literal=True)
def _narrow_row(
    _typing: Any, row: Any, codes: Any, dim: Any, scale: Any, kind: Any, form: Any
) -> Any:
    """codes[i] = row[i] / scale."""
    stored, shape = literal(kind), Form(literal(form))

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        row, codes, dim, scale = args[:4]
        one = ir.Constant(v.F32, 1.0)
        inverse = v.splat(builder, builder.fdiv(one, scale_of(builder, scale)))
        with _columns(builder, dim) as (column, _):
            value = v.load(builder, _place(builder, row, column, stored), kind=stored)
            code = code_of(builder, builder.fmul(value, inverse), shape)
            _store_codes(builder, code, _code_place(builder, codes, column, shape), shape)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, _A, kind, form), generate


@intrinsic(prefer_literal=True)
def _widen_row(
    _typing: Any, codes: Any, row: Any, dim: Any, scale: Any, limit: Any, kind: Any, form: Any
) -> Any:
    """row[i] = codes[i] * scale, within +-limit (bits of a float32)."""
    stored, shape = literal(kind), Form(literal(form))

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        codes, row, dim, scale, limit = args[:5]
        factor = v.splat(builder, scale_of(builder, scale))
        most = v.splat(builder, builder.bitcast(builder.trunc(limit, v.I32), v.F32))
        least = builder.fneg(most)
        with _columns(builder, dim) as (column, _):
            code = _load_codes(builder, _code_place(builder, codes, column, shape), shape)
            value = builder.fmul(_number(builder, code, shape), factor)
            value = v.largest(builder, value, least)
            over = builder.fcmp_ordered(">", value, most)
            value = builder.select(over, most, value)
            v.store(builder, value, _place(builder, row, column, stored), kind=stored)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, _A, _A, kind, form), generate


@cache
def narrow_kernel(kind: int, form: int) -> Any:
    """The machine code of narrowing rows of this kind; ends at the first row that is not finite."""
    item, per_byte = v.ELEMENT_BYTES[kind], 2 if form == Form.INT4 else 1

    def kernel(args):
        row, dim = load_int64(args, ROWS), load_int64(args, DIM)
        codes = load_int64(args, CODES)
        for index in range(load_int64(args, COUNT)):
            bits = scale_bits(row, dim, kind, form)
            if bits < 0:
                store_int64(args, FINITE, 0)
                return
            store_uint16(load_int64(args, SCALES), index, bits)
            _narrow_row(row, codes, dim, bits, kind, form)
            row += dim * item
            codes += dim // per_byte

    return compile_kernel(kernel)


@cache
def widen_kernel(kind: int, form: int) -> Any:
    """The machine code of the way back."""
    item, per_byte = v.ELEMENT_BYTES[kind], 2 if form == Form.INT4 else 1

    def kernel(args):
        row, dim = load_int64(args, ROWS), load_int64(args, DIM)
        codes, limit = load_int64(args, CODES), load_int64(args, LIMIT)
        for index in range(load_int64(args, COUNT)):
            bits = load_uint16(load_int64(args, SCALES), index)
            _widen_row(codes, row, dim, bits, limit, kind, form)
            row += dim * item
            codes += dim // per_byte

    return compile_kernel(kernel)
