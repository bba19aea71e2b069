"""A group of verbs of which each is a module, imported when it is used or help lists it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class LazyVerbs(TyperGroup):
    """Subclasses say `verbs`, in the order that help shows, and the `prefix` of their modules, each
    of which has a typer `app`."""

    verbs: ClassVar[tuple[str, ...]] = ()
    prefix: ClassVar[str] = ""

    def list_commands(self, ctx: Any) -> list[str]:
        """Verbs whose module is installed."""
        return [v for v in self.verbs if importlib.util.find_spec(self.prefix + v) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a verb, None if there is no such verb."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = typer.main.get_command(importlib.import_module(self.prefix + cmd_name).app)
        command.name = cmd_name
        return command
