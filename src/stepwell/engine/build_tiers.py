"""From the settings of [tiers] to open tiers, a brain that knows their speeds, and a mover."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from stepwell.base.config import CacheConfig, TiersConfig
from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import TierName
from stepwell.base.secrets import redact_url
from stepwell.base.units import format_bytes, parse_bytes
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.manager import CacheManager
from stepwell.cache.policy.registry import POLICIES
from stepwell.cache.settings import TierSpec
from stepwell.codec import LAYOUT_BYTES, ValueFormat
from stepwell.codec.buffers import total_bytes
from stepwell.codec.registry import make_codec
from stepwell.codec.shape import BlockShape, LayerKV
from stepwell.engine.resolve import check_host_tier
from stepwell.engine.tiers import Tiers
from stepwell.hardware.machine import read_machine
from stepwell.model.identity import LAYOUT_VERSION
from stepwell.model.pool import KVPool
from stepwell.tier.contract import Buffer, Tier
from stepwell.tier.disk import DiskOptions, DiskTier
from stepwell.tier.host import HostTier
from stepwell.tier.mover import Mover

Progress = Callable[[str], None]
WrapTier = Callable[[TierName, Tier], Tier]
_LEAST_CHUNK = 128 << 10  # bytes: below, a transfer is mostly its fixed costs
_MOST_CHUNK_BLOCKS = 16
_PROBE_CHUNKS = 16
_EXACT = ("raw", "lossless")


@dataclass(frozen=True, slots=True)
class OpenTiers:
    """What `open_tiers` built. `stores` are to be closed after the mover."""

    tiers: Tiers
    stores: dict[TierName, Tier]
    decisions: tuple[Decision, ...]

    def close(self, timeout: float) -> None:
        """Carry out what is under way, then close. A tier whose thread hangs is left open."""
        hung = self.tiers.mover.close(timeout)
        for name, store in self.stores.items():
            if name not in hung:
                store.close()


def any_tier(config: TiersConfig) -> bool:
    """Whether any lower tier is asked for."""
    return bool(_host_bytes(config) or config.disk or config.remote)


def outlives_process(config: TiersConfig) -> bool:
    """Whether some tier may hold chunks of earlier processes or of others."""
    return bool(config.disk or config.remote)


def open_tiers(
    config: TiersConfig,
    cache_config: CacheConfig,
    pool: KVPool,
    cache: CacheManager,
    *,
    say: Progress,
    wrap: WrapTier | None = None,
) -> OpenTiers:
    """Open what [tiers] names, adopt what it holds, and measure it. `wrap`: put around each store
    once it has been measured. Raises ConfigError, HardwareError, TierError, OSError: then nothing
    stays open."""
    if pool.storage.device.type != "cpu":
        raise ConfigError(
            "lower tiers need model.device = cpu at present.",
            hint="Leave [tiers] empty, or serve on the CPU.",
        )
    if not cache_config.prefix_caching:
        raise ConfigError("lower tiers need cache.prefix_caching.", param="cache.prefix_caching")
    blocks, sized = _chunk_blocks(config, pool)
    chunk_bytes = blocks * pool.block_bytes
    with ExitStack() as undo:
        stores, specs, decisions = _open_stores(config, say, undo)
        hierarchy = Hierarchy(
            specs,
            chunk_tokens=blocks * pool.block_size,
            chunk_bytes=chunk_bytes,
            policy=POLICIES[config.policy],
        )
        decisions = [sized, *decisions, *_adopt(hierarchy, specs, stores)]
        forms = _forms(config, pool, stores)
        decisions += [Decision(f"tiers.{n.name.lower()}.codec", f.spec.name, "[tiers]")
                      for n, f in forms.items()]  # fmt: skip
        sample = _sample(pool, blocks)
        for name, store in stores.items():
            say(f"measuring the {name.name.lower()} tier")
            decisions.append(_probe(hierarchy, name, store, forms[name], sample))
        if wrap is not None:
            stores = {name: wrap(name, store) for name, store in stores.items()}
        tiers = _assemble(hierarchy, stores, pool, cache, chunk_blocks=blocks, forms=forms)
        undo.pop_all()
    return OpenTiers(tiers=tiers, stores=stores, decisions=tuple(decisions))


def _adopt(
    hierarchy: Hierarchy, specs: Sequence[TierSpec], stores: dict[TierName, Tier]
) -> list[Decision]:
    """Enter into the books what tiers of this process alone hold from earlier ones."""
    decisions = []
    for spec in specs:
        if spec.persistent and not spec.shared:
            entries = ((c.key, c.size, c.meta) for c in stores[spec.name].scan())
            count = hierarchy.adopt(spec.name, entries, time.monotonic())
            why = "chunks found from earlier processes"
            decisions.append(Decision(f"tiers.{spec.name.name.lower()}.adopted", count, why))
    return decisions


def _assemble(
    hierarchy: Hierarchy,
    stores: dict[TierName, Tier],
    pool: KVPool,
    cache: CacheManager,
    *,
    chunk_blocks: int,
    forms: dict[TierName, ValueFormat],
) -> Tiers:
    mover = Mover(
        stores,
        forms=forms,
        block_bytes=pool.block_bytes,
        on_ready=lambda: tiers.ring(),
    )
    tiers = Tiers(
        hierarchy, mover, cache, block_bytes=_block_bytes(pool), chunk_blocks=chunk_blocks
    )
    return tiers


def _forms(
    config: TiersConfig, pool: KVPool, tiers: Iterable[TierName]
) -> dict[TierName, ValueFormat]:
    """How each tier's values are written. Raises ConfigError for a dtype that a codec lacks."""
    names = {
        TierName.HOST: config.host_codec,
        TierName.DISK: config.disk_codec,
        TierName.REMOTE: config.remote_codec,
    }
    shape, layout = _block_shape(pool), layout_hash(pool)
    made = {name: make_codec(name, shape=shape) for name in {*names.values(), *_EXACT}}
    forms = {}
    for tier in tiers:
        # A disk may hold what was written under other settings. Nobody else writes the host tier,
        # and replicas with other codecs use other keys (`_open_remote`).
        also = [made[name] for name in _EXACT] if tier is TierName.DISK else []
        forms[tier] = ValueFormat(made[names[tier]], layout=layout, also=also)
    return forms


def _block_shape(pool: KVPool) -> BlockShape:
    layers = [
        LayerKV(kv_heads=p.key.shape[1], key_dim=p.key.shape[3], value_dim=p.value.shape[3])
        for p in pool.layers.values()
    ]
    return BlockShape(dtype=pool.storage.dtype, tokens=pool.block_size, layers=tuple(layers))


def layout_hash(pool: KVPool) -> bytes:
    """Equal exactly where the bytes of a chunk mean the same K and V."""
    shapes = [(tuple(p.key.shape[1:]), tuple(p.value.shape[1:])) for p in pool.layers.values()]
    text = repr((LAYOUT_VERSION, str(pool.storage.dtype), pool.block_size, shapes))
    return hashlib.sha256(text.encode()).digest()[:LAYOUT_BYTES]


def _block_bytes(pool: KVPool) -> Callable[[Sequence[int]], list[Buffer]]:
    """Views of the pool's own memory: a block is contiguous over all layers."""
    rows = pool.storage.view(torch.uint8).numpy()
    return lambda blocks: [memoryview(rows[block]) for block in blocks]


def _chunk_blocks(config: TiersConfig, pool: KVPool) -> tuple[int, Decision]:
    name = "tiers.chunk_blocks"
    if config.chunk_blocks:
        return config.chunk_blocks, Decision(name, config.chunk_blocks, name)
    blocks = 1
    while blocks * pool.block_bytes < _LEAST_CHUNK and blocks < _MOST_CHUNK_BLOCKS:
        blocks *= 2
    size = format_bytes(blocks * pool.block_bytes)
    tokens = blocks * pool.block_size
    return blocks, Decision(name, blocks, f"auto: {tokens} tokens, {size} a chunk")


def _host_bytes(config: TiersConfig) -> int:
    return parse_bytes(config.host) if config.host else 0


def _open_stores(
    config: TiersConfig, say: Progress, undo: ExitStack
) -> tuple[dict[TierName, Tier], list[TierSpec], list[Decision]]:
    """Open each tier that is asked for; `undo` is given its closing."""
    stores: dict[TierName, Tier] = {}
    specs: list[TierSpec] = []
    decisions: list[Decision] = []
    host = _host_bytes(config)
    if host:
        check_host_tier(host, memory_available=read_machine().memory_available)
        say("allocating the host tier")
        stores[TierName.HOST] = HostTier(capacity=host)
        undo.callback(stores[TierName.HOST].close)
        specs.append(TierSpec(name=TierName.HOST, capacity_bytes=host))
        decisions.append(Decision("tiers.host", format_bytes(host), "tiers.host"))
    if config.disk:
        say("opening the disk tier")
        options = DiskOptions(
            capacity=parse_bytes(config.disk_capacity),
            free_floor=parse_bytes(config.disk_free_floor),
        )
        disk = DiskTier(Path(config.disk).expanduser(), options=options)
        undo.callback(disk.close)
        stores[TierName.DISK] = disk
        specs.append(TierSpec(name=TierName.DISK, capacity_bytes=options.usable, persistent=True))
        why = f"{config.disk}: {disk.recovery}"
        decisions.append(Decision("tiers.disk", config.disk_capacity, why))
    if config.remote:
        stores[TierName.REMOTE] = _open_remote(config)
        undo.callback(stores[TierName.REMOTE].close)
        specs.append(TierSpec(name=TierName.REMOTE, capacity_bytes=0, shared=True, persistent=True))
        why = f"tiers.remote = {redact_url(config.remote)}"
        decisions.append(Decision("tiers.remote", "configured", why))
    return stores, specs, decisions


def _open_remote(config: TiersConfig) -> Tier:
    from stepwell.tier.remote import RemoteConfig, RemoteTier

    return RemoteTier(
        RemoteConfig(
            url=config.remote,
            prefix=f"stepwell:{config.remote_codec}:",
            ttl_seconds=int(config.remote_ttl),
            password=os.environ.get("STEPWELL_REMOTE_PASSWORD"),
        )
    )


def _probe(
    hierarchy: Hierarchy, name: TierName, store: Tier, form: ValueFormat, sample: list[Buffer]
) -> Decision:
    """First values of the cost model: write some chunks like `sample`, read them back one after the
    other; the codec's time counts, and its kernels are ready afterwards."""
    label = f"tiers.{name.name.lower()}.speed"
    keys = [os.urandom(32) for _ in range(_PROBE_CHUNKS)]
    size, out = total_bytes(sample), [memoryview(bytearray(part.nbytes)) for part in sample]
    value = memoryview(b"".join(form.encode(sample)))
    form.decode(value, out)
    landing = memoryview(bytearray(len(value)))
    try:
        for key in keys:
            store.write(key, form.encode(sample))
        if isinstance(store, DiskTier):  # what comes back tomorrow is in no page cache
            store.flush()
            store.forget_cached()
        total = 0.0
        for key in keys:
            start = time.perf_counter()
            store.read(key, [landing])
            form.decode(landing, out)
            taken = time.perf_counter() - start
            total += taken
            hierarchy.transferred(name, size=len(value), seconds=taken, now=time.monotonic())
        # One after the other, as a restore does: tells bandwidth from the cost of each call.
        whole = _PROBE_CHUNKS * len(value)
        hierarchy.transferred(name, size=whole, seconds=total, now=time.monotonic())
        store.delete(keys)
    except OSError as error:
        return Decision(label, "unknown", f"the start-up probe failed: {error}")
    speed = _PROBE_CHUNKS * size / total
    because = f"{_PROBE_CHUNKS} chunks of {format_bytes(size)} read back and decoded at start"
    return Decision(label, f"{format_bytes(int(speed))}/s", because)


def _sample(pool: KVPool, blocks: int) -> list[Buffer]:
    """A chunk of random numbers: their exponents are spread as those of K and V, roughly."""
    source = torch.Generator().manual_seed(0)
    shape = (blocks, pool.storage.shape[1])
    numbers = torch.randn(shape, generator=source).to(pool.storage.dtype)
    return [memoryview(row) for row in numbers.view(torch.uint8).numpy()]
