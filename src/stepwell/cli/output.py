"""Tables for people, JSON for programs, from the same rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stepwell.base.decisions import Decision


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout, as wide as its text where stdout is not a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table, markup=False)


def print_decisions(decisions: Sequence[Decision], *, as_json: bool) -> None:
    """The record of automatic choices."""
    if as_json:
        print_json([decision.as_dict() for decision in decisions])
        return
    rows = [(d.name, d.value, d.because) for d in decisions]
    print_table("Automatic choices", ("choice", "value", "because"), rows)


def note(text: str) -> None:
    """A dim line on stderr: progress and remarks, never results."""
    shown = f"\x1b[2m{text}\x1b[0m" if sys.stderr.isatty() else text
    print(shown, file=sys.stderr, flush=True)


@contextmanager
def moving_line() -> Iterator[Callable[[str], None]]:
    """What is going on, on stderr: a moving line on a terminal, a remark a step elsewhere."""
    if not sys.stderr.isatty():
        yield lambda text: None if text.startswith("load: ") else note(text)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting")
        yield lambda text: progress.update(task, description=text)


@contextmanager
def phase_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Phases of known length, on stderr: a bar on a terminal, a remark a phase elsewhere. What is
    given is called with what is being done, how much is done, and how much there is."""
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def say(what: str, done: int, total: int) -> None:
            if what not in seen:
                seen.add(what)
                note(what)

        yield say
        return
    from rich.console import Console
    from rich.progress import Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda what, done, total: progress.update(
            task, description=what, completed=done, total=total
        )
