"""Well-known models whose configurations ship as data: `models/*.json`, one file each.

    {"name": ..., "aliases": [...], "source": <where the values come from>, "config": {...}}

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
    config: Mapping[str, Any]


@functools.cache
def models() -> Mapping[str, KnownModel]:
    """Name -> model, by name."""
    found: dict[str, KnownModel] = {}
    for file in resources.files("stepwell.plan").joinpath("models").iterdir():
        if file.name.endswith(".json"):
            entry = json.loads(file.read_text(encoding="utf-8"))
            known = KnownModel(
                entry["name"], tuple(entry["aliases"]), entry["source"], entry["config"]
            )
            found[known.name] = known
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """Of all models."""
    return tuple(models())


def find(name: str) -> KnownModel | None:
    """By name or alias; the owner before a slash, case, and endings such as -Instruct do not
    matter."""
    wanted = _plain(name)
    for known in models().values():
        if wanted in {_plain(known.name), *map(_plain, known.aliases)}:
            return known
    return None


_ENDINGS = re.compile(r"-(instruct|chat|it|hf|base|thinking|\d{4}|v\d(\.\d)?)$")


def _plain(name: str) -> str:
    text = name.rsplit("/", 1)[-1].lower().replace("_", "-")
    text = text.replace("meta-llama-", "llama-")
    while (shorter := _ENDINGS.sub("", text)) != text:
        text = shorter
    return text
