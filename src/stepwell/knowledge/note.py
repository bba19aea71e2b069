"""Notes: what a client says of its session's state (what the last result was, what was agreed).

They are quoted as data like entries, in the session's own requests only; nothing of them is
captured or released.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass

from stepwell.knowledge.errors import InvalidEntry, UnsafeEntry
from stepwell.knowledge.render import quoted_lines
from stepwell.knowledge.safety import lint_texts

LONGEST_NOTE = 2000
"""Characters of one note."""
MOST_NOTES = 32
"""Of one session."""
MOST_CHARACTERS = 8192
"""Of all rendered notes of one session together."""
QUOTED = 8
"""Characters from which on a text that repeats another counts as a quotation of it."""
_ID = "note-"


@dataclass(frozen=True, slots=True)
class Note:
    """`id` is random: what was computed of an erased note can be told from what is written anew."""

    id: str
    text: str

    def render(self) -> str:
        """As a model is given it, the same bytes each time."""
        return f"[note]\n{quoted_lines([self.text])}"

    def quotes(self, texts: Collection[str]) -> bool:
        """Whether it repeats one of the texts."""
        own = self.text.casefold()
        return any(text.casefold() in own for text in texts if len(text) >= QUOTED)


def make_note(text: str) -> Note:
    """Raises InvalidEntry for a text that is empty or too long, UnsafeEntry for one that would keep
    an entry from being confirmed: it would stand in a context at once."""
    if not text.strip():
        raise InvalidEntry("the note is empty.", hint="A text.", param="text")
    if len(text) > LONGEST_NOTE:
        raise InvalidEntry(
            f"the note has {len(text)} characters.",
            hint=f"At most {LONGEST_NOTE}.",
            param="text",
        )
    if findings := lint_texts([text]):
        raise UnsafeEntry(
            f"the note has findings: {', '.join(findings)}.", hint="Reword it.", param="text"
        )
    return Note(f"{_ID}{secrets.token_hex(8)}", text)


def is_note(name: str) -> bool:
    """Whether an id is a note's and not an entry's."""
    return name.startswith(_ID)
