"""A model's configuration, read strictly: a field that is missing and has no known default is an
error that names it, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.base.errors import UnknownArchitecture


@dataclass(frozen=True, slots=True)
class Fields:
    """`values`: config.json (its text part), `defaults`: what transformers takes where a field is
    not in the file. A field that is null counts as missing."""

    model_type: str
    values: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """The value, else the architecture's default, else `default`."""
        for source in (self.values, self.defaults):
            if source.get(name) is not None:
                return source[name]
        return default

    def number(self, *names: str) -> int:
        """The first of these that is there, as a whole number above zero or zero."""
        for name in names:
            value = self.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                return value
            if value is not None:
                raise self.refused(f"{name} is {value!r}, not a whole number")
        raise self.refused(f"{names[0]} is missing")

    def flag(self, name: str, default: bool) -> bool:  # noqa: FBT001
        """A true or false field."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.refused(f"{name} is {value!r}, not true or false")
        return value

    def refused(self, why: str) -> UnknownArchitecture:
        """The error for what cannot be derived from this configuration."""
        return UnknownArchitecture(
            f"{self.model_type!r}: {why}.",
            hint="Plan from a folder with config.json and *.safetensors, or from a listed model: "
            "`stepwell plan --list`.",
        )
