"""`stepwell version`: what is installed."""

from __future__ import annotations

import importlib.metadata
import platform

import typer

import stepwell
from stepwell.cli import options
from stepwell.cli.output import print_json, print_table

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_PACKAGES = ("torch", "transformers", "numba", "llguidance", "uvicorn", "prometheus-client")


@app.command()
def version(as_json: options.Json = False) -> None:
    """Show the versions of Stepwell and of what it runs on.

    Example: [bold]stepwell version --json[/bold]
    """
    rows = {"stepwell": stepwell.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            rows[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            rows[package] = "not installed"
    if as_json:
        print_json(rows)
    else:
        print_table("Versions", ("package", "version"), list(rows.items()))
