"""Which codec writes each tier's chunks, made from the settings of [tiers] and the model.

A tier whose codec is lossy holds sinks and each session's last tokens exactly all the same; what
it changes is part of the namespace (`identity_of`), so that an engine that never asked for loss
finds nothing that went through one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from stepwell.base.config import TiersConfig
from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import TierName
from stepwell.codec import LAYOUT_BYTES, ValueFormat
from stepwell.codec.contract import Buffer, Codec
from stepwell.codec.kvtc.artifact import read_calibration
from stepwell.codec.kvtc.chunk import KvtcCodec, KvtcTarget
from stepwell.codec.kvtc.container import ArtifactError
from stepwell.codec.registry import make_codec
from stepwell.codec.shape import BlockShape, LayerKV
from stepwell.model.identity import LAYOUT_VERSION, weights_hash
from stepwell.model.load import LoadedModel
from stepwell.model.pool import KVPool

_KVTC = "kvtc"
_EXACT = ("raw", "lossless")


@dataclass(frozen=True, slots=True)
class TierCodecs:
    """The codec of each tier. `lossy`: what lossy ones there are change, empty for none."""

    by_tier: dict[TierName, Codec]
    exact: dict[str, Codec]
    lossy: str
    decisions: tuple[Decision, ...]

    def is_lossy(self, tier: TierName) -> bool:
        """Whether it may change numbers."""
        return not self.by_tier[tier].spec.lossless

    def sample(self, tier: TierName, pool: KVPool, *, blocks: int) -> list[Buffer]:
        """A chunk to measure the tier's codec with: random numbers, whose exponents are spread as
        those of K and V, or what the codec itself has learned of them."""
        codec = self.by_tier[tier]
        if isinstance(codec, KvtcCodec):
            return codec.sample(blocks=blocks)
        source = torch.Generator().manual_seed(0)
        numbers = torch.randn((blocks, pool.storage.shape[1]), generator=source)
        rows = numbers.to(pool.storage.dtype).view(torch.uint8).numpy()
        return [memoryview(row) for row in rows]

    def forms(self, pool: KVPool, tiers: Iterable[TierName]) -> dict[TierName, ValueFormat]:
        """How the values of these tiers are written and read."""
        layout, made = layout_hash(pool), {}
        for tier in tiers:
            # A disk may hold what was written under other settings. Nobody else writes the host
            # tier, and replicas with other codecs use other keys (`build_tiers._open_remote`).
            also = list(self.exact.values()) if tier is TierName.DISK else []
            exact = self.exact["lossless"] if self.is_lossy(tier) else None
            made[tier] = ValueFormat(self.by_tier[tier], layout=layout, also=also, exact=exact)
        return made


def make_codecs(config: TiersConfig, loaded: LoadedModel, pool: KVPool) -> TierCodecs:
    """The codecs of the tiers in use. Raises ConfigError for a dtype that a codec does not take,
    and where `kvtc` has no calibration of this model."""
    shape = block_shape(pool)
    wanted = {tier: name for tier, name in codec_names(config).items() if _in_use(config, tier)}
    exact = {name: make_codec(name, shape=shape) for name in _EXACT}
    made, decisions = dict(exact), []
    for name in dict.fromkeys(wanted.values()):
        if name == _KVTC:
            made[name], decision = make_kvtc(config, loaded, shape)
            decisions.append(decision)
        elif name not in made:
            made[name] = make_codec(name, shape=shape)
    by_tier = {tier: made[name] for tier, name in wanted.items()}
    decisions += [
        Decision(f"tiers.{tier.name.lower()}.codec", name, "[tiers]")
        for tier, name in wanted.items()
    ]
    lossy = sorted({_identity(codec) for codec in by_tier.values() if not codec.spec.lossless})
    return TierCodecs(by_tier, exact, ",".join(lossy), tuple(decisions))


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
    """What the numbers of the pool's blocks are."""
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
        target = KvtcTarget(ratio=config.kvtc_ratio, limit=config.kvtc_limit)
        codec = KvtcCodec(calibration, shape=shape, target=target)
    except FileNotFoundError:
        message = f"codec kvtc: there is no calibration of this model at {place}."
        raise ConfigError(message, hint=hint, param="tiers.kvtc_calibration") from None
    except (ArtifactError, ValueError, OSError) as error:
        message = f"codec kvtc: {place} cannot be used: {error}."
        raise ConfigError(message, hint=hint, param="tiers.kvtc_calibration") from None
    why = f"{place.name}: error {codec.expected_error:.2%} of the energy expected"
    return codec, Decision("tiers.kvtc", f"{config.kvtc_ratio:g}x", why)
