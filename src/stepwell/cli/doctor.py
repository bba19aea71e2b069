"""`stepwell doctor`: a URL is examined; the other parts are verbs beside it.

Verbs are loaded when they are used: each is the `app` of `stepwell.cli.doctor_<verb>`.
"""

from __future__ import annotations

from typing import Any

import typer

from stepwell.cli.lazy import LazyVerbs

LIVE = "live"
VERBS = (LIVE, "oom", "leaks", "checklist")
_HELP = ("-h", "--help")


class DoctorVerbs(LazyVerbs):
    """What is not the name of a verb is the URL of a server, which `live` examines."""

    verbs = VERBS
    prefix = "stepwell.cli.doctor_"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """With `live` put before an address, before options, and where nothing is given. A bare
        word is a verb, if only a misspelt one: an address has a dot, a colon or a slash."""
        first = args[0] if args else ""
        if not first or _is_address(first) or (first.startswith("-") and first not in _HELP):
            args = [LIVE, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does, with the verb known for its suggestions."""
        self.commands = {verb: self.get_command(ctx, verb) for verb in self.list_commands(ctx)}
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=DoctorVerbs, add_completion=False, rich_markup_mode="rich")


@app.callback()
def doctor() -> None:
    """Why is it slow, or out of memory? [bold]stepwell doctor URL[/bold] examines a live server
    (options: [bold]stepwell doctor live --help[/bold]); the verbs below do the rest.

    Example: [bold]stepwell doctor http://127.0.0.1:8000[/bold]
    """


def _is_address(word: str) -> bool:
    return word == "localhost" or (word[0] != "-" and any(mark in word for mark in ".:/"))
