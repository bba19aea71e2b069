"""Typed reading of one JSON object: each getter names the field that is wrong.

`null` counts as absent, as OpenAI's API treats it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from stepwell.base.errors import InvalidParameter, unknown_name


class Fields:
    """A JSON object of a request. `prefix` is put before names in errors (`stream_options.`)."""

    def __init__(self, values: Mapping[str, Any], *, prefix: str = "") -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._prefix = prefix

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        """The value as it came, None if absent."""
        return self._values.get(name)

    def refuse_unknown(self, valid: Collection[str], *, also: Collection[str] = ()) -> None:
        """Raise InvalidParameter for the first name in neither, with the nearest of `valid`."""
        for name in self._values:
            if name not in valid and name not in also:
                message, hint = unknown_name("field", self._prefix + name, valid)
                raise InvalidParameter(message, hint=hint, param=self._prefix + name)

    def integer(self, name: str, default: int | None = None) -> int | None:
        """An integer (2.0 is one, true is not)."""
        value = self._values.get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.wrong(name, "an integer")
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number")
        if value != value or value in (float("inf"), float("-inf")):
            raise self.wrong(name, "a finite number")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:  # noqa: FBT001
        """true or false."""
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def string(self, name: str, default: str) -> str:
        """A string."""
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """A string, or a list of them (nulls inside are dropped); absent: none."""
        value = self._values.get(name, [])
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            items = [item for item in value if item is not None]
            if all(isinstance(item, str) for item in items):
                return tuple(items)
        raise self.wrong(name, "a string or a list of strings")

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers; absent: none."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise self.wrong(name, "a list of integers")
        return tuple(value)

    def table(self, name: str) -> dict[str, Any] | None:
        """An object; None if absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return value

    def wrong(self, name: str, expected: str) -> InvalidParameter:
        """The error for a value of the wrong kind (returned, not raised)."""
        value = repr(self._values.get(name))
        shown = value if len(value) <= 60 else value[:57] + "..."
        full = self._prefix + name
        return InvalidParameter(f"{full} must be {expected}, not {shown}.", param=full)


def check_text(text: str, *, where: str) -> str:
    """The text, if it can be encoded. JSON can carry half of a surrogate pair, UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidParameter(
            f"{where} has half of a surrogate pair at character {error.start}.", param=where
        ) from error
    return text
