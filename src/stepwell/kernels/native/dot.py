"""The dot products of AVX-512, of bfloat16 pairs (BF16) and bytes (VNNI), and 16-bit look-ups.

A register holds 16 lanes of 32 bits; a lane's own pair of bfloat16 (or quad of bytes) is multiplied
with the other operand's and added to the lane's 32-bit sum. Names and types are those of LLVM's
intrinsics, which llvmlite has no bfloat type for.

Owns no memory. Does not cover other instruction sets: ask `missing_features` first.
"""

from __future__ import annotations

from functools import cache

from llvmlite import binding, ir

from stepwell.kernels.native import vector as v

_NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512bf16", "avx512vnni")


class _BFloat(ir.Type):
    """LLVM's bfloat."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


SHORTS = ir.VectorType(ir.IntType(16), 2 * v.LANES)
_BYTES = ir.VectorType(ir.IntType(8), 4 * v.LANES)
_PAIRS = ir.VectorType(_BFloat(), 2 * v.LANES)
_HALF = ir.VectorType(_BFloat(), v.LANES)


@cache
def missing_features() -> str | None:
    """What this CPU lacks of what this file uses, or None."""
    features = binding.get_host_cpu_features()
    missing = [name for name in _NEEDED if not features.get(name)]
    return f"this CPU has no {', '.join(missing)}" if missing else None


def _call(
    builder: ir.IRBuilder, name: str, kind: ir.FunctionType, values: list[ir.Value]
) -> ir.Value:
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, values)


def dot_pairs(builder: ir.IRBuilder, total: ir.Value, left: ir.Value, right: ir.Value) -> ir.Value:
    """total[lane] + left[lane] . right[lane], pairs of bfloat16, in float32."""
    kind = ir.FunctionType(v.VECTOR, [v.VECTOR, _PAIRS, _PAIRS])
    values = [total, builder.bitcast(left, _PAIRS), builder.bitcast(right, _PAIRS)]
    return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", kind, values)


def dot_bytes(builder: ir.IRBuilder, total: ir.Value, left: ir.Value, right: ir.Value) -> ir.Value:
    """total[lane] + left[lane] . right[lane]: quads of unsigned and of signed bytes, in int32."""
    kind = ir.FunctionType(v.INTEGERS, [v.INTEGERS, _BYTES, _BYTES])
    values = [total, builder.bitcast(left, _BYTES), builder.bitcast(right, _BYTES)]
    return _call(builder, "llvm.x86.avx512.vpdpbusd.512", kind, values)


def look_up(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    """table[index & 31] for 32 16-bit indices into a register of 32 16-bit values."""
    kind = ir.FunctionType(SHORTS, [SHORTS, SHORTS])
    return _call(builder, "llvm.x86.avx512.permvar.hi.512", kind, [table, index])


def broadcast(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """The 32 bits at an address, in each lane."""
    return v.splat(builder, builder.load(v.pointer(builder, address, v.I32), align=2))


def store_bfloat16(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """Write 16 lanes as bfloat16, rounded to nearest even."""
    builder.store(builder.fptrunc(value, _HALF), v.pointer(builder, address, _HALF), align=2)


def rounded(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """16 float32 lanes, rounded to bfloat16 and back."""
    return builder.fpext(builder.fptrunc(value, _HALF), v.VECTOR)


def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for one cache line into the second-level cache, without waiting; never faults."""
    byte, flag = ir.IntType(8).as_pointer(), v.I32
    kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    values = [builder.inttoptr(address, byte), *(ir.Constant(flag, i) for i in (0, 2, 1))]
    _call(builder, "llvm.prefetch.p0", kind, values)
