"""The coder's inner loops on rows of 32 symbols: two vectors of 16 lanes, for AVX-512 with VBMI2.

Table entries are gathered, states advance lane by lane, and the words of the lanes that need one
are packed or spread in lane order, which is the order of `base`. LLVM could lower all this for
any CPU, but into something slower than the plain loop: `available` says where it is worth it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from stepwell.kernels.entropy.base import FULL_LANES, PRECISION, TOTAL
from stepwell.kernels.native.vector import I32, I64, INTEGERS, LANES, VECTOR, integers, splat

_GROUPS = FULL_LANES // LANES
_NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi2")
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_SHORTS = ir.VectorType(ir.IntType(16), LANES)
_FLAGS = ir.VectorType(ir.IntType(1), LANES)
_POINTER = ir.PointerType(ir.IntType(8))
_LOW = TOTAL - 1
_A = types.int64


@cache
def available() -> bool:
    """Whether this CPU has the instructions."""
    if llvmlite.binding.get_default_triple().split("-")[0] not in ("x86_64", "amd64"):
        return False
    features = llvmlite.binding.get_host_cpu_features()
    return all(features.get(name, False) for name in _NEEDED)


def _pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, ir.PointerType(kind))


def _plus(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, size: int) -> ir.Value:
    return builder.add(address, builder.mul(index, ir.Constant(I64, size)))


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    """Call an LLVM intrinsic by its full name."""
    kind = ir.FunctionType(result, [value.type for value in arguments])
    known = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(known, arguments)


def _gather(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    """uint32 at base[index] for 16 lanes."""
    nothing, every = ir.Constant(INTEGERS, ir.Undefined), ir.Constant(_FLAGS, [1] * LANES)
    arguments = [nothing, base, index, every, ir.Constant(I32, 4)]
    return _call(builder, "llvm.x86.avx512.mask.gather.dpi.512", INTEGERS, arguments)


def _count(builder: ir.IRBuilder, flags: ir.Value) -> ir.Value:
    """How many lanes are set, as int64."""
    bits = builder.bitcast(flags, ir.IntType(16))
    return builder.zext(_call(builder, "llvm.ctpop.i16", ir.IntType(16), [bits]), I64)


def _widened(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    """16 small integers at any alignment, as 32-bit lanes."""
    return builder.zext(builder.load(_pointer(builder, address, kind), align=1), INTEGERS)


def _states(builder: ir.IRBuilder, address: ir.Value) -> list[ir.Value]:
    """Where the states lie, one vector after another."""
    return [
        _pointer(builder, builder.add(address, ir.Constant(I64, 4 * LANES * group)), INTEGERS)
        for group in range(_GROUPS)
    ]


def _decode_step(
    builder: ir.IRBuilder, x: ir.Value, context: ir.Value, table: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(state before renormalising, symbols, lanes that need a word)."""
    slot = builder.and_(x, integers(_LOW))
    index = builder.or_(builder.shl(context, integers(PRECISION)), slot)
    entry = _gather(builder, table, index)
    symbols = builder.trunc(builder.lshr(entry, integers(24)), _BYTES)
    frequency = builder.and_(builder.lshr(entry, integers(PRECISION)), integers(_LOW))
    frequency = builder.add(frequency, integers(1))
    x = builder.mul(frequency, builder.lshr(x, integers(PRECISION)))
    x = builder.add(x, builder.and_(entry, integers(_LOW)))
    return x, symbols, builder.icmp_unsigned("<", x, integers(1 << 16))


def _refill(builder: ir.IRBuilder, x: ir.Value, needs: ir.Value, address: ir.Value) -> ir.Value:
    """Shift the next words into the lanes that need one."""
    nothing = ir.Constant(_SHORTS, [0] * LANES)
    pointer = builder.inttoptr(address, _POINTER)
    name = f"llvm.masked.expandload.v{LANES}i16"
    words = _call(builder, name, _SHORTS, [pointer, needs, nothing])
    shifted = builder.shl(x, integers(16))
    return builder.select(needs, builder.or_(shifted, builder.zext(words, INTEGERS)), x)


def _encode_step(
    builder: ir.IRBuilder, x: ir.Value, entry: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(state after, low words before, lanes whose word goes out).

    x div f through float32: x < f * 2^20, so the quotient is below 2^20 and off by one at most
    (three roundings of 2^-24 each), which the remainder shows.
    """
    less_one = builder.and_(entry, integers(_LOW))
    frequency = builder.add(less_one, integers(1))
    goes = builder.icmp_unsigned(">", builder.lshr(x, integers(20)), less_one)
    words = builder.trunc(x, _SHORTS)
    x = builder.select(goes, builder.lshr(x, integers(16)), x)
    ratio = builder.fdiv(builder.uitofp(x, VECTOR), builder.sitofp(frequency, VECTOR))
    whole = builder.fptosi(ratio, INTEGERS)
    rest = builder.sub(x, builder.mul(whole, frequency))
    under = builder.icmp_signed("<", rest, integers(0))
    whole = builder.select(under, builder.sub(whole, integers(1)), whole)
    rest = builder.select(under, builder.add(rest, frequency), rest)
    over = builder.icmp_signed(">", rest, less_one)
    whole = builder.select(over, builder.add(whole, integers(1)), whole)
    rest = builder.select(over, builder.sub(rest, frequency), rest)
    start = builder.lshr(entry, integers(PRECISION))
    x = builder.add(builder.shl(whole, integers(PRECISION)), builder.add(start, rest))
    # a symbol that is certain leaves the state alone; its f * 2^20 would not fit the comparison
    return x, words, goes


def _put_words(
    builder: ir.IRBuilder, words: ir.Value, goes: ir.Value, address: ir.Value, count: ir.Value
) -> None:
    """Write the words of the lanes that are set side by side at `address`, and nothing else.

    Packed in a register first: packing straight into memory is microcoded on some CPUs.
    """
    nothing = ir.Constant(_SHORTS, [0] * LANES)
    name = f"llvm.x86.avx512.mask.compress.v{LANES}i16"
    packed = _call(builder, name, _SHORTS, [words, nothing, goes])
    order = ir.Constant(_SHORTS, list(range(LANES)))
    kind = ir.IntType(16)
    limit = _splat_short(builder, builder.trunc(count, kind))
    mask = builder.icmp_unsigned("<", order, limit)
    pointer = builder.inttoptr(address, _POINTER)
    arguments = [packed, pointer, ir.Constant(I32, 1), mask]
    _call(builder, f"llvm.masked.store.v{LANES}i16.p0", ir.VoidType(), arguments)


def _splat_short(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    nothing = ir.Constant(_SHORTS, ir.Undefined)
    one = builder.insert_element(nothing, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, nothing, integers(0))


def _group(builder: ir.IRBuilder, index: ir.Value, group: int) -> ir.Value:
    return builder.add(index, ir.Constant(I64, group * LANES))


@intrinsic
def decode_rows(
    _typing: Any, words: Any, capacity: Any, states: Any, wide: Any, period: Any, symbols: Any,
    count: Any, table: Any,
) -> Any:  # fmt: skip
    """Decode `count` symbols, a positive multiple of 32, from their start; returns the words read,
    or -1 - i where they run out in the row that begins at i. Arguments as in the record of
    `cpu_kernel`."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        words, capacity, states, wide, period, symbols, count, table = args
        places = _states(builder, states)
        base = builder.inttoptr(table, _POINTER)
        before = builder.block
        body, fits, done = (builder.append_basic_block(name) for name in ("row", "fits", "done"))
        first = [builder.load(place, align=4) for place in places]
        builder.branch(body)

        builder.position_at_end(body)
        i, at, place = (builder.phi(I64) for _ in range(3))
        olds = [builder.phi(INTEGERS) for _ in places]
        steps, total = [], place
        for group, x in enumerate(olds):
            row = _plus(builder, wide, _group(builder, at, group), 2)
            x, found, needs = _decode_step(builder, x, _widened(builder, row, _SHORTS), base)
            target = builder.add(symbols, _group(builder, i, group))
            builder.store(found, _pointer(builder, target, _BYTES), align=1)
            steps.append((x, needs, total))
            total = builder.add(total, _count(builder, needs))
        inside = builder.icmp_signed("<=", total, capacity)
        short = builder.not_(i)
        builder.cbranch(inside, fits, done)

        builder.position_at_end(fits)
        news = [_refill(builder, x, f, _plus(builder, words, p, 2)) for x, f, p in steps]
        for x, target in zip(news, places, strict=True):
            builder.store(x, target, align=4)
        next_i = builder.add(i, ir.Constant(I64, FULL_LANES))
        next_at = builder.add(at, ir.Constant(I64, FULL_LANES))
        wraps = builder.icmp_signed(">=", next_at, period)
        next_at = builder.select(wraps, builder.sub(next_at, period), next_at)
        builder.cbranch(builder.icmp_signed("<", next_i, count), body, done)

        zero = ir.Constant(I64, 0)
        for phi, start, later in (
            (i, zero, next_i), (at, zero, next_at), (place, zero, total),
            *zip(olds, first, news, strict=True),
        ):  # fmt: skip
            phi.add_incoming(start, before)
            phi.add_incoming(later, fits)
        builder.position_at_end(done)
        result = builder.phi(I64)
        result.add_incoming(short, body)
        result.add_incoming(total, fits)
        return result

    return _A(_A, _A, _A, _A, _A, _A, _A, _A), generate


@intrinsic
def encode_rows(
    _typing: Any, words: Any, place: Any, states: Any, wide: Any, period: Any, symbols: Any,
    count: Any, table: Any, stride: Any,
) -> Any:  # fmt: skip
    """Encode the first `count` symbols, a positive multiple of 32, from the last to the first,
    writing words downwards from `place`; returns where they begin."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        words, place, states, wide, period, symbols, count, table, stride = args
        places = _states(builder, states)
        base = builder.inttoptr(table, _POINTER)
        strides = splat(builder, builder.trunc(stride, I32))
        row = ir.Constant(I64, FULL_LANES)
        before = builder.block
        body, done = (builder.append_basic_block(name) for name in ("row", "done"))
        first = [builder.load(target, align=4) for target in places]
        last_i = builder.sub(count, row)
        last_at = builder.srem(last_i, period)
        builder.branch(body)

        builder.position_at_end(body)
        i, at, end = (builder.phi(I64) for _ in range(3))
        olds = [builder.phi(INTEGERS) for _ in places]
        news: list[ir.Value] = []
        begin: ir.Value = end
        for group, x in reversed(list(enumerate(olds))):
            context = _widened(
                builder, _plus(builder, wide, _group(builder, at, group), 2), _SHORTS
            )
            source = builder.add(symbols, _group(builder, i, group))
            index = builder.add(builder.mul(context, strides), _widened(builder, source, _BYTES))
            x, low, goes = _encode_step(builder, x, _gather(builder, base, index))
            number = _count(builder, goes)
            begin = builder.sub(begin, number)
            _put_words(builder, low, goes, _plus(builder, words, begin, 2), number)
            news.insert(0, x)
        for x, target in zip(news, places, strict=True):
            builder.store(x, target, align=4)
        next_i = builder.sub(i, row)
        next_at = builder.sub(at, row)
        wraps = builder.icmp_signed("<", next_at, ir.Constant(I64, 0))
        next_at = builder.select(wraps, builder.add(next_at, period), next_at)
        builder.cbranch(builder.icmp_signed(">=", next_i, ir.Constant(I64, 0)), body, done)
        for phi, start, later in (
            (i, last_i, next_i), (at, last_at, next_at), (end, place, begin),
            *zip(olds, first, news, strict=True),
        ):  # fmt: skip
            phi.add_incoming(start, before)
            phi.add_incoming(later, body)
        builder.position_at_end(done)
        return begin

    return _A(_A, _A, _A, _A, _A, _A, _A, _A, _A), generate
