"""Which codec writes each tier's chunks, made from the settings of [tiers] and the model.

A tier whose codec is lossy holds sinks and each session's last tokens exactly all the same; what
it changes is part of the namespace (`TierCodecs.lossy`), so that an engine that never asked for
loss finds nothing that went through one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stepwell.base.config import AUTO, TiersConfig
from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import TierName
from stepwell.base.units import format_bytes
from stepwell.codec import LAYOUT_BYTES, ValueFormat
from stepwell.codec.contract import Buffer, Codec
from stepwell.codec.kvtc.artifact import read_calibration
from stepwell.codec.kvtc.chunk import KvtcCodec, KvtcTarget
from stepwell.codec.kvtc.container import ArtifactError
from stepwell.codec.raw import RawCodec
from stepwell.codec.registry import make_codec
from stepwell.codec.shape import BlockShape, LayerKV
from stepwell.engine.probe import lost_share, probe
from stepwell.kernels.paged_attention import KVFormat
from stepwell.model.identity import LAYOUT_VERSION, weights_hash
from stepwell.model.load import LoadedModel
from stepwell.model.pool import KVPool
from stepwell.tier.contract import Tier

_KVTC = "kvtc"
_EXACT = ("raw", "lossless")
_CASTS = ("fp8", "int8", "int4")
_NEAR = 1.1


@dataclass(slots=True)
class TierCodecs:
    """The codecs that each tier may use, and the one that it does use once `settle` has been called
    for it. `lossy`: what lossy ones there are change, empty for none. `shape`: None for a low-bit
    pool, whose bytes only `raw` takes."""

    allowed: dict[TierName, list[Codec]]
    exact: dict[str, Codec]
    shape: BlockShape | None
    block_bytes: int
    lossy: str
    decisions: tuple[Decision, ...]
    chosen: dict[TierName, Codec] = field(default_factory=dict)

    def settle(self, tier: TierName, store: Tier, pool: KVPool, *, blocks: int) -> Decision:
        """Choose among the allowed codecs by how fast an open tier gives a chunk back through each;
        of those within a tenth of the fastest, the one with the fewest bytes."""
        name, allowed = f"tiers.{tier.name.lower()}.codec", self.allowed[tier]
        self.chosen[tier] = allowed[0]
        if len(allowed) == 1:
            return Decision(name, allowed[0].spec.name, "[tiers]")
        sample, found = self.sample(allowed, blocks=blocks), []
        try:
            for codec in allowed:
                form = self._form(tier, codec, pool)
                seen = probe(store, form, sample)
                found.append((seen.typical, seen.size, codec))
        except OSError as error:
            return Decision(name, allowed[0].spec.name, f"auto: the probe failed: {error}")
        fastest = min(seconds for seconds, _, _ in found)
        near = [row for row in found if row[0] <= _NEAR * fastest]
        self.chosen[tier] = min(near, key=lambda row: row[1])[2]
        why = ", ".join(
            f"{codec.spec.name} {1e3 * seconds:.2f} ms {format_bytes(size)}"
            for seconds, size, codec in found
        )
        return Decision(name, self.chosen[tier].spec.name, f"auto: a chunk back takes {why}")

    def is_lossy(self, tier: TierName) -> bool:
        """Whether what it holds may have lost something: under `auto` also by what an earlier start
        chose."""
        return any(not codec.spec.lossless for codec in self.allowed[tier])

    def sample(self, codecs: Sequence[Codec], *, blocks: int) -> list[Buffer]:
        """A chunk to measure these codecs with: random numbers, whose exponents are spread as those
        of K and V, or what one of them has learned of K and V."""
        learned = next((codec for codec in codecs if isinstance(codec, KvtcCodec)), None)
        if learned is not None:
            return learned.sample(blocks=blocks)
        source = torch.Generator().manual_seed(0)
        if self.shape is None:
            levels = torch.randint(0, 256, (blocks, self.block_bytes), generator=source)
            return [memoryview(row) for row in levels.to(torch.uint8).numpy()]
        numbers = torch.randn((blocks, self.shape.numbers), generator=source)
        rows = numbers.to(self.shape.dtype).view(torch.uint8).numpy()
        return [memoryview(row) for row in rows]

    def forms(self, pool: KVPool, tiers: Iterable[TierName]) -> dict[TierName, ValueFormat]:
        """How the values of these tiers are written and read."""
        return {tier: self._form(tier, self.chosen[tier], pool) for tier in tiers}

    def _form(self, tier: TierName, codec: Codec, pool: KVPool) -> ValueFormat:
        # A disk may hold what was written under other settings. Nobody else writes the host tier,
        # and replicas with other codecs use other keys (`build_tiers._open_remote`).
        also = [] if tier is TierName.HOST else [*self.exact.values(), *self.allowed[tier]]
        exact = None if codec.spec.lossless else self.exact["lossless"]
        return ValueFormat(codec, layout=layout_hash(pool), also=also, exact=exact)


def make_codecs(config: TiersConfig, loaded: LoadedModel, pool: KVPool) -> TierCodecs:
    """The codecs of the tiers in use. Raises ConfigError for a dtype that a codec does not take,
    and where `kvtc` has no calibration of this model."""
    shape = block_shape(pool) if pool.form is KVFormat.MODEL else None
    wanted = {tier: name for tier, name in codec_names(config).items() if _in_use(config, tier)}
    if shape is None:
        made: dict[str, Codec] = {"raw": RawCodec()}
    else:
        made = {name: make_codec(name, shape=shape) for name in _EXACT}
    codecs = TierCodecs({}, dict(made), shape, pool.block_bytes, "", ())
    decisions: list[Decision] = []
    for name in dict.fromkeys(wanted.values()):
        if shape is None:  # nothing else came past `engine/kv_format`
            continue
        if name == _KVTC:
            made[name], decision = make_kvtc(config, loaded, shape)
            decisions.append(decision)
        elif name != AUTO and name not in made:
            made[name] = make_codec(name, shape=shape)
    automatic: list[Codec] = []
    if AUTO in wanted.values():
        automatic, decision = _within(config, loaded, codecs)
        decisions.append(decision)
    codecs.allowed = {t: automatic if n == AUTO else [made[n]] for t, n in wanted.items()}
    used = [codec for allowed in codecs.allowed.values() for codec in allowed]
    codecs.lossy = ",".join(sorted({_identity(c) for c in used if not c.spec.lossless}))
    codecs.decisions = tuple(decisions)
    return codecs


def _within(
    config: TiersConfig, loaded: LoadedModel, codecs: TierCodecs
) -> tuple[list[Codec], Decision]:
    """The exact codecs, and those lossy ones whose error stays within `tiers.auto_error`."""
    shape, limit = codecs.shape, config.auto_error
    allowed, told = list(codecs.exact.values()), []
    if limit > 0 and shape is not None:
        lossy: list[Codec] = [make_codec(name, shape=shape) for name in _CASTS]
        with contextlib.suppress(ConfigError):  # never calibrated
            lossy.append(make_kvtc(config, loaded, shape)[0])
        sample = codecs.sample(lossy, blocks=4)
        for codec in lossy:
            error = lost_share(codec, sample, dtype=shape.dtype)
            told.append(f"{codec.spec.name} {error:.2%}")
            if error <= limit:
                allowed.append(codec)
    names = ", ".join(codec.spec.name for codec in allowed)
    why = f"auto: tiers.auto_error = {limit:g}" + (f"; errors: {', '.join(told)}" if told else "")
    return allowed, Decision("tiers.codecs", names, why)


def codec_names(config: TiersConfig) -> dict[TierName, str]:
    """As the settings name them, for tiers in use or not."""
    return {
        TierName.HOST: config.host_codec,
        TierName.DISK: config.disk_codec,
        TierName.REMOTE: config.remote_codec,
    }


def calibration_path(weights: bytes) -> Path:
    """Where the calibration of these weights is kept unless told otherwise."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "stepwell" / "calibration" / f"{weights.hex()[:32]}.kvtc"


def block_shape(pool: KVPool) -> BlockShape:
    """What the numbers of the pool's blocks are. Not for a low-bit pool."""
    assert pool.form is KVFormat.MODEL, "levels are no numbers"
    layers = [
        LayerKV(kv_heads=p.kv_heads, key_dim=p.key_dim, value_dim=p.value_dim)
        for p in pool.layers.values()
    ]
    return BlockShape(dtype=pool.storage.dtype, tokens=pool.block_size, layers=tuple(layers))


def layout_hash(pool: KVPool) -> bytes:
    """Equal exactly where the bytes of a chunk mean the same K and V."""
    shapes = [(tuple(p.key.shape[1:]), tuple(p.value.shape[1:])) for p in pool.layers.values()]
    dtype = str(pool.storage.dtype) if pool.form is KVFormat.MODEL else pool.form.value
    text = repr((LAYOUT_VERSION, dtype, pool.block_size, shapes))
    return hashlib.sha256(text.encode()).digest()[:LAYOUT_BYTES]


def _in_use(config: TiersConfig, tier: TierName) -> bool:
    asked = {
        TierName.HOST: config.host not in ("", "0"),
        TierName.DISK: bool(config.disk),
        TierName.REMOTE: bool(config.remote),
    }
    return asked[tier]


def _identity(codec: Codec) -> str:
    """Equal exactly where two lossy codecs write the same bytes for the same chunk."""
    own = getattr(codec, "identity", b"")
    return f"{codec.spec.name}.{codec.spec.version}.{own.hex()}"


def make_kvtc(
    config: TiersConfig, loaded: LoadedModel, shape: BlockShape
) -> tuple[KvtcCodec, Decision]:
    """The codec of this model's calibration. Raises ConfigError where there is none."""
    if loaded.folder is None:
        raise ConfigError("codec kvtc needs a model with files.", param="tiers")
    weights = weights_hash(loaded.folder)
    given = config.kvtc_calibration
    place = Path(given).expanduser() if given else calibration_path(weights)
    hint = f"Make one: stepwell calibrate {loaded.folder}."
    try:
        calibration = read_calibration(place, weights=weights)
        target = KvtcTarget(
            ratio=config.kvtc_ratio, error=config.kvtc_error, limit=config.kvtc_limit
        )
        codec = KvtcCodec(calibration, shape=shape, target=target)
    except FileNotFoundError:
        message = f"codec kvtc: there is no calibration of this model at {place}."
        raise ConfigError(message, hint=hint, param="tiers.kvtc_calibration") from None
    except (ArtifactError, ValueError, OSError) as error:
        message = f"codec kvtc: {place} cannot be used: {error}."
        raise ConfigError(message, hint=hint, param="tiers.kvtc_calibration") from None
    why = f"{place.name}: error {codec.expected_error:.2%} of the energy expected"
    aim = f"error {config.kvtc_error:g}" if config.kvtc_error else f"{config.kvtc_ratio:g}x"
    return codec, Decision("tiers.kvtc", aim, why)
