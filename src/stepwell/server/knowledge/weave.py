"""Where knowledge stands in a conversation, so that its beginning stays the same bytes.

A block of quoted text precedes the words of a user message, never those of the system's. The first
user message begins with the release's pack; each later one gets only what no earlier block of the
conversation has. Blocks that were given before are repeated byte for byte, found by the words of
the conversation up to their message, so that a client that resends its history finds the same
prompt cached. Where the client has edited its history, what followed the edit is not found, and the
conversation goes on from there.

Pure: no clock, no files, no tokenizer.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SEPARATOR = "\n"
"""Between a block and the client's words: an empty line."""


class Course(enum.Enum):
    """How a conversation goes on.

    BEGUN: its first request. EXTENDED: all that was given before is repeated. EDITED: the client
    changed its history, so that some block was not found. LOST: there is history, and no memory of
    it. RELEASED, WITHDRAWN, OUTGROWN: it starts over, since the release changed, since something
    that was given may no longer be, or since the blocks became too long.
    """

    BEGUN = "begun"
    EXTENDED = "extended"
    EDITED = "edited"
    LOST = "lost"
    RELEASED = "released"
    WITHDRAWN = "withdrawn"
    OUTGROWN = "outgrown"


@dataclass(frozen=True, slots=True)
class Block:
    """Rendered entries, and their ids in order."""

    text: str = ""
    ids: tuple[str, ...] = ()

    def plus(self, items: Sequence[Block]) -> Block:
        """With more after it."""
        return Block(
            self.text + "".join(item.text for item in items),
            self.ids + tuple(name for item in items for name in item.ids),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a question calls for. `pack`: the same for every request of a release and an area;
    `chosen`: one block an entry and a note, in the order in which they are to be read."""

    release: str
    pack: Block
    chosen: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a conversation was given: key of a user message -> block in front of it."""

    release: str
    blocks: Mapping[str, Block] = field(default_factory=dict)

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(name for block in self.blocks.values() for name in block.ids)

    @property
    def characters(self) -> int:
        """Of all blocks together."""
        return sum(len(block.text) for block in self.blocks.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Woven:
    """`messages`: for the template. `blocks`: those in them, in order; `earlier`: ids that stood in
    front of earlier messages already. `given`: to remember."""

    messages: list[dict[str, Any]]
    blocks: tuple[Block, ...]
    earlier: tuple[str, ...]
    given: Given
    course: Course


def last_question(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The words of the last user message; None without one."""
    places = _users(messages)
    return messages[places[-1]]["content"] if places else None


def weave(
    messages: Sequence[Mapping[str, Any]],
    offer: Offer,
    *,
    given: Given | None,
    gone: Collection[str] = (),
    limit: int,
) -> Woven:
    """Put an offer into the client's `messages`, which hold at least one of a user.

    `given`: what the conversation was given before, None where nothing is remembered. `gone`: ids
    of it that may no longer be shown. `limit`: characters that its blocks may have together.
    """
    places = _users(messages)
    keys = _keys(messages, places)
    course = _course(offer, given, gone=gone, limit=limit, turns=len(places))
    if course is Course.EXTENDED and given is not None:
        kept = given.blocks
        if not all(key in kept for key in keys[:-1]):
            course = Course.EDITED
    else:
        kept = {}
    blocks = [kept.get(key, Block()) for key in keys]
    if keys[0] not in kept:
        blocks[0] = offer.pack
    earlier = tuple(name for block in blocks[:-1] for name in block.ids)
    known = {*earlier, *blocks[-1].ids}
    new = [item for item in offer.chosen if not known.intersection(item.ids)]
    if new and not any(block.text for block in blocks):
        blocks[-1] = offer.pack  # nothing was given so far, not even the preamble
    blocks[-1] = blocks[-1].plus(new)
    placed = dict(zip(places, blocks, strict=True))
    out = [
        dict(message) | {"content": _joined(placed[i], message["content"])}
        if i in placed
        else dict(message)
        for i, message in enumerate(messages)
    ]
    remembered = dict(zip(keys, blocks, strict=True))
    return Woven(
        messages=out,
        blocks=tuple(blocks),
        earlier=earlier,
        given=Given(release=offer.release, blocks=dict(kept) | remembered),
        course=course,
    )


def _joined(block: Block, words: str) -> str:
    return f"{block.text}{SEPARATOR}{words}" if block.text else words


def _course(
    offer: Offer, given: Given | None, *, gone: Collection[str], limit: int, turns: int
) -> Course:
    if given is None:
        return Course.BEGUN if turns == 1 else Course.LOST
    if given.release != offer.release:
        return Course.RELEASED
    if not given.ids.isdisjoint(gone):
        return Course.WITHDRAWN
    return Course.OUTGROWN if given.characters > limit else Course.EXTENDED


def _users(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    return [i for i, message in enumerate(messages) if message["role"] == "user"]


def _keys(messages: Sequence[Mapping[str, Any]], places: Sequence[int]) -> list[str]:
    """Of each user message: a hash of what was said up to and including it. What the system says
    is left out: it may hold the time of day."""
    chain = hashlib.sha256()
    keys = []
    wanted = set(places)
    for i, message in enumerate(messages):
        if message["role"] == "system":
            continue
        for part in (message["role"], message["content"]):
            data = part.encode()
            chain.update(b"%d:" % len(data) + data)
        if i in wanted:
            keys.append(chain.hexdigest())
    return keys


def opening(messages: Sequence[Mapping[str, Any]]) -> str:
    """Names a conversation that the client gave no name: its first words."""
    return _keys(messages, _users(messages)[:1])[0]
