"""Drawn worlds for a model that reads: tables, columns, values and what they mean, all by chance.

Every name may be anything in any world, so weights can learn how facts are said and nothing of what
they say. A fact pairs a name with an answer (this column: use that one); pairs are split by their
hash between worlds for training and held-out worlds, so a model never saw a held-out pair.
Questions name the table and columns that they mean; a schema is not needed to ask or to answer.
"""

from __future__ import annotations

import enum
import random
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stepwell.evaluate.knowledge_drawn_names import TABLES, WORDS
from stepwell.knowledge.payload import Gotcha, Metric, Payload, Relationship

DATABASES = 8
"""Of a world: equal results on all of them count as the same answer."""
_HELD_OUT_SHARE = 8
_NEVER_REMOVED = 0.7  # share of tables


class Trap(enum.Enum):
    """What a newcomer gets wrong."""

    STALE = "stale"
    CODE = "code"
    SCALE = "scale"
    REMOVED = "removed"
    METRIC = "metric"
    JOIN = "join"


class Split(enum.Enum):
    """Which worlds a pair of a name and its answer may occur in."""

    TRAINING = "training"
    HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True)
class Fact:
    """A trap of a world. `subject`: `table.column`, a table (removed), `flag table` (metric) or
    `child.parent` (join). `answers`: what the context must say: a column, a divisor, or codes by
    name."""

    trap: Trap
    subject: str
    answers: Mapping[str, str]
    payload: Payload
    triggers: tuple[str, ...]

    @property
    def answer(self) -> str:
        """Of the traps that have one."""
        return self.answers[""]


@dataclass(frozen=True, slots=True)
class Table:
    """`texts`: column -> its values; `measures`, `flags`: columns; `parent`: table or empty."""

    name: str
    texts: Mapping[str, tuple[str, ...]]
    measures: tuple[str, ...]
    flags: tuple[str, ...]
    parent: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """`columns`: table -> every column in a shuffled order, `id` first, as databases have them."""

    area: str
    split: Split
    tables: Mapping[str, Table]
    facts: tuple[Fact, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def fact(self, trap: Trap, subject: str) -> Fact | None:
        for fact in self.facts:
            if fact.trap is trap and fact.subject == subject:
                return fact
        return None


def split_of(name: str, answer: str) -> Split:
    """Where a pair may occur."""
    held_out = zlib.crc32(f"{name} {answer}".encode()) % _HELD_OUT_SHARE == 0
    return Split.HELD_OUT if held_out else Split.TRAINING


def draw_world(seed: str, split: Split, *, tables: int = 2, words: int = len(WORDS)) -> World:
    """The same for the same seed. Each table but the first belongs to the one before. `words`: how
    many names of columns and values there are to choose from; 96 are enough for one table."""
    return _Maker(random.Random(f"{split.value} {seed}"), split, WORDS[:words]).make(seed, tables)


class _Maker:
    """One world's names and what they mean."""

    def __init__(self, draw: random.Random, split: Split, words: Sequence[str]) -> None:
        self.draw, self.split, self.words = draw, split, words
        self.facts: list[Fact] = []
        self.common: list[str] = []

    def make(self, seed: str, count: int) -> World:
        names = self.draw.sample(TABLES, count)
        tables: dict[str, Table] = {}
        columns: dict[str, tuple[str, ...]] = {}
        for place, name in enumerate(names):
            parent = names[place - 1] if place else ""
            tables[name], columns[name] = self._table(name, parent)
        return World(f"drawn-{seed}", self.split, tables, tuple(self.facts), columns)

    def _names(self, count: int) -> list[str]:
        """Column names of a table, some of them in other tables too."""
        again = [word for word in self.common if self.draw.random() < 0.2][: count // 3]
        fresh = self.draw.sample(
            [w for w in self.words if w not in self.common], count - len(again)
        )
        self.common += fresh
        found = again + fresh
        self.draw.shuffle(found)
        return found

    def _table(self, name: str, parent: str) -> tuple[Table, tuple[str, ...]]:
        stale, other, plain, coded, large, small, flag, *rest = self._names(15)
        texts = {column: self._values() for column in (stale, other, plain, coded)}
        taken = [f"{parent}_id"] if parent else []
        taken += self._stale(name, stale, rest)
        taken += self._removed(name, rest)
        taken += self._metric(name, flag, rest)
        if parent:
            taken += self._join(name, parent, rest)
        self._code(name, coded, texts[coded])
        self._scale(name, large)
        columns = [stale, other, plain, coded, large, small, flag, *taken]
        self.draw.shuffle(columns)
        table = Table(name, texts, (large, small), (flag,), parent)
        return table, ("id", *columns)

    def _values(self) -> tuple[str, ...]:
        return tuple(self.draw.sample(self.words, 3))

    def _pick(self, name: str, pool: list[str]) -> str:
        """Take an answer of this split for a name out of the pool; without one, out of all words
        that no column of the world has."""
        fits = [word for word in pool if split_of(name, word) is self.split]
        if not fits:
            fits = [
                w for w in self.words if w not in self.common and split_of(name, w) is self.split
            ]
            self.common.append(chosen := self.draw.choice(fits))
            return chosen
        pool.remove(fits[0])
        return fits[0]

    def _number(self, name: str) -> str:
        numbers = (str(n) for n in range(11, 100))
        return self.draw.choice([n for n in numbers if split_of(name, n) is self.split])

    def _add(
        self, trap: Trap, subject: str, answers: dict[str, str], payload: Payload, *triggers: str
    ) -> None:
        self.facts.append(Fact(trap, subject, answers, payload, triggers))

    def _stale(self, table: str, column: str, pool: list[str]) -> list[str]:
        live = self._pick(column, pool)
        about = f"{table}.{column}"
        rule = f"Stale. Use {live}."
        self._add(Trap.STALE, about, {"": live}, Gotcha(about=about, rule=rule), about)
        return [live]

    def _code(self, table: str, column: str, values: tuple[str, ...]) -> None:
        codes: dict[str, str] = {}
        for value in values:
            fits = [w for w in self.words if split_of(value, w) is self.split]
            taken = {*values, *codes.values()}
            codes[value] = self.draw.choice([word for word in fits if word not in taken])
        about = f"{table}.{column}"
        said = ", ".join(f"{value}: {code}" for value, code in codes.items())
        payload = Gotcha(about=about, rule=f"Holds codes. {said}.")
        self._add(Trap.CODE, about, codes, payload, about)

    def _scale(self, table: str, column: str) -> None:
        about, by = f"{table}.{column}", self._number(column)
        payload = Gotcha(about=about, rule=f"Stored in small units. Divide by {by}.")
        self._add(Trap.SCALE, about, {"": by}, payload, about)

    def _removed(self, table: str, pool: list[str]) -> list[str]:
        column = self._pick(table, pool)
        if self.draw.random() < _NEVER_REMOVED:
            return [column]
        rule = f"Removed rows stay. Only rows where {column} = 0 count."
        self._add(Trap.REMOVED, table, {"": column}, Gotcha(about=table, rule=rule), table)
        return [column]

    def _metric(self, table: str, flag: str, pool: list[str]) -> list[str]:
        but = self._pick(flag, pool)
        made = f"COUNT(*) FILTER (WHERE {flag} = 1 AND {but} = 0)"
        payload = Metric(name=f"{flag} {table}", table=table, expression=made)
        self._add(Trap.METRIC, f"{flag} {table}", {"": but}, payload)
        return [but]

    def _join(self, table: str, parent: str, pool: list[str]) -> list[str]:
        link = self._pick(f"{table} {parent}", pool)
        payload = Relationship(left=f"{table}.{link}", right=f"{parent}.id")
        self._add(Trap.JOIN, f"{table}.{parent}", {"": link}, payload)
        return [link]


def make_databases(world: World) -> tuple[sqlite3.Connection, ...]:
    """`DATABASES` of them in memory, with different rows; writing to them is refused."""
    return tuple(_make_database(world, number) for number in range(DATABASES))


def _make_database(world: World, number: int) -> sqlite3.Connection:
    draw = random.Random(f"rows {world.split.value} {world.area} {number}")
    base = sqlite3.connect(":memory:")
    for table in world.tables.values():
        columns = world.columns[table.name]
        makers = [_maker(world, table, column, draw) for column in columns]
        base.execute(f"CREATE TABLE {table.name} ({', '.join(columns)})")
        marks = ", ".join("?" * len(columns))
        rows = [[make(place) for make in makers] for place in range(1, draw.randint(150, 220))]
        base.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
    base.commit()
    base.execute("PRAGMA query_only = 1")
    return base


def _maker(world: World, table: Table, column: str, draw: random.Random) -> Callable[[int], object]:
    """What makes a cell from the number of its row."""
    about = f"{table.name}.{column}"
    links = {fact.answer for fact in world.facts if fact.subject == f"{table.name}.{table.parent}"}
    live = {
        fact.answer: fact.subject.partition(".")[2]
        for fact in world.facts
        if fact.trap is Trap.STALE and fact.subject.startswith(f"{table.name}.")
    }
    if column == "id":
        return lambda row: row
    if column in links or column == f"{table.parent}_id":
        return lambda row: draw.randint(1, 140)
    if code := world.fact(Trap.CODE, about):
        return lambda row: draw.choice(tuple(code.answers.values()))
    if values := table.texts.get(live.get(column, column)):
        return lambda row: draw.choice(values)
    if column in table.measures:
        return lambda row: draw.randint(50, 9_000)
    return lambda row: int(draw.random() < 0.7)  # many: MAX must notice removed rows
