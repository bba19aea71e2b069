"""A model's configuration, read strictly: a field that is missing and has no known default is an
error that names it, never a guess.

Defaults are those of transformers' configuration classes (`defaults.json`, written by
`scripts/write_plan_defaults.py`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from stepwell.base.errors import UnknownArchitecture

# A size beyond these is a mistake, or meant to keep us busy: layers are listed one by one.
_MOST, _MOST_LAYERS = 1 << 32, 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """`values`: config.json (its text part). `defaults`: what holds where a field is not in it.
    `also`: a field's other name. `dtype_bytes`: of a number the model computes with. A field that
    is null has no value, whatever the default, as in transformers."""

    model_type: str
    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)
    dtype_bytes: int = 2

    @classmethod
    def of(cls, model_type: str, values: Mapping[str, Any], *, dtype_bytes: int = 2) -> Fields:
        """With the defaults of that kind of model."""
        known = _known().get(model_type, {"defaults": {}, "also": {}})
        return cls(
            model_type=model_type,
            values=values,
            defaults=known["defaults"],
            also=known["also"],
            dtype_bytes=dtype_bytes,
        )

    def get(self, name: str, default: Any = None) -> Any:
        """The value, else that under the field's other name, else the default."""
        names = (name, self.also.get(name, name))
        for source in (self.values, self.defaults):
            for each in names:
                if each in source:
                    value = source[each]
                    return default if value is None else value
        return default

    def number(self, *names: str) -> int:
        """The first of these fields that the configuration has, else the first with a default, as
        a whole number of zero or more. Raises UnknownArchitecture."""
        given = [name for name in names if self.values.get(name) is not None]
        for name in (*given, *names):
            value = self.get(name)
            if value is None:
                continue
            most = _MOST_LAYERS if name == "num_hidden_layers" else _MOST
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most:
                return value
            raise self.refused(f"{name} is {str(value)[:40]}, not a whole number below {most}")
        raise self.refused(f"{names[0]} is missing")

    def optional(self, name: str) -> int | None:
        """A whole number, None where there is none. Raises UnknownArchitecture."""
        return None if self.get(name) is None else self.number(name)

    def flag(self, name: str, default: bool) -> bool:  # noqa: FBT001
        """A true or false field. Raises UnknownArchitecture."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.refused(f"{name} is {value!r}, not true or false")
        return value

    def refused(self, why: str) -> UnknownArchitecture:
        """The error for what cannot be derived from this configuration."""
        return UnknownArchitecture(
            f"{self.model_type!r}: {why}.",
            hint="`stepwell plan --list` names the models and kinds of models that are known.",
        )


@functools.cache
def _known() -> Mapping[str, Any]:
    place = resources.files("stepwell.plan").joinpath("defaults.json")
    known: Mapping[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return known
