"""One line of the checklist."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


class Status(enum.Enum):
    """UNKNOWN: nothing that was looked at says it."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """`code` is stable, for programs. `evidence`: what was seen, and where. `action`: what to do;
    empty where it passed. `numbers`: the evidence by name, units in the name."""

    code: str
    title: str
    status: Status
    evidence: str
    action: str = ""
    numbers: Mapping[str, float | str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "code": self.code,
            "title": self.title,
            "status": self.status.value,
            "evidence": self.evidence,
            "action": self.action,
            "numbers": dict(self.numbers),
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """What an item asks for and how it is judged: `--explain` shows it."""

    code: str
    title: str
    how: str

    def passed(self, evidence: str, **numbers: float | str) -> Item:
        """It is so."""
        return self._item(Status.PASS, evidence, "", numbers)

    def failed(self, evidence: str, action: str, **numbers: float | str) -> Item:
        """It is not."""
        return self._item(Status.FAIL, evidence, action, numbers)

    def unknown(self, evidence: str, action: str, **numbers: float | str) -> Item:
        """It cannot be told. `action`: how it could."""
        return self._item(Status.UNKNOWN, evidence, action, numbers)

    def _item(
        self, status: Status, evidence: str, action: str, numbers: Mapping[str, float | str]
    ) -> Item:
        return Item(
            code=self.code, title=self.title, status=status, evidence=evidence, action=action,
            numbers=numbers,
        )  # fmt: skip


def first_known(*items: Item | None) -> Item:
    """The first that is not unknown: sources in the order of how much they are worth. Of unknown
    ones the first. At least one is not None."""
    given = [item for item in items if item is not None]
    return next((item for item in given if item.status is not Status.UNKNOWN), given[0])


def either(rule: Rule, *items: Item | None) -> list[Item]:
    """What is given; where nothing is, that it is unknown."""
    given = [item for item in items if item is not None]
    return given or [rule.unknown("neither a server nor settings were given", "Give one.")]


def counts(items: Iterable[Item]) -> dict[str, int]:
    """How many of each status."""
    found = {status.value: 0 for status in Status}
    for item in items:
        found[item.status.value] += 1
    return found
