"""Well-known models whose configurations ship as data: `models/*.json`, one file each.

    {"name": ..., "aliases": [...], "source": <where the values come from>, "notes": [...],
     "config": {...}}

`config` holds those fields of the published config.json that the planner reads.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One file."""

    name: str
    aliases: tuple[str, ...]
    source: str
    notes: tuple[str, ...]
    config: Mapping[str, Any]


@functools.cache
def models() -> Mapping[str, KnownModel]:
    """Name -> model, by name."""
    found: dict[str, KnownModel] = {}
    for file in resources.files("stepwell.plan").joinpath("models").iterdir():
        if file.name.endswith(".json"):
            entry = json.loads(file.read_text(encoding="utf-8"))
            known = KnownModel(
                name=entry["name"],
                aliases=tuple(entry["aliases"]),
                source=entry["source"],
                notes=tuple(entry.get("notes", ())),
                config=entry["config"],
            )
            found[known.name] = known
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """Of all models."""
    return tuple(models())


def find(name: str) -> KnownModel | None:
    """By name or alias. Case, the owner before a slash, and endings such as -Instruct do not
    matter."""
    spelled = {
        _plain(each): known for known in models().values() for each in (known.name, *known.aliases)
    }
    wanted = _plain(name)
    return spelled.get(wanted) or spelled.get(_ENDING.sub("", wanted))


_ENDING = re.compile(r"-(instruct|chat|it|hf|base)$")


def _plain(name: str) -> str:
    text = name.rsplit("/", 1)[-1].lower().replace("_", "-")
    return text.removeprefix("meta-")
