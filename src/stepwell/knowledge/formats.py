"""The format of a SQLite file that cannot be rebuilt: its number is `PRAGMA user_version`.

An earlier format is brought forward step by step in one transaction, so that a kill leaves the old
file or the new one. A later one is refused before anything is written. A step is never changed
after it was published: it is what a file of its format needs, whatever the tables of now are.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from stepwell.knowledge.errors import KnowledgeDamaged, KnowledgeFormat


def open_file(
    path: Path, *, tables: str, number: int, steps: Mapping[int, str]
) -> sqlite3.Connection:
    """A connection to a file of format `number`, whose deleted bytes are overwritten. `tables`:
    script of a new file; `steps`: format -> script that makes the next one of it.

    Raises KnowledgeFormat for a format that is later or has no way on, KnowledgeDamaged for what is
    no such file.
    """
    try:
        found = _number(path)
        way = "" if found == number else _way(path, found, tables=tables, to=number, steps=steps)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            db.executescript("PRAGMA secure_delete=ON; PRAGMA journal_mode=WAL;")
            if way:
                db.executescript(f"BEGIN IMMEDIATE; {way} PRAGMA user_version={number}; COMMIT;")
        except BaseException:
            db.close()
            raise
    except sqlite3.DatabaseError as error:
        raise KnowledgeDamaged(f"{path.name}: {error}.", hint="Restore a backup.") from None
    return db


@contextlib.contextmanager
def whole(db: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside, or after an error nothing of it: a transaction that is left open
    would take in what is written later and lose it."""
    with db:
        db.execute("BEGIN")
        yield


def _number(path: Path) -> int:
    """Of the file as it is, which stays as it is; 0: there is none."""
    if not path.exists():
        return 0
    log = path.with_name(f"{path.name}-wal")
    alone = not log.exists() or log.stat().st_size == 0
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def _way(path: Path, found: int, *, tables: str, to: int, steps: Mapping[int, str]) -> str:
    if found == 0:
        return tables
    missing = [step for step in range(found, to) if step not in steps]
    if found > to or missing:
        first = min((n for n in steps if set(range(n, to)) <= steps.keys()), default=to)
        raise KnowledgeFormat(
            f"{path.name} has format {found}, this version reads {first} to {to}.",
            hint="Nothing was touched. Use the version that wrote it"
            + (", or a later one." if found > to else ", or restore a later backup."),
        )
    return "\n".join(steps[step] for step in range(found, to))
