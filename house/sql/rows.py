"""Training rows: one context, many questions about it that do not see each other.

A row is a tree: all branches (question and answer) attend to the trunk (system message and context)
and to themselves, and each stands where it would stand alone. So one context is computed once for a
dozen answers, and what is trained is exactly a single question behind a single context.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from house.tokenizer import ASSISTANT, BOS, END, PAD, SYSTEM, USER
from stepwell.evaluate.knowledge_drawn_ask import (
    Query,
    draw_queries,
    sql,
    traps,
    wordings,
)
from stepwell.evaluate.knowledge_drawn_context import SEPARATOR, context_of
from stepwell.evaluate.knowledge_drawn_names import TABLES, WORDS
from stepwell.evaluate.knowledge_drawn_world import Fact, Split, Trap, World, draw_world
from stepwell.evaluate.knowledge_model_server import SYSTEM_MESSAGE
from stepwell.knowledge.payload import Template

OPENING = f"{BOS}{SYSTEM}\n{SYSTEM_MESSAGE}{END}\n{USER}\n"
PAD_BRANCH = -1


@dataclass(frozen=True)
class Branch:
    """`kind`: what is counted apart: `plain`, `withheld`, or the traps that are known."""

    question: str
    answer: str
    kind: str


@dataclass
class Row:
    """Parallel lists, one number a token. `branch`: 0: trunk. `target`: part of an answer."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    target: list[bool] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def add(self, ids: Sequence[int], start: int, branch: int, targets: int = 0) -> None:
        """The last `targets` tokens are an answer's."""
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.branch += [branch] * len(ids)
        self.target += [False] * (len(ids) - targets) + [True] * targets


class Maker:
    """Draws worlds of the training split and rows about them."""

    def __init__(self, tokenizer: Tokenizer, seed: int, split: Split = Split.TRAINING) -> None:
        self.tokenizer, self.draw, self.split = tokenizer, random.Random(seed), split
        self.words = len(WORDS)
        self.pad = tokenizer.token_to_id(PAD)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def row(self, length: int, mix: dict[str, Any]) -> Row:
        """`mix`: `silent` (share of rows without context), `tables` (most), `facts` (share that is
        told), `templates` (most), `foreign` (most facts of another world), `words` (names there are
        for columns and values), `drill` (share of rows that are nothing but look-ups)."""
        draw, self.words = self.draw, mix["words"]
        if draw.random() < mix["drill"]:
            return self.drill(length)
        world = self._world(draw.randint(1, mix["tables"]))
        silent = draw.random() < mix["silent"]
        told = [] if silent else [f for f in world.facts if draw.random() < mix["facts"]]
        shown = [] if silent else draw_queries(world, draw, draw.randint(0, mix["templates"]))
        trunk = OPENING if silent else OPENING + self._context(world, told, shown, mix)
        row = Row()
        row.add(self.encode(trunk), 0, 0)
        start = len(row.ids)
        for branch in self.branches(world, told, shown):
            question = self.encode(f"{branch.question}{END}\n{ASSISTANT}\n")
            answer = self.encode(f"{branch.answer}{END}")
            if len(row.ids) + len(question) + len(answer) > length:
                break
            row.kinds.append(branch.kind)
            row.add(question + answer, start, len(row.kinds), len(answer))
        missing = length - len(row.ids)
        row.add([self.pad] * missing, 0, PAD_BRANCH)
        return row

    def drill(self, length: int) -> Row:
        """Rules without ids about names drawn alone, then what follows a name in a worked query."""
        draw = self.draw
        names = draw.sample(WORDS[: self.words], min(self.words, 96))
        table, *others = draw.sample(TABLES, 10)
        rules, asked = [], []
        for _ in range(draw.randint(1, 3)):
            old, live, plain = (names.pop() for _ in range(3))
            rules.append(f"| caution {table}.{old}: Stale. Use {live}.")
            asked += [("stale", f"/* {old} */ ", live), ("plain", f"/* {plain} */ ", plain)]
            pairs = [(names.pop(), names.pop()) for _ in range(3)]
            said = ", ".join(f"{value}: {code}" for value, code in pairs)
            rules.append(f"| caution {table}.{names.pop()}: Holds codes. {said}.")
            asked += [("code", f" = /* {value} */ '", code) for value, code in pairs]
            asked.append(("plain", f" = /* {plain} */ '", plain))
            large, small, by = names.pop(), names.pop(), str(draw.randint(11, 99))
            rules.append(f"| caution {table}.{large}: Stored in small units. Divide by {by}.")
            asked += [
                ("scale", f"SELECT SUM({large}) /* {large} */ ", f"/ {by}.0"),
                ("plain", f"SELECT SUM({small}) /* {small} */ ", "FROM "),
            ]
            parent, other, link = others.pop(), others.pop(), names.pop()
            rules.append(f"| join {table}.{link} = {parent}.id")
            asked += [
                ("join", f" FROM {table} WHERE /* {parent} */ ", f"{link} IN (SELECT id FROM "),
                ("plain", f" FROM {table} WHERE /* {other} */ ", f"{other}_id"),
            ]
        draw.shuffle(rules)
        row = Row()
        row.add(self.encode(BOS + "".join(f"{rule}\n" for rule in rules)), 0, 0)
        start = len(row.ids)
        while True:
            kind, shown, answer = draw.choice(asked)
            head, tail = self.encode(shown), self.encode(answer)
            if len(row.ids) + len(head) + len(tail) > length:
                break
            row.kinds.append(f"drill {kind}")
            row.add(head + tail, start, len(row.kinds), len(tail))
        row.add([self.pad] * (length - len(row.ids)), 0, PAD_BRANCH)
        return row

    def _world(self, tables: int) -> World:
        return draw_world(
            str(self.draw.getrandbits(60)), self.split, tables=tables, words=self.words
        )

    def _context(
        self, world: World, told: Sequence[Fact], shown: Sequence[Query], mix: dict[str, Any]
    ) -> str:
        payloads = [fact.payload for fact in told]
        others = self._world(1).facts
        payloads += [f.payload for f in self.draw.sample(others, self._up_to(mix["foreign"]))]
        for query in dict.fromkeys(shown):
            text = self.draw.choice(wordings(query))
            worked = sql(query, traps(query, world), worked=True)
            payloads.append(Template(question=text, sql=worked))
        return context_of(payloads, world.area) + SEPARATOR

    def _up_to(self, most: int) -> int:
        return self.draw.randint(0, most)

    def branches(
        self, world: World, told: Sequence[Fact], shown: Sequence[Query], most: int = 40
    ) -> list[Branch]:
        """Half of them siblings of what is shown, if anything is; ambiguous ones are left out."""
        asked = draw_queries(world, self.draw, most)
        if shown:
            same = [q for q in draw_queries(world, self.draw, 400) if _sibling(q, shown)]
            asked[::2] = [self.draw.choice(same or shown) for _ in asked[::2]]
        found = (self._branch(query, world, told, shown) for query in asked)
        return [branch for branch in found if branch]

    def _branch(
        self, query: Query, world: World, told: Sequence[Fact], shown: Sequence[Query]
    ) -> Branch | None:
        needed = traps(query, world)
        known = [fact for fact in needed if fact in told]
        for fact in needed:
            if fact in told:
                continue
            users = [other for other in shown if fact in traps(other, world)]
            if any(_reveals(other, fact, query) for other in users):
                known.append(fact)
            elif users:
                return None
        kind = "+".join(sorted(f.trap.value for f in known)) or ("withheld" if needed else "plain")
        if len(known) > 1:
            kind = "several"
        return Branch(self.draw.choice(wordings(query)), sql(query, known, worked=True), kind)


def _sibling(query: Query, shown: Sequence[Query]) -> bool:
    return any(query.shape == other.shape for other in shown)


def _reveals(shown: Query, fact: Fact, asked: Query) -> bool:
    """Whether a worked query that needs a fact says all that another needs of it: of a code only
    its own; what is not behind a comment only to its siblings."""
    if fact.trap is Trap.CODE:
        return shown.value == asked.value
    return fact.trap is not Trap.REMOVED or shown.shape == asked.shape


@dataclass(frozen=True)
class Batch:
    """`mask` [rows, 1, length, length]. `at`: flat positions whose next token is `targets`;
    `answer`: which answer each belongs to; `kinds`: of each answer."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    at: Tensor
    targets: Tensor
    answer: Tensor
    kinds: list[str]


def make_batch(rows: Sequence[Row]) -> Batch:
    """Of rows of one length."""
    ids = torch.tensor([row.ids for row in rows])
    branch = torch.tensor([row.branch for row in rows])
    length = ids.shape[1]
    same = branch[:, :, None] == branch[:, None, :]
    visible = (same | (branch == 0)[:, None, :]) & torch.ones(length, length).tril().bool()
    target = torch.tensor([row.target for row in rows])
    where, column = target.nonzero(as_tuple=True)
    firsts = torch.tensor([0, *(len(row.kinds) for row in rows)]).cumsum(0)
    return Batch(
        ids=ids,
        positions=torch.tensor([row.positions for row in rows]),
        mask=visible[:, None],
        at=where * length + column - 1,
        targets=ids[where, column],
        answer=firsts[where] + branch[where, column] - 1,
        kinds=[kind for row in rows for kind in row.kinds],
    )
