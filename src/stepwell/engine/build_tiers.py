"""From the settings of [tiers] to open tiers, a brain that knows their speeds, and a mover."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stepwell.base.config import CacheConfig, TiersConfig
from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import TierName
from stepwell.base.secrets import redact_url
from stepwell.base.units import format_bytes, parse_bytes
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.manager import CacheManager
from stepwell.cache.policy.registry import POLICIES
from stepwell.cache.settings import HierarchySettings, TierSpec
from stepwell.codec import ValueFormat
from stepwell.engine.asked import host_bytes
from stepwell.engine.codecs import TierCodecs
from stepwell.engine.probe import PROBE_CHUNKS, probe
from stepwell.engine.resolve import check_host_tier
from stepwell.engine.staging import check_device, open_transfers
from stepwell.engine.tiers import Tiers
from stepwell.hardware.machine import read_machine
from stepwell.kernels.native.team import stay_on_one_thread
from stepwell.model.pool import KVPool
from stepwell.tier.contract import Buffer, Tier
from stepwell.tier.disk import DiskOptions, DiskTier
from stepwell.tier.host import HostTier
from stepwell.tier.mover import Mover

Progress = Callable[[str], None]
WrapTier = Callable[[TierName, Tier], Tier]
_LEAST_CHUNK = 128 << 10  # bytes: below, a transfer is mostly its fixed costs
_MOST_CHUNK_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class OpenTiers:
    """What `open_tiers` built. `stores` are to be closed after the transfers."""

    tiers: Tiers
    stores: dict[TierName, Tier]
    decisions: tuple[Decision, ...]

    def arena(self) -> tuple[int, int] | None:
        """Address and length of the host tier's memory, if there is one."""
        host = self.stores.get(TierName.HOST)
        return host.arena() if isinstance(host, HostTier) else None

    def close(self, timeout: float) -> None:
        """Carry out what is under way, then close. A tier whose thread hangs is left open."""
        hung = self.tiers.transfers.close(timeout)
        for name, store in self.stores.items():
            if name not in hung:
                store.close()


def open_tiers(
    config: TiersConfig,
    cache_config: CacheConfig,
    pool: KVPool,
    cache: CacheManager,
    codecs: TierCodecs,
    *,
    say: Progress,
    wrap: WrapTier | None = None,
) -> OpenTiers:
    """Open what [tiers] names, adopt what it holds, and measure it. `wrap`: put around each store
    once it has been measured. Raises ConfigError, HardwareError, TierError, OSError: then nothing
    stays open."""
    check_device(pool.storage.device)
    if not cache_config.prefix_caching:
        raise ConfigError("lower tiers need cache.prefix_caching.", param="cache.prefix_caching")
    blocks, sized = _chunk_blocks(config, pool)
    chunk_bytes = blocks * pool.block_bytes
    with ExitStack() as undo:
        opened = _open_stores(config, codecs, pool, blocks=blocks, say=say, undo=undo)
        stores, specs, decisions = opened
        hierarchy = Hierarchy(
            specs,
            chunk_tokens=blocks * pool.block_size,
            chunk_bytes=chunk_bytes,
            policy=POLICIES[config.policy],
            settings=HierarchySettings(
                window_chunks=-(-config.exact_window // (blocks * pool.block_size))
            ),
        )
        decisions = [sized, *decisions, *_adopt(hierarchy, specs, stores)]
        forms = codecs.forms(pool, stores)
        for name, store in stores.items():
            say(f"measuring the {name.name.lower()} tier")
            sample = codecs.sample([codecs.chosen[name]], blocks=blocks)
            decisions.append(_probe(hierarchy, name, store, forms[name], sample))
        if wrap is not None:
            stores = {name: wrap(name, store) for name, store in stores.items()}
        tiers, staging = _assemble(hierarchy, stores, pool, cache, chunk_blocks=blocks, forms=forms)
        decisions += staging
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
) -> tuple[Tiers, list[Decision]]:
    def make_mover(on_ready: Callable[[], None]) -> Mover:
        return Mover(
            stores,
            forms=forms,
            block_bytes=pool.block_bytes,
            on_ready=on_ready,
            prepare_thread=stay_on_one_thread,
        )

    transfers, decisions = open_transfers(
        pool,
        make_mover,
        tiers=list(stores),
        chunk_blocks=chunk_blocks,
        on_ready=lambda: tiers.ring(),
    )
    tiers = Tiers(hierarchy, transfers, cache, chunk_blocks=chunk_blocks)
    return tiers, decisions


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


def _open_stores(
    config: TiersConfig,
    codecs: TierCodecs,
    pool: KVPool,
    *,
    blocks: int,
    say: Progress,
    undo: ExitStack,
) -> tuple[dict[TierName, Tier], list[TierSpec], list[Decision]]:
    """Open each tier that is asked for and settle its codec; `undo` is given its closing."""

    def settle(tier: TierName) -> bool:
        decisions.append(codecs.settle(tier, stores[tier], pool, blocks=blocks))
        return codecs.is_lossy(tier)

    stores: dict[TierName, Tier] = {}
    specs: list[TierSpec] = []
    decisions: list[Decision] = []
    host = host_bytes(config)
    if host:
        check_host_tier(host, memory_available=read_machine().memory_available)
        say("allocating the host tier")
        stores[TierName.HOST] = HostTier(capacity=host)
        undo.callback(stores[TierName.HOST].close)
        lossy = settle(TierName.HOST)
        specs.append(TierSpec(name=TierName.HOST, capacity_bytes=host, lossy=lossy))
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
        specs.append(
            TierSpec(
                name=TierName.DISK, capacity_bytes=options.usable, persistent=True,
                lossy=settle(TierName.DISK),
            )
        )  # fmt: skip
        why = f"{config.disk}: {disk.recovery}"
        decisions.append(Decision("tiers.disk", config.disk_capacity, why))
    if config.remote:
        stores[TierName.REMOTE] = _open_remote(config)
        undo.callback(stores[TierName.REMOTE].close)
        specs.append(
            TierSpec(
                name=TierName.REMOTE, capacity_bytes=0, shared=True, persistent=True,
                lossy=settle(TierName.REMOTE),
            )
        )  # fmt: skip
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
    """First values of the cost model, from chunks like `sample`."""
    label = f"tiers.{name.name.lower()}.speed"
    try:
        found = probe(store, form, sample)
    except OSError as error:
        return Decision(label, "unknown", f"the start-up probe failed: {error}")
    now = time.monotonic()
    for seconds in found.seconds:
        hierarchy.transferred(name, size=found.size, seconds=seconds, now=now)
    # One after the other, as a restore does: tells bandwidth from the cost of each call.
    whole = PROBE_CHUNKS * found.size
    hierarchy.transferred(name, size=whole, seconds=found.total, now=now)
    speed = PROBE_CHUNKS * found.plain / found.total
    because = f"{PROBE_CHUNKS} chunks of {format_bytes(found.plain)} read back and decoded at start"
    return Decision(label, f"{format_bytes(int(speed))}/s", because)
