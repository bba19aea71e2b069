"""What a reply says of the knowledge that its request was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """One entry of a request's context. `pattern`: session (given earlier in the conversation),
    domain, usage or gotcha."""

    id: str
    kind: str
    pattern: str

    def as_dict(self) -> dict[str, str]:
        return {"id": self.id, "kind": self.kind, "pattern": self.pattern}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """`notes`: ids of the session's. `why`: one table an entry where `explain` was asked for, else
    None. `context_tokens`: of all blocks in the prompt; in shadow mode those it would have."""

    release: str
    mode: str
    entries: Sequence[Mention]
    notes: Sequence[str]
    context_tokens: int
    why: Sequence[Mapping[str, Any]] | None = field(default=None)

    def as_dict(self, *, cached_tokens: int) -> dict[str, Any]:
        """As the reply has it. `cached_tokens`: the engine's count of the whole prompt."""
        said: dict[str, Any] = {
            "release": self.release,
            "mode": self.mode,
            "entries": [entry.as_dict() for entry in self.entries],
            "notes": list(self.notes),
            "context_tokens": self.context_tokens,
            "cached_tokens": cached_tokens,
        }
        if self.why is not None:
            said["why"] = list(self.why)
        return said
