"""The `stepwell` command itself: finds the verb, loads only its module, prints errors."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import typer
from typer.core import TyperGroup

import stepwell
from stepwell.base.errors import ConfigError, RequestError, StepwellError
from stepwell.hardware.collector import collect_rarely
from stepwell.hardware.threads import bound_spinning

VERBS = (
    "serve",
    "chat",
    "generate",
    "demo",
    "plan",
    "doctor",
    "bench",
    "simulate",
    "cache",
    "calibrate",
    "evaluate",
    "config",
    "version",
)
"""Verb -> module `stepwell.cli.<verb>`, in the order that help shows."""


class LazyVerbs(TyperGroup):
    """Imports a verb's module when the verb is used (or help lists it)."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Verbs whose module is installed."""
        return [verb for verb in VERBS if importlib.util.find_spec(_module(verb)) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a verb, None if there is no such verb."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = typer.main.get_command(importlib.import_module(_module(cmd_name)).app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does, with the verbs known for its suggestions."""
        self.commands = {verb: self.get_command(ctx, verb) for verb in args[:1] if verb in VERBS}
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=LazyVerbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(stepwell.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Serve large language models from a memory hierarchy.

    Start here: [bold]stepwell demo[/bold] shows it working, offline, in about a minute.
    Then [bold]stepwell serve house[/bold] and point any OpenAI client at the printed address.
    """


def run() -> None:
    """Entry point: runs the command line and exits with 0, 1 (failed) or 2 (wrong usage)."""
    bound_spinning()
    collect_rarely()
    try:
        app(prog_name="stepwell")
    except StepwellError as error:
        print_error(error)
        sys.exit(2 if isinstance(error, ConfigError | RequestError) else 1)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stepwell"):
            raise
        hint = "Install it with: pip install 'stepwell[engine,server]'."
        print(
            f"stepwell: error [missing_package]: {error.name} is not installed. {hint}",
            file=sys.stderr,
        )
        sys.exit(1)
    except BrokenPipeError:  # `stepwell ... | head`
        sys.stderr.close()
        sys.exit(1)


def print_error(error: StepwellError) -> None:
    """One line: the code, what is wrong and what to do."""
    hint = f" {error.hint}" if error.hint else ""
    print(f"stepwell: error [{error.code}]: {error.message}{hint}", file=sys.stderr)


def _module(verb: str) -> str:
    return f"stepwell.cli.{verb}"


if __name__ == "__main__":
    run()
