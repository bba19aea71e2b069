"""What to change, in order, by engine, by when it happened and by the cause.

Out of memory at the start and while serving need opposite changes of the share that the KV pool
gets: a start fails when too little is left for the pool, serving when the pool leaves too little
for everything else.
"""

from __future__ import annotations

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.engine_steps import ENGINE_STEPS, Room
from stepwell.doctor.oom.facts import LogFacts
from stepwell.doctor.oom.torch_numbers import Cause, TorchNumbers
from stepwell.doctor.oom.words import Phase, Step


def steps_for_full_device(
    cause: Cause, numbers: TorchNumbers, *, engine: str, phase: Phase, facts: LogFacts
) -> tuple[Step, ...]:
    """Steps for a message of torch's allocator."""
    room = Room(lack=max(0, numbers.requested - numbers.free), capacity=numbers.capacity)
    by_engine = engine_steps(engine, phase, facts, room=room)
    match cause:
        case Cause.TOO_LARGE:
            return (*_too_large(numbers), *by_engine)
        case Cause.OTHERS:
            return (_free_others(numbers), *by_engine)
        case Cause.OUTSIDE:
            return (
                Step(
                    "See who it is: nvidia-smi (rocm-smi) on the host, outside containers. Stop "
                    "the process, or give this one another device.",
                    f"up to {format_bytes(numbers.unseen)}",
                ),
                *by_engine,
            )
        case Cause.FRAGMENTED:
            return (_expandable(numbers), *by_engine)
        case Cause.FREE_BUT_REFUSED:
            return _refused()
        case Cause.FULL:
            return by_engine


def lack_steps(engine: str, phase: Phase, facts: LogFacts) -> tuple[Step, ...]:
    """Steps where the message has no numbers."""
    return engine_steps(engine, phase, facts, room=Room())


def engine_steps(engine: str, phase: Phase, facts: LogFacts, *, room: Room) -> tuple[Step, ...]:
    """What the engine offers at that phase; without a known engine, what any program can do."""
    table = ENGINE_STEPS.get(engine, ENGINE_STEPS[""])
    make = table.get(phase) or table[Phase.UNKNOWN]
    return make(facts, room)


def _too_large(numbers: TorchNumbers) -> tuple[Step, ...]:
    times = numbers.requested / numbers.capacity
    return (
        Step(
            "Find the tensor: the line of the traceback above the message. Use a fused attention "
            "kernel (sdpa, FlashAttention), a shorter input, or a smaller batch.",
            f"the request is {times:.1f} times the device: halving the length quarters a matrix "
            "of scores, and halves everything else",
        ),
    )


def _free_others(numbers: TorchNumbers) -> Step:
    return Step(
        "Stop the other processes on this device (nvidia-smi names them), or use another device; "
        "where they must share it, give each engine its share explicitly.",
        f"frees up to {format_bytes(numbers.others or 0)}",
    )


def _expandable(numbers: TorchNumbers) -> Step:
    return Step(
        "Set PYTORCH_ALLOC_CONF=expandable_segments:True (PYTORCH_CUDA_ALLOC_CONF before torch "
        "2.10). It does not go with engines' sleep mode.",
        f"makes up to {format_bytes(numbers.idle or 0)} usable that lie in pieces now",
    )


def _refused() -> tuple[Step, ...]:
    return (
        Step(
            "Look for a limit below the capacity: set_per_process_memory_fraction, a MIG slice, "
            "a container's device memory limit.",
            "explains a refusal with memory free",
        ),
        Step(
            "Check host memory and `ulimit -v` at that moment: on Windows, WSL and integrated GPUs "
            "device memory is backed by host memory.",
            "the refusal ends when the host has room",
        ),
        Step(
            "Watch the device while it happens (nvidia-smi -lms 100): another process may take "
            "memory and free it again.",
            "shows who took it",
        ),
    )
