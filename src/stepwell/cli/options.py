"""Options that several verbs share, and how they become a Config."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from stepwell.base.config import Config, describe_settings, load_config
from stepwell.base.errors import ConfigError, unknown_name

Model = Annotated[
    str | None,
    typer.Argument(help="Folder of a Hugging Face checkpoint, or `house` (ships with Stepwell)."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file, such as stepwell.toml.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Any setting, such as cache.block_size=32; repeatable. `stepwell config` lists them.",
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str | None, typer.Option(help="auto, bfloat16, float16 or float32.")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="checkpoint, lossless (bfloat16 in 12 bits), int8, int4 or nf4: how weights are kept "
        "in memory."
    ),
]
Kv = Annotated[str | None, typer.Option(help="model, int8 or int4: how the pool keeps K and V.")]
WeightsBudget = Annotated[
    str | None,
    typer.Option(help="Most memory for weights, such as 2GiB: the rest streams from disk; auto."),
]
Pool = Annotated[str | None, typer.Option(help="Size of the KV pool, such as 2GiB; auto.")]
MaxModelLen = Annotated[int | None, typer.Option(help="Longest sequence in tokens.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Explain = Annotated[bool, typer.Option("--explain", help="Print every automatic choice and why.")]


def make_config(
    *,
    model: str | None = None,
    file: Path | None = None,
    settings: Sequence[str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults, then the file, then `--set`, then flags (None values are ignored).

    Raises ConfigError.
    """
    overrides: dict[str, Any] = {}
    for item in settings or ():
        key, separator, value = item.partition("=")
        if not separator:
            name = item.partition(":")[0]  # what follows may be a value, and that a secret
            raise ConfigError(f"--set {name!r} has no value.", hint="Write section.key=value.")
        overrides[key.strip()] = _read_value(key.strip(), value.strip())
    overrides |= {key: value for key, value in (flags or {}).items() if value is not None}
    if model is not None:
        overrides["model.path"] = model
    return load_config(file, overrides)


def _read_value(key: str, text: str) -> Any:
    """`text` as the type that the setting has. Raises ConfigError for an unknown setting."""
    types = {name: kind for name, kind, _, _ in describe_settings()}
    if key not in types:
        message, hint = unknown_name("setting", key, types)
        raise ConfigError(message, hint=hint, param=key)
    kind = types[key]
    if kind == "string" or "|" in kind:
        return text
    if kind == "list of strings" and not text.startswith("["):
        return [part for part in text.split(",") if part]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        shown = "not readable" if kind == "list of strings" else repr(text)  # keys are secret
        raise ConfigError(f"{key} is {shown}.", hint=f"It must be a {kind}.") from error
