"""How much of the text in front of a question the prefix cache already knows.

Keys are those of the engine (`cache/keys.py`), tokens are words and single other characters. No
engine runs and nothing is evicted: what is counted is what the order of the text allows at best.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stepwell.base.config import Config
from stepwell.cache.keys import extend_keys, root_key
from stepwell.evaluate.knowledge_facts import facts
from stepwell.evaluate.knowledge_loop import Asked, make_course, open_base
from stepwell.evaluate.knowledge_world import World, make_worlds
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.entry import Entry, Source, Status
from stepwell.knowledge.payload import Payload, Schema, Template
from stepwell.knowledge.policy import Evidence, Scope, Session
from stepwell.knowledge.render import PREAMBLE, render_entry

CAPTURE_EVERY, RELEASE_EVERY = 10, 100
REQUESTS = 600
_HEAD = "You answer questions about a database with one SELECT statement. " * 3
_TOKEN = re.compile(r"\w+|[^\w\s]|\s")
_PEOPLE = ("ann", "bob", "eve")


def tokens(text: str) -> list[int]:
    """Numbers for words and other characters."""
    return [zlib.crc32(part.encode()) for part in _TOKEN.findall(text)]


@dataclass(slots=True)
class Cache:
    """Blocks seen before, of one tenant."""

    block_size: int = field(default_factory=lambda: Config().cache.block_size)
    _known: set[bytes] = field(default_factory=set)
    wanted: int = 0
    hit: int = 0

    def request(self, head: str, front: str, rest: str) -> None:
        """Counts the tokens of `front` and those in blocks that are known, then knows all."""
        before, middle = tokens(head), tokens(front)
        keys = self._keys([*before, *middle, *tokens(rest)])
        leading = 0
        for key in keys:
            if key not in self._known:
                break
            leading += self.block_size
        self.wanted += len(middle)
        self.hit += min(max(leading - len(before), 0), len(middle))
        self._known.update(keys)

    def prefill(self, head: str, front: str) -> None:
        """Knows a front before anybody asks."""
        self._known.update(self._keys([*tokens(head), *tokens(front)]))

    def _keys(self, ids: Sequence[int]) -> list[bytes]:
        keys: list[bytes] = []
        extend_keys(keys, ids, count=len(ids) // self.block_size, block_size=self.block_size,
                    root=root_key(b"model", "tenant"))  # fmt: skip
        return keys

    @property
    def rate(self) -> float:
        return round(self.hit / self.wanted, 4)


def prefix_figures(*, seed: int, requests: int = REQUESTS) -> dict[str, Any]:
    """One capture for every `CAPTURE_EVERY` requests, confirmed; a release for every
    `RELEASE_EVERY`. `naive`: everything that is current in the system prompt, best first."""
    worlds = make_worlds(count=4, seed=seed)
    course = make_course(worlds, seed=seed)
    course.judge.close()
    ours, warmed, naive, listed = Cache(), Cache(), Cache(), Cache()
    waiting = _to_learn(worlds, course.stream)
    every = [*course.stream, *course.test]
    random.Random(f"trace {seed}").shuffle(every)
    with TemporaryDirectory(prefix="knowledge-") as folder:
        base = open_base(Path(folder), confirmers=1)
        try:
            _describe(base, worlds)
            for number in range(requests):
                asked = every[number % len(every)]
                scope = Scope(area=worlds[asked.question.world].area,
                              user=_PEOPLE[number % len(_PEOPLE)])  # fmt: skip
                given = base.context(asked.text, Session(id=f"s{number}", scope=scope))
                rest = f"{given.session}{given.tail}{asked.text}"
                ours.request(_HEAD, given.pack, rest)
                warmed.request(_HEAD, given.pack, rest)
                ranked = _ranked(base, asked.text, scope)
                naive.request("", "".join(map(render_entry, ranked)), _HEAD + asked.text)
                in_order = sorted(ranked, key=lambda entry: entry.id)
                listed.request("", "".join(map(render_entry, in_order)), _HEAD + asked.text)
                if number % CAPTURE_EVERY == 0 and waiting:
                    _learn(base, *waiting.pop(0), by=scope.user)
                if number % RELEASE_EVERY == RELEASE_EVERY - 1:
                    base.release(by="releaser")
                    for world in worlds:
                        warmed.prefill(_HEAD, _pack(base, world))
        finally:
            base.close()
    return {
        "requests": requests,
        "capture_every": CAPTURE_EVERY,
        "release_every": RELEASE_EVERY,
        "block_size": ours.block_size,
        "pack_tokens_each": round(ours.wanted / requests),
        "pack_prefix_hit_rate": warmed.rate,
        "without_prefill": ours.rate,
        "naive_ranked": naive.rate,
        "naive_in_order_of_id": listed.rate,
        "naive_tokens_each": round(naive.wanted / requests),
    }


def _describe(base: Knowledge, worlds: Sequence[World]) -> None:
    """The schema of every world, released: what a pack holds before anything is learnt."""
    for world in worlds:
        for table, columns in world.columns().items():
            _learn(base, Schema(table=table, columns=columns), world.area, (), by="ann")
    base.release(by="releaser")


def _to_learn(
    worlds: Sequence[World], stream: Sequence[Asked]
) -> list[tuple[Payload, str, tuple[str, ...]]]:
    """Facts and queries in turn."""
    known = [(f.payload, w.area, f.triggers) for w in worlds for f in facts(w).values()]
    queries = [
        (Template(question=a.text, sql=a.question.sql), worlds[a.question.world].area, ())
        for a in stream
    ]
    return [item for pair in zip(known, queries, strict=False) for item in pair]


def _learn(
    base: Knowledge, payload: Payload, area: str, triggers: tuple[str, ...], *, by: str
) -> None:
    name = base.capture(payload, by=by, evidence=Evidence.USER_CONFIRMED, source=Source.USER,
                        area=area, triggers=triggers).id  # fmt: skip
    base.confirm(name, by=by)


def _ranked(base: Knowledge, text: str, scope: Scope) -> list[Entry]:
    """All that is current for the asker: what the question brings up, best first, then the rest."""
    found = [item.entry for item in base.search(text, scope, 1_000_000)]
    there = {entry.id for entry in found}
    mine = [e for e in base.entries(Status.CONFIRMED)
            if any(by == scope.user for _, by in base.evidence(e.id))]  # fmt: skip
    held = [*base.entries(Status.RELEASED), *mine]
    rest = [e for e in held if e.id not in there and e.area in ("", scope.area)]
    return found + sorted(rest, key=lambda entry: entry.id)


def _pack(base: Knowledge, world: World) -> str:
    session = Session(id=f"prefill {base.current}", scope=Scope(area=world.area))
    return base.context("", session).pack or PREAMBLE
