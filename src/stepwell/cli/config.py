"""`stepwell config`: every setting, or the check of a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from stepwell.base.config import describe_settings, load_config
from stepwell.base.secrets import redact_url
from stepwell.cli import options
from stepwell.cli.output import print_json, print_table

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_COLUMNS = ("setting", "type", "default", "meaning")


@app.command()
def config(
    check: Annotated[
        Path | None, typer.Option("--check", help="Check this file and show what it sets.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List every setting with its default, or check a settings file.

    Example: [bold]stepwell config --check stepwell.toml[/bold]
    """
    if check is not None:
        _check(check, as_json=as_json)
        return
    rows = describe_settings()
    if as_json:
        print_json([dict(zip(_COLUMNS, row, strict=True)) for row in rows])
    else:
        print_table("Settings of stepwell.toml, as section.key", _COLUMNS, rows)


def _check(path: Path, *, as_json: bool) -> None:
    """Show what differs from the defaults. Raises ConfigError for a wrong file."""
    loaded, defaults = load_config(path), load_config()
    changed = {
        f"{section.name}.{item.name}": _shown(f"{section.name}.{item.name}", value)
        for section in dataclasses.fields(loaded)
        for item in dataclasses.fields(getattr(loaded, section.name))
        if (value := getattr(getattr(loaded, section.name), item.name))
        != getattr(getattr(defaults, section.name), item.name)
    }
    if as_json:
        print_json({"file": str(path), "valid": True, "set": changed})
    else:
        print_table(f"{path} is valid; it sets", ("setting", "value"), list(changed.items()))


def _shown(name: str, value: object) -> object:
    """Keys and passwords are never printed."""
    if name == "server.api_keys":
        assert isinstance(value, tuple)
        return f"{len(value)} keys"
    if name == "tiers.remote":
        return redact_url(str(value))
    return value
