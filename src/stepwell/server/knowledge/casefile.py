"""Golden cases: questions that each release must not make worse, kept beside the tenant's base.

A case passes when all of `expect` and none of `forbid` is there: in the context, as the id of an
entry or as text of it, or (`reads: answer`) in what the served model answers when it is given that
context. One JSON file a tenant, written whole.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepwell.knowledge.context import Context
from stepwell.knowledge.errors import KnowledgeDamaged
from stepwell.knowledge.harness import Case, CaseKind


class Reads(enum.Enum):
    """What a case looks at."""

    CONTEXT = "context"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One case. Matching is by exact text, whatever its case."""

    id: str
    question: str
    expect: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    area: str = ""
    kind: str = CaseKind.GOLDEN.value
    reads: str = Reads.CONTEXT.value
    by: str = ""

    def case(self) -> Case:
        """For the harness, which knows the rest by the id."""
        return Case(id=self.id, question=self.question, area=self.area, kind=CaseKind(self.kind))

    def holds(self, text: str, ids: tuple[str, ...] = ()) -> bool:
        """Whether a text has all that is expected and nothing that is forbidden."""
        folded = text.casefold()

        def there(wanted: str) -> bool:
            return wanted in ids or wanted.casefold() in folded

        return all(map(there, self.expect)) and not any(map(there, self.forbid))

    def quotes(self, texts: Collection[str]) -> bool:
        """Whether it repeats one of the texts."""
        own = "\n".join((self.question, *self.expect, *self.forbid)).casefold()
        return any(text.casefold() in own for text in texts if text.strip())

    def holds_in(self, context: Context) -> bool:
        """Of a context."""
        return self.holds(context.text, context.ids)


class CaseFile:
    """All cases of a tenant. On the tenant's thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Golden]:
        """By id. Raises KnowledgeDamaged."""
        try:
            rows = json.loads(self._path.read_text(encoding="utf-8"))
            return {row["id"]: Golden(**_tuples(row)) for row in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise KnowledgeDamaged(
                f"{self._path.name} cannot be read: {error!r}.", hint="Restore a backup."
            ) from None

    def forget(self, texts: Collection[str]) -> None:
        """Drop the cases that repeat one of the texts (erasing)."""
        held = self.read()
        left = {name: golden for name, golden in held.items() if not golden.quotes(texts)}
        if len(left) < len(held):
            self.write(left)

    def write(self, cases: Mapping[str, Golden]) -> None:
        """All of them, in order of id; a kill leaves the old file or the new one."""
        rows = [asdict(cases[name]) for name in sorted(cases)]
        fresh = self._path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
