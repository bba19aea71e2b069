"""Every setting, where it comes from, and the check that it is one.

Order, later wins: defaults, `stepwell.toml`, command-line flags. Each part of the system receives
its own section and never the whole. "auto" values are resolved in `engine/resolve.py`, each with
a Decision.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.base.units import parse_bytes

AUTO = "auto"


def _setting(default: Any, text: str, *, secret: bool = False) -> Any:
    """A field with its help text, which the docs and `--help` show. `secret`: its value may hold
    one and is in no message and no repr."""
    return field(default=default, repr=not secret, metadata={"help": text, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """[model]: what is served."""

    path: str = _setting("house", "folder of a Hugging Face checkpoint, or `house`")
    name: str = _setting("", "name in the API; default: the last part of the path")
    device: Literal["auto", "cpu", "cuda"] = _setting("auto", "where weights and pool live")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = _setting(
        "auto", "precision of weights and KV; auto: as the checkpoint"
    )
    max_model_len: int = _setting(0, "longest sequence in tokens; 0: as the model allows")
    random_weights: bool = _setting(False, "fill the shape with random numbers (benchmarks only)")
    weights: Literal["checkpoint", "lossless", "int8", "int4", "nf4"] = _setting(
        "checkpoint",
        "how linear layers and the output head are kept; lossless: bfloat16 in 12 bits; for low "
        "bits see `stepwell evaluate precision`",
    )
    kv: Literal["model", "int8", "int4"] = _setting(
        "model", "how the pool keeps K and V; int8 and int4 hold more sessions in the same bytes"
    )
    weights_budget: str = _setting(
        "0",
        "most memory for weights, such as 2GiB: what exceeds it is read from disk in every step; "
        "auto: what free memory allows; 0: all stay in memory",
    )
    verify: bool = _setting(True, "compare an untested architecture with transformers at load")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """[cache]: the paged KV pool."""

    block_size: int = _setting(16, "tokens per block, a power of two")
    pool: str = _setting(AUTO, "size of the KV pool, such as 2GiB; auto: from free memory")
    prefix_caching: bool = _setting(True, "reuse blocks of equal prefixes")
    rolling: Literal["off", "kvtc"] = _setting(
        "off",
        "let a sequence outgrow the pool: its oldest tokens are kept coded; needs "
        "`stepwell calibrate`",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TiersConfig:
    """[tiers]: where idle context goes below the KV pool."""

    host: str = _setting("0", "host memory for idle context, such as 4GiB; 0: none")
    disk: str = _setting("", "folder for context on disk, which survives restarts; empty: none")
    disk_capacity: str = _setting("32GiB", "most bytes in that folder, index included")
    disk_free_floor: str = _setting("1GiB", "bytes that its filesystem keeps free")
    remote: str = _setting(
        "", "Valkey or Redis shared by replicas, as redis://host:6379/0", secret=True
    )
    remote_ttl: float = _setting(86400.0, "seconds after which the network tier forgets")
    host_codec: Literal["raw", "lossless", "fp8", "int8", "int4", "kvtc", "auto"] = _setting(
        "raw", "how bytes are kept in host memory; auto: what comes back fastest"
    )
    disk_codec: Literal["raw", "lossless", "fp8", "int8", "int4", "kvtc", "auto"] = _setting(
        "raw", "how bytes are kept on disk; auto: what comes back fastest"
    )
    remote_codec: Literal["raw", "lossless", "fp8", "int8", "int4", "kvtc", "auto"] = _setting(
        "raw", "how bytes are kept on the network tier; auto: what comes back fastest"
    )
    auto_error: float = _setting(
        0.0, "codec auto: largest squared error, as a share of the energy; 0: exact codecs only"
    )
    kvtc_ratio: float = _setting(16.0, "codec kvtc: 16-bit bytes over stored bytes")
    kvtc_error: float = _setting(
        0.0, "codec kvtc: error to aim at instead, as a share of the energy; 0: by ratio"
    )
    kvtc_limit: float = _setting(
        2.0, "codec kvtc: a chunk whose error exceeds the expected by this factor stays exact"
    )
    kvtc_calibration: str = _setting(
        "", "file of `stepwell calibrate`; empty: by the weights' hash in the cache folder"
    )
    exact_window: int = _setting(
        128, "last tokens of a session that lossy codecs leave exact; the first 4 always are"
    )
    policy: Literal["value", "lru", "s3fifo"] = _setting("value", "what stays when room is short")
    chunk_blocks: int = _setting(0, "blocks moved together; 0: from their size")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """[scheduler]: who runs in a step."""

    max_step_tokens: int = _setting(512, "tokens per step; longer prompts are chunked")
    max_sequences: int = _setting(64, "sequences per step")
    max_waiting: int = _setting(1024, "requests that may wait; more are refused with 429")
    ahead_ms: int = _setting(
        80,
        "decode steps that may run in one go, in milliseconds; their tokens come together; 0: one",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """[server]: the HTTP edge."""

    host: str = _setting("127.0.0.1", "address; any but loopback needs API keys")
    port: int = _setting(8000, "port; 0: any free one")
    api_keys: tuple[str, ...] = _setting(
        (),
        "keys as `tenant:key user=ann roles=propose,confirm workload=batch`; all but the key may "
        "be left out",
        secret=True,
    )
    api_keys_file: str = _setting("", "file with one such entry a line")
    max_body: str = _setting("4MiB", "largest request body")
    requests_per_minute: int = _setting(0, "per tenant; 0: no limit")
    tokens_per_minute: int = _setting(0, "prompt and output tokens per tenant; 0: no limit")
    request_timeout: float = _setting(600.0, "seconds until a request is aborted")
    shutdown_grace: float = _setting(30.0, "seconds for running requests when stopping")
    debug: bool = _setting(
        False, "serve /debug/memory for `stepwell doctor leaks`; each look holds the server up"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeConfig:
    """[knowledge]: what requests have taught, one base a tenant (docs/knowledge.md)."""

    folder: str = _setting(
        "", "folder of the tenants' knowledge bases; empty: none; needs stepwell[knowledge]"
    )
    capture: Literal["off", "quarantine"] = _setting(
        "off", "quarantine: what is proposed becomes a candidate, which a person must confirm"
    )
    confirmers: int = _setting(1, "people who must confirm an entry before it can be released")
    releaser: Literal["other", "anyone"] = _setting(
        "other", "other: who alone confirmed an entry cannot release it"
    )
    pack_tokens: int = _setting(4096, "most tokens that every request of an area is given in front")
    max_tokens: int = _setting(1024, "most tokens that one question selects besides")
    embedder: str = _setting(
        "", "sentence-transformers model, a folder; empty: search by words and names alone"
    )
    pin: bool = _setting(True, "keep the KV of the current release's packs in the cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All sections of `stepwell.toml`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    tiers: TiersConfig = field(default_factory=TiersConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    knowledge: KnowledgeConfig = field(default_factory=KnowledgeConfig)

    def __post_init__(self) -> None:
        _check(self)


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Settings from a file (if given) with `section.key` overrides (None values are ignored).

    Raises ConfigError for a file that cannot be read, an unknown key or a wrong value.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    for dotted, value in (overrides or {}).items():
        if value is not None:
            section, key = dotted.split(".")
            table.setdefault(section, {})[key] = value
    return _build(Config, table, where="")


def describe_settings() -> list[tuple[str, str, str, str]]:
    """(`section.key`, type, default, help) of every setting, for the docs and `--help`."""
    rows = []
    for section in dataclasses.fields(Config):
        cls = typing.get_type_hints(Config)[section.name]
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            name = f"{section.name}.{item.name}"
            rows.append(
                (name, _type_name(hints[item.name]), repr(item.default), item.metadata["help"])
            )
    return rows


def _build(cls: Any, table: Mapping[str, Any], *, where: str) -> Any:
    hints = typing.get_type_hints(cls)
    secret = {item.name for item in dataclasses.fields(cls) if item.metadata.get("secret")}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{where}{key}"
        if key not in hints:
            kind = f"setting in [{where[:-1]}]" if where else "section"
            message, hint = unknown_name(kind, key, hints)
            raise ConfigError(message, hint=hint, param=name)
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name} must be a section.", hint=f"Write [{name}].", param=name)
            values[key] = _build(hints[key], value, where=f"{name}.")
        else:
            shown = f"a {type(value).__name__}" if key in secret else repr(value)
            values[key] = _coerce(name, value, hints[key], shown=shown)
    return cls(**values)


def _coerce(name: str, value: Any, hint: Any, *, shown: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value in typing.get_args(hint):
            return value
        valid = ", ".join(typing.get_args(hint))
        raise ConfigError(f"{name} is {shown}.", hint=f"Valid: {valid}.", param=name)
    if (
        origin is tuple
        and isinstance(value, list | tuple)
        and all(isinstance(item, str) for item in value)
    ):
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (str, int, float, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{name} is {shown}.", hint=f"It must be a {_type_name(hint)}.", param=name)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " | ".join(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "list of strings"
    if isinstance(hint, types.UnionType):
        return str(hint)
    return {str: "string", int: "integer", float: "number", bool: "boolean"}[hint]


def _check(config: Config) -> None:
    """Ranges that single fields cannot express."""
    size = config.cache.block_size
    _require(size >= 1 and size & (size - 1) == 0, "cache.block_size", size, "a power of two")
    if config.cache.pool != AUTO:
        _require(parse_bytes(config.cache.pool) > 0, "cache.pool", config.cache.pool, "positive")
    budget = config.model.weights_budget
    if budget != AUTO:
        _require(parse_bytes(budget) >= 0, "model.weights_budget", budget, "a size, auto or 0")
    tiers = config.tiers
    _require(parse_bytes(tiers.host) >= 0, "tiers.host", tiers.host, "a size, or 0")
    for name in ("disk_capacity", "disk_free_floor"):
        value = getattr(tiers, name)
        _require(parse_bytes(value) > 0, f"tiers.{name}", value, "positive")
    _require(0 <= tiers.chunk_blocks <= 64, "tiers.chunk_blocks", tiers.chunk_blocks, "0 to 64")
    _require(0 <= tiers.auto_error < 1, "tiers.auto_error", tiers.auto_error, "0 to 1")
    _require(1 < tiers.kvtc_ratio <= 256, "tiers.kvtc_ratio", tiers.kvtc_ratio, "1 to 256")
    _require(0 <= tiers.kvtc_error < 1, "tiers.kvtc_error", tiers.kvtc_error, "0 to 1")
    _require(tiers.kvtc_limit >= 1, "tiers.kvtc_limit", tiers.kvtc_limit, "1 or more")
    _require(tiers.exact_window >= 0, "tiers.exact_window", tiers.exact_window, "0 or more")
    _require(tiers.remote_ttl > 0, "tiers.remote_ttl", tiers.remote_ttl, "positive")
    for name in ("max_step_tokens", "max_sequences", "max_waiting"):
        value = getattr(config.scheduler, name)
        _require(value >= 1, f"scheduler.{name}", value, "at least 1")
    ahead = config.scheduler.ahead_ms
    _require(0 <= ahead <= 1000, "scheduler.ahead_ms", ahead, "between 0 and 1000")
    _require(
        config.model.max_model_len >= 0,
        "model.max_model_len",
        config.model.max_model_len,
        "0 or more",
    )
    server = config.server
    _require(0 <= server.port <= 65535, "server.port", server.port, "between 0 and 65535")
    _require(parse_bytes(server.max_body) > 0, "server.max_body", server.max_body, "positive")
    for name in ("requests_per_minute", "tokens_per_minute", "request_timeout", "shutdown_grace"):
        value = getattr(server, name)
        _require(value >= 0, f"server.{name}", value, "0 or more")
    knowledge = config.knowledge
    _require(1 <= knowledge.confirmers <= 9, "knowledge.confirmers", knowledge.confirmers, "1 to 9")
    for name in ("pack_tokens", "max_tokens"):
        value = getattr(knowledge, name)
        _require(0 <= value <= 1 << 20, f"knowledge.{name}", value, "0 to 1048576")


def _require(valid: bool, name: str, value: object, expected: str) -> None:  # noqa: FBT001
    if not valid:
        raise ConfigError(f"{name} is {value!r}.", hint=f"It must be {expected}.", param=name)
