"""What one request is given: found in its tenant's base, woven into its messages, remembered.

On the tenant's thread. Bound to one request by `Books`; `protocol.prepare` calls it once it has
checked everything else in the body.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.base.config import KnowledgeConfig
from stepwell.base.prefix import Mark
from stepwell.base.request import GenerationRequest
from stepwell.knowledge.context import Context
from stepwell.knowledge.note import MOST_CHARACTERS, Note, is_note
from stepwell.knowledge.payload import Kind
from stepwell.knowledge.policy import Scope, Session
from stepwell.knowledge.render import PREAMBLE, ids_in, render_entry
from stepwell.knowledge.retrieve import CAUTIONS, USAGE
from stepwell.server.auth import Caller
from stepwell.server.knowledge.books import Book
from stepwell.server.knowledge.counts import KnowledgeCounts
from stepwell.server.knowledge.memory import Conversation, Reply
from stepwell.server.knowledge.ports import Gave, Keeper, Served
from stepwell.server.knowledge.tokens import TokenCounter
from stepwell.server.knowledge.told import Mention, Told
from stepwell.server.knowledge.weave import (
    Block,
    Offer,
    Woven,
    last_question,
    opening,
    weave,
)
from stepwell.server.knowledge.wish import LATEST, Mode, Wish

_CHARACTERS_A_TOKEN = 4
_TURNS = 16
"""A conversation starts over when its blocks exceed the pack, all notes that it may have and this
many full answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BookGiver:
    """Gives one caller what a book holds."""

    book: Book
    caller: Caller
    settings: KnowledgeConfig
    count_tokens: TokenCounter
    counts: KnowledgeCounts
    keeper: Keeper

    def chat(self, messages: Sequence[Mapping[str, Any]], wish: Wish, *, reply_id: str) -> Gave:
        """Where no user has spoken yet there is no question: nothing is given."""
        question = last_question(messages)
        if question is None:
            return self._nothing(messages, wish)
        name = wish.session or f"={opening(messages)}"
        conversation = Conversation(self.caller.person, wish.area, name)
        if wish.mode is Mode.SHADOW:
            woven, context = self._fresh(messages, question, wish)
            return self._gave(list(map(dict, messages)), woven, context, wish)
        if self._is_older(wish):
            return self._as_of(messages, question, wish, conversation, reply_id)
        context = self._context(question, wish, name)
        before = self.book.memory.conversations.get(conversation)
        notes = self._notes(wish)
        shown = before.ids if before is not None else frozenset()
        woven = weave(
            messages,
            _offer(context, notes),
            given=before,
            gone=shown - self.book.base.visible(shown, self._scope(wish)) - _ids(notes),
            limit=self._limit(),
        )
        self.book.memory.conversations.put(conversation, woven.given)
        self._remember(reply_id, conversation, question, woven, context)
        self.counts.course(woven.course)
        return self._gave(woven.messages, woven, context, wish)

    def prompt(self, text: str, wish: Wish, *, reply_id: str) -> Gave:
        """A plain prompt has no turns: pack and chosen entries stand in front of it."""
        messages = [{"role": "user", "content": text}]
        woven, context = self._fresh(messages, text, wish)
        if wish.mode is Mode.SHADOW:
            return self._gave(messages, woven, context, wish)
        conversation = Conversation(self.caller.person, wish.area, reply_id)
        self._remember(reply_id, conversation, text, woven, context)
        self.counts.course(woven.course)
        return self._gave(woven.messages, woven, context, wish)

    def _as_of(
        self,
        messages: Sequence[Mapping[str, Any]],
        question: str,
        wish: Wish,
        conversation: Conversation,
        reply_id: str,
    ) -> Gave:
        """Of a release that is not in force: each request on its own."""
        woven, context = self._fresh(messages, question, wish)
        self._remember(reply_id, conversation, question, woven, context)
        return self._gave(woven.messages, woven, context, wish)

    def _nothing(self, messages: Sequence[Mapping[str, Any]], wish: Wish) -> Gave:
        self.counts.gave(wish.mode, 0)
        told = Told(
            release=self.book.base.current,
            mode=wish.mode.value,
            entries=(),
            notes=(),
            context_tokens=0,
            why=[] if wish.explain else None,
        )
        return Gave(
            messages=list(map(dict, messages)),
            told=told,
            area=wish.area,
            release=told.release,
            pack="",
            ids=(),
        )

    def sent(self, gave: Gave, request: GenerationRequest) -> tuple[Mark, ...]:
        """Tell who keeps the KV of packs, who says where in the prompt the entries are."""
        return self.keeper.saw(
            Served(
                tenant=self.book.tenant,
                area=gave.area,
                release=gave.release,
                pack=gave.pack,
                ids=gave.ids,
                messages=gave.messages,
                request=request,
            )
        )

    def _fresh(
        self, messages: Sequence[Mapping[str, Any]], question: str, wish: Wish
    ) -> tuple[Woven, Context]:
        """As for a conversation that begins here and is not remembered."""
        context = self._context(question, wish, None)
        offer = _offer(context, self._notes(wish))
        return weave(messages, offer, given=None, limit=self._limit()), context

    def _scope(self, wish: Wish) -> Scope:
        return Scope(area=wish.area, user=self.caller.person)

    def _notes(self, wish: Wish) -> tuple[Note, ...]:
        """Of the session that the body names; a conversation without a name has none."""
        if wish.session is None:
            return ()
        return self.book.base.notes(Session(id=wish.session, scope=self._scope(wish)))

    def _context(self, question: str, wish: Wish, name: str | None) -> Context:
        """`name`: of the session that remembers it."""
        began = time.perf_counter()
        base = self.book.base
        most = self.settings.max_tokens if wish.max_tokens is None else wish.max_tokens
        if self._is_older(wish):
            context = base.context_of(wish.release, question, area=wish.area, budget_tokens=most)
        elif name is None:
            context = base.context_once(question, self._scope(wish), most)
        else:
            session = Session(id=name, scope=self._scope(wish))
            context = base.context(question, session, most)
        self.counts.retrieved(time.perf_counter() - began)
        return context

    def _is_older(self, wish: Wish) -> bool:
        return wish.release not in (LATEST, self.book.base.current)

    def _limit(self) -> int:
        tokens = self.settings.pack_tokens + _TURNS * self.settings.max_tokens
        return _CHARACTERS_A_TOKEN * tokens + MOST_CHARACTERS

    def _remember(
        self,
        reply_id: str,
        conversation: Conversation,
        question: str,
        woven: Woven,
        context: Context,
    ) -> None:
        reply = Reply(
            conversation=conversation,
            question=question,
            ids=tuple(name for block in woven.blocks for name in block.ids),
            release=context.release,
        )
        self.book.memory.replies.put(reply_id, reply)

    def _gave(
        self, messages: list[dict[str, Any]], woven: Woven, context: Context, wish: Wish
    ) -> Gave:
        mentions = _mentions(woven, context)
        ids = tuple(dict.fromkeys(name for block in woven.blocks for name in block.ids))
        told = Told(
            release=context.release,
            mode=wish.mode.value,
            entries=mentions,
            notes=tuple(filter(is_note, ids)),
            context_tokens=sum(self.count_tokens(b.text) for b in woven.blocks),
            why=_why(mentions, context) if wish.explain else None,
        )
        self.counts.gave(wish.mode, len(mentions))
        return Gave(
            messages=messages,
            told=told,
            area=wish.area,
            release=context.release,
            pack=context.pack,
            ids=ids,
        )


def _offer(context: Context, notes: Sequence[Note]) -> Offer:
    """What is in the pack, what this question chose besides, and the session's notes, each once."""
    pack = Block(context.pack or (PREAMBLE if notes else ""), ids_in(context.pack))
    fresh = set(context.fresh)
    chosen = tuple(
        Block(render_entry(entry), (entry.id,))
        for entry in context.entries
        if entry.id in fresh and entry.id not in pack.ids
    )
    noted = tuple(Block(note.render(), (note.id,)) for note in notes)
    return Offer(release=context.release, pack=pack, chosen=(*chosen, *noted))


def _ids(notes: Sequence[Note]) -> frozenset[str]:
    return frozenset(note.id for note in notes)


def _mentions(woven: Woven, context: Context) -> list[Mention]:
    packed = set(ids_in(context.pack))
    earlier = set(woven.earlier)
    found = []
    for name in dict.fromkeys(name for block in woven.blocks for name in block.ids):
        if is_note(name):
            continue
        kind = Kind(name.rpartition("-")[0])
        again = name in earlier and name not in packed
        found.append(Mention(id=name, kind=kind.value, pattern=_pattern(kind, again=again)))
    return found


def _pattern(kind: Kind, *, again: bool) -> str:
    if again:
        return "session"
    if kind in CAUTIONS:
        return "gotcha"
    return "usage" if kind in USAGE else "domain"


def _why(mentions: Sequence[Mention], context: Context) -> list[dict[str, str | bool]]:
    """Where each entry stands, and whether this question called for it."""
    packed = set(ids_in(context.pack))
    tail = set(ids_in(context.tail))
    return [
        {
            "id": mention.id,
            "part": "pack" if mention.id in packed else _part(mention, tail),
            "pattern": mention.pattern,
            "selected": mention.id in context.fresh,
        }
        for mention in mentions
    ]


def _part(mention: Mention, tail: set[str]) -> str:
    if mention.pattern == "session":
        return "session"
    return "tail" if mention.id in tail else "chosen"
