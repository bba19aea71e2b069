"""Vectors of 16 float32 lanes in LLVM: what the inner tiles of the CPU kernels are written with.

LLVM lowers such a vector to one AVX-512 register, two AVX2 or four NEON ones. Tiles are unrolled
for sizes known while compiling, so that their sums stay in registers; LLVM's own loop vectorizer
needs several times as long for the same work, since it reduces across lanes once per dot product
and keeps the sums in memory.

Owns no memory: every address is the caller's (bytes, any alignment of the element).
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, log

from llvmlite import ir

LANES = 16
F32 = ir.FloatType()
I32 = ir.IntType(32)
I64 = ir.IntType(64)
VECTOR = ir.VectorType(F32, LANES)
Join = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]
INTEGERS = ir.VectorType(I32, LANES)
FAST = ("reassoc", "contract", "nsz")  # nothing that assumes away inf or nan

# How an element is stored. The numbers are compiled into kernels and into their cache keys.
FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
ELEMENT_BYTES = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2}

_EXP_DEGREE = 7  # Taylor on |r| <= log(2)/2: the rest is below 6e-9, a tenth of a float32 ulp
_LOG2_HIGH = 0.693359375  # exact in 10 bits, so n * high is exact
_LOG2_LOW = log(2.0) - _LOG2_HIGH
_EXP_RANGE = (-87.0, 88.0)  # keeps 2**n a normal float32; e**-87 is 0 for a softmax


def pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, ir.PointerType(kind))


def offset(builder: ir.IRBuilder, address: ir.Value, count: int) -> ir.Value:
    return builder.add(address, ir.Constant(I64, count)) if count else address


def constant(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [value] * LANES)


def integers(value: int) -> ir.Constant:
    return ir.Constant(INTEGERS, [value] * LANES)


def splat(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    """The scalar in every lane."""
    kind = ir.VectorType(scalar.type, LANES)
    nothing = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(nothing, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, nothing, integers(0))


def load(builder: ir.IRBuilder, address: ir.Value, *, kind: int = FLOAT32) -> ir.Value:
    """16 stored elements, widened to float32 lanes (exact for every kind)."""
    if kind == FLOAT32:
        return builder.load(pointer(builder, address, VECTOR), align=4)
    if kind == FLOAT16:
        half = ir.VectorType(ir.HalfType(), LANES)
        return builder.fpext(builder.load(pointer(builder, address, half), align=2), VECTOR)
    short = ir.VectorType(ir.IntType(16), LANES)
    bits = builder.zext(builder.load(pointer(builder, address, short), align=2), INTEGERS)
    return builder.bitcast(builder.shl(bits, integers(16)), VECTOR)


def store(
    builder: ir.IRBuilder, value: ir.Value, address: ir.Value, *, kind: int = FLOAT32
) -> None:
    """Write 16 lanes as stored elements, rounded to nearest even where the kind is narrower."""
    if kind == FLOAT32:
        builder.store(value, pointer(builder, address, VECTOR), align=4)
        return
    if kind == FLOAT16:
        half = builder.fptrunc(value, ir.VectorType(ir.HalfType(), LANES))
        builder.store(half, pointer(builder, address, half.type), align=2)
        return
    bits = builder.bitcast(value, INTEGERS)
    odd = builder.and_(builder.lshr(bits, integers(16)), integers(1))
    rounded = builder.lshr(builder.add(builder.add(bits, integers(0x7FFF)), odd), integers(16))
    is_nan = builder.fcmp_unordered("uno", value, value)  # rounding could turn nan into inf
    rounded = builder.select(is_nan, integers(0x7FC0), rounded)
    short = builder.trunc(rounded, ir.VectorType(ir.IntType(16), LANES))
    builder.store(short, pointer(builder, address, short.type), align=2)


def fma(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, total: ir.Value) -> ir.Value:
    """left * right + total, contracted to one instruction where the CPU has it."""
    return builder.fadd(total, builder.fmul(left, right, flags=FAST), flags=FAST)


def declared(builder: ir.IRBuilder, name: str, kind: ir.FunctionType) -> ir.Value:
    """An LLVM intrinsic by its full name, declared once in the module."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def nearest(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Each lane rounded to an integer, halves to even."""
    kind = ir.FunctionType(VECTOR, [VECTOR])
    return builder.call(declared(builder, f"llvm.rint.v{LANES}f32", kind), [value])


def largest(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Lane-wise: left where it is greater, right otherwise (nan in left gives right)."""
    return builder.select(builder.fcmp_ordered(">", left, right), left, right)


def smallest(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Lane-wise: right where it is less, left otherwise (nan in left stays)."""
    return builder.select(builder.fcmp_ordered("<", right, left), right, left)


def exp(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """e**value, within 1.5 ulp: e**x = 2**n * e**r with n = round(x / log 2), |r| <= log(2) / 2."""
    low, high = _EXP_RANGE
    value = largest(builder, value, constant(low))
    over = builder.fcmp_ordered("<", value, constant(high))
    value = builder.select(over, value, constant(high))
    count = nearest(builder, builder.fmul(value, constant(1.0 / log(2.0))))
    rest = fma(builder, count, constant(-_LOG2_HIGH), value)
    rest = fma(builder, count, constant(-_LOG2_LOW), rest)
    total = constant(1.0 / factorial(_EXP_DEGREE))
    for power in range(_EXP_DEGREE - 1, -1, -1):
        total = fma(builder, total, rest, constant(1.0 / factorial(power)))
    exponent = builder.add(builder.fptosi(count, INTEGERS), integers(127))
    return builder.fmul(total, builder.bitcast(builder.shl(exponent, integers(23)), VECTOR))


def joined_lanes(builder: ir.IRBuilder, vectors: list[ir.Value], join: Join) -> ir.Value:
    """One vector whose lane t is all lanes of vectors[t] joined, for 16 vectors."""
    for level in range(4):
        vectors = [
            _halve(builder, vectors[i], vectors[i + 1], join, level=level)
            for i in range(0, len(vectors), 2)
        ]
    return vectors[0]


def lane_sums(builder: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """One vector whose lane t is the sum over the lanes of vectors[t], for 16 vectors."""
    return joined_lanes(builder, vectors, _sum)


def _sum(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    return builder.fadd(left, right, flags=FAST)


def _halve(
    builder: ir.IRBuilder, left: ir.Value, right: ir.Value, join: Join, *, level: int
) -> ir.Value:
    """Halve the lanes left to join in two vectors, and pack both into one.

    Levels 0 and 1 stay inside quarters of 4 lanes (cheap shuffles), 2 and 3 move whole quarters.
    """
    low: list[int] = []
    high: list[int] = []
    if level < 2:
        width = 1 << level
        for quarter in range(0, LANES, 4):
            for at in range(0, 2, width):
                part = [quarter + at + i for i in range(width)]
                low += [*part, *(LANES + i for i in part)]
                high += [*(i + 2 for i in part), *(LANES + i + 2 for i in part)]
    else:
        quarters = [list(range(i, i + 4)) for i in range(0, 2 * LANES, 4)]
        low = [i for quarter in quarters[0::2] for i in quarter]
        high = [i for quarter in quarters[1::2] for i in quarter]
    first = builder.shuffle_vector(left, right, ir.Constant(INTEGERS, low))
    second = builder.shuffle_vector(left, right, ir.Constant(INTEGERS, high))
    return join(builder, first, second)


def total_of(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The sum of all lanes, as a tree (the order LLVM's reassociating reduction takes)."""
    kind = ir.FunctionType(F32, [F32, VECTOR])
    function = declared(builder, f"llvm.vector.reduce.fadd.v{LANES}f32", kind)
    return builder.call(function, [ir.Constant(F32, -0.0), value], fastmath=FAST)


def highest_of(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The largest lane; the lanes must not be nan."""
    kind = ir.FunctionType(F32, [VECTOR])
    function = declared(builder, f"llvm.vector.reduce.fmax.v{LANES}f32", kind)
    return builder.call(function, [value])
