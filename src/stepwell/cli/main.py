"""The `stepwell` command itself: finds the verb, loads only its module, prints errors."""

from __future__ import annotations

import sys
from typing import Any

import typer

import stepwell
from stepwell.base.errors import ConfigError, RequestError, StepwellError
from stepwell.cli.lazy import LazyVerbs
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
    "kb",
    "calibrate",
    "evaluate",
    "config",
    "version",
)
"""Verb -> module `stepwell.cli.<verb>`, in the order that help shows."""


class Verbs(LazyVerbs):
    """All of them."""

    verbs = VERBS
    prefix = "stepwell.cli."

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does, with the verbs known for its suggestions."""
        self.commands = {verb: self.get_command(ctx, verb) for verb in args[:1] if verb in VERBS}
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Verbs,
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


if __name__ == "__main__":
    run()
