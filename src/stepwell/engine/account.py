"""Our own books of memory, held against what the operating system says.

    weights_*     tensors of the model, by what they belong to        address by address
    kv_pool       the pool                                            address by address
    workspace     buffers of a step, rows between kernels             address by address
    host_tier     the arena                                           address by address
    packed        coded fronts of rolling sequences                   counted
    tokenizer     what loading it added                               measured at start
    kernels       numba, LLVM and compiled kernels                    measured at start
    interpreter   Python, torch, transformers: anonymous memory       measured at start
    libraries     resident pages of files: code and constants         the system's, now
    malloc_kept   freed, kept by malloc for the next step             the system's, now

`committed` is what was allocated, `resident` what of it has been touched and is in memory. Their
sum is held against the process's RSS; the difference is `unaccounted`: objects of requests, books
of the cache, what libraries cache, fragments. It is the only number here that nobody measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from stepwell.base.account import Held, MemoryAccount, Part
from stepwell.hardware.account import growth, read_process_memory, resident_of
from stepwell.kernels.linear import PackedLinear

if TYPE_CHECKING:
    from stepwell.engine.build import BuiltEngine

Ranges = list[tuple[int, int]]


class StartBook:
    """What was there before an engine is built, and what single stages of its start add."""

    def __init__(self) -> None:
        before = read_process_memory()
        self._base = None if before is None else before.held
        self._earlier = growth()

    def lines(self) -> Iterator[tuple[Part, int]]:
        """(part, bytes) of what has no addresses of its own; nothing where it cannot be told."""
        if self._base is None:
            return
        now, earlier = growth(), self._earlier
        yield Part.INTERPRETER, self._base + now.get("imports", 0) - earlier.get("imports", 0)
        for part in (Part.TOKENIZER, Part.KERNELS):
            yield part, now.get(part, 0) - earlier.get(part, 0)


def take_account(built: BuiltEngine, book: StartBook) -> MemoryAccount | None:
    """Now, in a few milliseconds; any thread may ask. None where the system cannot tell (other
    than Linux with glibc), and where the model is not on the CPU."""
    if built.pool.storage.device.type != "cpu":
        return None
    lines = [*_weights(built), *_buffers(built)]
    now = read_process_memory()
    if now is None:
        return None
    lines += [Held(part, size, size) for part, size in book.lines()]
    arena = sum(line.resident for line in lines if line.part is Part.HOST_TIER)
    files = now.shared - arena  # the arena is memory made to be shared
    kept = now.kept(untouched=_untouched(built, now.heap_range))
    lines += [Held(Part.LIBRARIES, files, files), Held(Part.KEPT, kept, kept)]
    return MemoryAccount(tuple(lines), system=now.resident)


def _untouched(built: BuiltEngine, heap: tuple[int, int]) -> int:
    """Bytes of storages in malloc's heap that are not in memory, such as the rest of a slab."""
    start, length = heap
    tensors = [*built.loaded.model.parameters(), *built.loaded.model.buffers()]
    ranges = {_storage_of(tensor) for tensor in [*tensors, *built.engine.workspace()]}
    inside = [(at, size) for at, size in ranges if start <= at < start + length]
    return sum(size for _, size in inside) - resident_of(inside)


def _weights(built: BuiltEngine) -> list[Held]:
    streamer = built.loaded.streamer
    if streamer is not None:  # layers point into its slots, and change them
        return [Held(Part.LAYERS, streamer.nbytes, streamer.nbytes)]
    found: dict[Part, Ranges] = {}
    opaque: dict[Part, int] = {}
    seen: set[int] = set()
    for name, module in built.loaded.model.named_modules():
        part = _part_of(name)
        for tensor in _own_tensors(module):
            address, length = _range_of(tensor)
            if address not in seen:
                seen.add(address)
                found.setdefault(part, []).append((address, length))
        if isinstance(module, PackedLinear) and not module.is_buffered:
            opaque[part] = opaque.get(part, 0) + module.nbytes
    return [
        _held(part, found.get(part, []), opaque.get(part, 0))
        for part in (Part.EMBEDDING, Part.LAYERS, Part.HEAD, Part.OTHER)
    ]


def _part_of(name: str) -> Part:
    """By the places that transformers gives modules of a causal language model."""
    words = set(name.split("."))
    if words & {"layers", "h", "blocks"}:
        return Part.LAYERS
    if words & {"embed_tokens", "wte", "embed_in", "word_embeddings"}:
        return Part.EMBEDDING
    return Part.HEAD if words & {"lm_head", "embed_out"} else Part.OTHER


def _own_tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _buffers(built: BuiltEngine) -> list[Held]:
    engine = built.engine
    lines = [
        _held(Part.POOL, [_range_of(built.pool.storage)]),
        _held(Part.WORKSPACE, [_range_of(t) for t in engine.workspace()]),
    ]
    arena = None if built.open_tiers is None else built.open_tiers.arena()
    if arena is not None:
        lines.append(_held(Part.HOST_TIER, [arena]))
    packed = engine.packed_bytes()
    return [*lines, Held(Part.PACKED, packed, packed)]


def _held(part: Part, ranges: Ranges, opaque: int = 0) -> Held:
    """`opaque`: bytes whose address is not known, taken as touched."""
    committed = sum(length for _, length in ranges) + opaque
    return Held(part, committed, resident_of(ranges) + opaque)


def _range_of(tensor: Tensor) -> tuple[int, int]:
    if tensor.is_contiguous():  # packed weights lie side by side in one storage
        return tensor.data_ptr(), tensor.nbytes
    return _storage_of(tensor)


def _storage_of(tensor: Tensor) -> tuple[int, int]:
    storage: Any = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()
