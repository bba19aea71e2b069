"""Seeded worlds: schemas with traps, and databases to tell right answers from wrong ones by.

Names are drawn per world, so nothing but the context says which column is stale, which number is a
code or when a fiscal year starts. A world is five tables of a domain and a table of exchange rates:

    parents   1:n  children  1:n  lines, tags (repeat), payments (in several currencies)

`TRAPS` are what a newcomer gets wrong. Not covered: time zones, encodings, nested types.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

DATABASES = 8
"""Per schema: equal results on all of them count as the same answer (Zhong et al., EMNLP 2020)."""
TRAPS = ("stale", "code", "join", "metric", "cents", "removed", "fan_out", "currency", "fiscal",
         "unit")  # fmt: skip
_DOMAINS = (
    ("clients", "orders", "parcels", "labels", "payments", "turnover", "surcharge"),
    ("patients", "visits", "samples", "remarks", "bills", "cost", "copay"),
    ("members", "bookings", "rentals", "badges", "deposits", "price", "tip"),
    ("residents", "leases", "repairs", "notices", "receipts", "rent", "premium"),
    ("students", "enrolments", "books", "comments", "grants", "tuition", "discount"),
    ("shippers", "voyages", "crates", "stamps", "invoices", "freight", "toll"),
)
MOST_WORLDS = len(_DOMAINS)
_STATES = ("open", "pending", "settled", "cancelled", "paused", "archived", "expired", "approved")
_LEVELS = (("bronze", "silver", "gold"), ("basic", "plus", "prime"))
REGIONS, CHANNELS = ("north", "south", "east", "west"), ("web", "phone", "desk")
METHODS, COLOURS = ("card", "cash", "wire"), ("red", "green", "blue")
WORDS = ("urgent", "fragile", "late")
YEARS = (2023, 2024, 2025)
_DATED = (YEARS[0] - 1, *YEARS, YEARS[-1] + 1)  # so that both ends of a period matter
_RATES = {"EUR": 1.0, "USD": 0.9, "GBP": 1.2}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The true meaning of a schema; only the generator of questions reads it.

    `state`: the live column, beside the stale `status`. `link`: the key to the parents, beside the
    legacy `<parent>_id`. `codes`: level -> what `level` holds. `month`: first of the fiscal year.
    """

    area: str
    seed: int
    parents: str
    children: str
    lines: str
    tags: str
    payments: str
    amount: str
    fee: str
    state: str
    states: tuple[str, ...]
    link: str
    legacy: str
    level: str
    codes: Mapping[str, int]
    staff: str
    removed: str
    month: int
    day: str

    @property
    def rates(self) -> str:
        return f"{self.payments}_rates"

    def columns(self) -> dict[str, tuple[str, ...]]:
        """Table -> `name TYPE`, in order."""
        own = f"{self.children[:-1]}_id INTEGER"
        return {
            self.parents: ("id INTEGER", "name TEXT", "region TEXT", "active INTEGER",
                           f"{self.staff} INTEGER", f"{self.level} INTEGER"),
            self.children: ("id INTEGER", f"{self.legacy} INTEGER", f"{self.link} INTEGER",
                            "status TEXT", f"{self.state} TEXT", "channel TEXT",
                            f"{self.amount} INTEGER", f"{self.fee} INTEGER", f"{self.day} TEXT"),
            self.lines: ("id INTEGER", own, "colour TEXT", "weight INTEGER",
                         f"{self.removed} INTEGER"),
            self.tags: ("id INTEGER", own, "word TEXT"),
            self.payments: ("id INTEGER", own, "method TEXT", "paid INTEGER", "ccy TEXT"),
            self.rates: ("code TEXT", "per_euro REAL"),
        }  # fmt: skip


def make_worlds(*, count: int, seed: int) -> tuple[World, ...]:
    """`count`: at most `MOST_WORLDS`, each of another domain, so that no table name repeats."""
    return tuple(_make_world(number, seed=seed) for number in range(count))


def _make_world(number: int, *, seed: int) -> World:
    draw = random.Random(f"world {seed} {number}")
    parents, children, lines, tags, payments, amount, fee = _DOMAINS[number]
    levels = draw.choice(_LEVELS)
    return World(
        area=f"{children}-{number}",
        seed=seed,
        parents=parents,
        children=children,
        lines=lines,
        tags=tags,
        payments=payments,
        amount=amount,
        fee=fee,
        state=draw.choice(("state", "stage", "phase")),
        states=tuple(draw.sample(_STATES, 4)),
        link=draw.choice(("holder", "owner_key", "party_no", "acct_ref")),
        legacy=f"{parents[:-1]}_id",
        level=draw.choice(("tier", "grade", "band")),
        codes=dict(zip(levels, draw.sample((11, 17, 23, 42), 3), strict=True)),
        staff=draw.choice(("internal", "is_test", "staff")),
        removed=draw.choice(("void", "removed", "hidden")),
        month=draw.choice((4, 7, 10)),
        day=draw.choice(("made_on", "placed_on", "begun_on")),
    )


def make_database(world: World, number: int) -> sqlite3.Connection:
    """In memory, its rows drawn by number; writing to it is refused."""
    draw = random.Random(f"rows {world.seed} {world.area} {number}")
    base = sqlite3.connect(":memory:")
    rows = _rows(world, draw)
    for table, columns in world.columns().items():
        base.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        marks = ", ".join("?" * len(columns))
        base.executemany(f"INSERT INTO {table} VALUES ({marks})", rows[table])
    base.commit()
    base.execute("PRAGMA query_only = 1")
    return base


def _rows(world: World, draw: random.Random) -> dict[str, list[tuple[object, ...]]]:
    parents = range(1, draw.randint(30, 45))
    children = range(1, draw.randint(90, 130))
    pick, number = draw.choice, draw.randint

    def day() -> str:
        return f"{pick(_DATED)}-{number(1, 12):02}-{number(1, 28):02}"

    codes = tuple(world.codes.values())
    return {
        world.parents: [
            (i, f"name-{number(100, 999)}-{i}", pick(REGIONS), number(0, 1), int(number(0, 3) == 0),
             pick(codes))
            for i in parents
        ],
        world.children: [
            (i, pick(parents), pick(parents), pick(world.states), pick(world.states),
             pick(CHANNELS), number(500, 99_999), number(1, 90), day())
            for i in children
        ],
        world.lines: [
            (i, pick(children), pick(COLOURS), number(50, 9_000), int(number(0, 3) == 0))
            for i in range(1, number(150, 200))
        ],
        world.tags: [
            (i, child, pick(WORDS))
            for i, child in enumerate(pick(children[:40]) for _ in range(number(140, 180)))
        ],
        world.payments: [
            (i, pick(children), pick(METHODS), number(1, 900), pick(tuple(_RATES)))
            for i in range(1, number(120, 160))
        ],
        world.rates: list(_RATES.items()),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class SchemaView:
    """What anybody with access to a database sees: names, and the values of columns of few.

    `columns`: table -> column names in order. `values`: word -> the `table.column`s that hold it.
    """

    columns: Mapping[str, tuple[str, ...]]
    values: Mapping[str, tuple[str, ...]]


def look(base: sqlite3.Connection) -> SchemaView:
    """By introspection alone."""
    columns: dict[str, tuple[str, ...]] = {}
    values: dict[str, list[str]] = {}
    tables = [row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        described = base.execute(f"PRAGMA table_info({table})").fetchall()
        columns[table] = tuple(row[1] for row in described)
        for name in (row[1] for row in described if row[2] == "TEXT"):
            found = base.execute(f"SELECT DISTINCT {name} FROM {table} LIMIT 9").fetchall()
            for (value,) in found if len(found) < 9 else ():
                values.setdefault(str(value).casefold(), []).append(f"{table}.{name}")
    return SchemaView(columns, {word: tuple(where) for word, where in values.items()})


def schema_hashes(world: World) -> dict[str, str]:
    """`table` and `table.column` -> hash of its declaration. A table's covers its name alone, so
    that a new column does not touch what depends on other columns."""
    out = {}
    for table, columns in world.columns().items():
        out[table] = _hash(table)
        for column in columns:
            out[f"{table}.{column.split()[0]}"] = _hash(f"{table} {column}")
    return out


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
