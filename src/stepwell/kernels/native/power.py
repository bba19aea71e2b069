"""Powers of two and sigmoids of 16 float32 lanes, in few instructions of AVX-512.

`vector.exp` is for every CPU and some bits better; `dot.missing_features` says where this runs.
"""

from __future__ import annotations

from math import log

from llvmlite import ir

from stepwell.kernels.native import vector as v

LOG2_E = 1.0 / log(2.0)
# 2**r on 0 <= r <= 1: minimax of degree 5, relative error below 1e-7 (one float32 ulp).
_COEFFICIENTS = (
    1.877576675234976e-3,
    8.989340090377055e-3,
    5.582631805340913e-2,
    2.4015361704432994e-1,
    6.93153073200175e-1,
    9.999999250635262e-1,
)
_HUGE = 1e30  # e**x above which 1 / (1 + e**x) is 0 in bfloat16 and nearly so in float32
_FLOOR = 9  # of the instruction that takes a number's fraction: rounding down, no exceptions


def of_two(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """2**value; nan stays nan, -inf gives 0."""
    rest = _masked(builder, "reduce", value, ir.Constant(v.I32, _FLOOR))
    total: ir.Value = v.constant(_COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        total = v.fma(builder, total, rest, v.constant(coefficient))
    return _masked(builder, "scalef", total, value)  # * 2**floor(value)


def _masked(builder: ir.IRBuilder, name: str, first: ir.Value, second: ir.Value) -> ir.Value:
    """An instruction of two operands on all lanes, rounding as ever."""
    name, mask = f"llvm.x86.avx512.mask.{name}.ps.512", ir.IntType(16)
    kind = ir.FunctionType(v.VECTOR, [v.VECTOR, second.type, v.VECTOR, mask, v.I32])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    everywhere, rounding = ir.Constant(mask, -1), ir.Constant(v.I32, 4)
    return builder.call(function, [first, second, v.constant(0.0), everywhere, rounding])


def sigmoid(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """1 / (1 + e**-value), within 3 ulp; nan stays nan."""
    power = of_two(builder, builder.fmul(value, v.constant(-LOG2_E)))
    power = v.smallest(
        builder, power, v.constant(_HUGE)
    )  # the reciprocal of inf has no error to mend
    below = builder.fadd(power, v.constant(1.0))
    guess = _reciprocal(builder, below)
    rest = v.fma(builder, builder.fneg(below), guess, v.constant(2.0))
    return builder.fmul(guess, rest)


def _reciprocal(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """1 / value, to 14 bits."""
    name, mask = "llvm.x86.avx512.rcp14.ps.512", ir.IntType(16)
    kind = ir.FunctionType(v.VECTOR, [v.VECTOR, v.VECTOR, mask])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [value, v.constant(0.0), ir.Constant(mask, -1)])
