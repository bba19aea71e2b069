"""The index on disk: an SQLite database whose rows are believed only with their own checksum.

Rows are keyed by sequence, so that inserts append to the last page and the WAL of a commit stays
small. One connection, held exclusively; `store.py` lets one thread in at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import xxhash

from stepwell.tier.disk.books import BadFrame, Batch, Location, Row
from stepwell.tier.disk.medium import Medium

INDEX_FILE = "index.sqlite"
DAMAGED_FILE = "index.damaged"
_SCHEMA_VERSION = 1
_QUARANTINE_ROWS = 10_000
_ROWS_A_TRANSACTION = 256  # removed: each may touch a page of its own
_ROWS_A_COMMIT = 2048  # put: they append
_NOT_DAMAGE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
}
_MASK = (1 << 63) - 1
_SCHEMA = (
    "CREATE TABLE chunks (sequence INTEGER PRIMARY KEY, key BLOB, segment INTEGER, "
    "offset INTEGER, size INTEGER, meta BLOB, checksum INTEGER)",
    "CREATE TABLE watermarks (segment INTEGER PRIMARY KEY, bytes INTEGER)",
    "CREATE TABLE quarantine (id INTEGER PRIMARY KEY, key BLOB, segment INTEGER, "
    "offset INTEGER, size INTEGER, reason TEXT)",
)
_COLUMNS = "sequence, key, segment, offset, size, meta, checksum"


class IndexDamaged(Exception):
    """The database cannot be read; the segments hold all that is needed to make another."""


class Index:
    """Rows, watermarks and quarantine records. Methods raise sqlite3.Error."""

    def __init__(self, directory: Path, *, medium: Medium) -> None:
        """Opens or creates. Raises IndexDamaged, OSError."""
        self._path = directory / INDEX_FILE
        self._medium = medium
        self.created = not self._path.exists()
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level="DEFERRED")
        self._db.text_factory = bytes
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            number = _NOT_DAMAGE.get(_code(error))
            if number is not None:
                raise OSError(number, f"index of the disk tier: {error}") from error
            raise IndexDamaged(str(error)) from error
        except IndexDamaged:
            self._db.close()
            raise

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        if self.created:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 64")
        db.execute("PRAGMA journal_size_limit = 262144")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        tables = db.execute("SELECT sql FROM sqlite_master ORDER BY rowid").fetchall()
        if version == 0 and not tables:
            script = ";".join(_SCHEMA)
            db.executescript(f"BEGIN; {script}; PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
            self.created = True
        elif version != _SCHEMA_VERSION or tables != [(table.encode(),) for table in _SCHEMA]:
            raise IndexDamaged(f"schema version {version}")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != b"ok":
            raise IndexDamaged(verdict.decode("utf-8", "replace"))

    def rows(self) -> Iterator[tuple[int, Row | None]]:
        """Sequence and row, oldest first; None for one whose checksum does not match."""
        query = f"SELECT {_COLUMNS} FROM chunks ORDER BY sequence"
        for values in self._db.execute(query):
            yield values[0], _read_row(values)

    def rows_after(self, sequence: int, *, limit: int) -> list[Row]:
        """The next whole rows, oldest first."""
        query = f"SELECT {_COLUMNS} FROM chunks WHERE sequence > ? ORDER BY sequence LIMIT ?"
        rows = map(_read_row, self._db.execute(query, (sequence, limit)))
        return [row for row in rows if row is not None]

    def watermarks(self) -> dict[int, int]:
        """Segment -> bytes before which every frame that counts has its row."""
        rows = self._db.execute("SELECT segment, bytes FROM watermarks")
        return {n: size for n, size in rows if isinstance(n, int) and isinstance(size, int)}

    def quarantine(self) -> list[BadFrame]:
        """The latest records, oldest first."""
        rows = self._db.execute("SELECT key, segment, offset, size, reason FROM quarantine")
        return [
            BadFrame(key, Location(0, offset, size, segment, 0), reason.decode("utf-8", "replace"))
            for key, segment, offset, size, reason in rows
        ]

    def apply(self, batch: Batch) -> None:
        """Commit a batch. In slices, so that the WAL stays small; watermarks last."""
        db = self._db
        try:
            gone = sorted(batch.gone)
            for start in range(_ROWS_A_TRANSACTION, len(gone), _ROWS_A_TRANSACTION):
                self._remove(gone[start : start + _ROWS_A_TRANSACTION])
                self._medium.commit(db)
            self._remove(gone[:_ROWS_A_TRANSACTION])
            rows = list(batch.rows.values())
            for start in range(_ROWS_A_COMMIT, len(rows), _ROWS_A_COMMIT):
                self._put(rows[start : start + _ROWS_A_COMMIT])
                self._medium.commit(db)
            self._put(rows[:_ROWS_A_COMMIT])
            db.executemany(
                "INSERT OR REPLACE INTO watermarks VALUES (?, ?)", batch.watermarks.items()
            )
            db.executemany(
                "DELETE FROM watermarks WHERE segment = ?", [(number,) for number in batch.removed]
            )
            self._record(batch.bad)
            self._medium.commit(db)
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.rollback()
            raise

    def shrink(self) -> None:
        """Give free pages back to the filesystem."""
        self._db.execute("PRAGMA incremental_vacuum").fetchall()
        self._medium.commit(self._db)
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Checkpoint and let go."""
        self._db.close()

    def _put(self, rows: list[Row]) -> None:
        insert = "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)"
        self._db.executemany(insert, map(_values, rows))

    def _remove(self, sequences: list[int]) -> None:
        self._db.executemany("DELETE FROM chunks WHERE sequence = ?", [(n,) for n in sequences])

    def _record(self, bad: list[BadFrame]) -> None:
        if not bad:
            return
        self._db.executemany(
            "INSERT INTO quarantine (key, segment, offset, size, reason) VALUES (?, ?, ?, ?, ?)",
            [
                (b.key, b.location.segment, b.location.offset, b.location.size, b.reason)
                for b in bad[-_QUARANTINE_ROWS:]
            ],
        )
        self._db.execute(
            "DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?",
            (_QUARANTINE_ROWS,),
        )


def index_bytes(directory: Path) -> int:
    """Bytes of all index files."""
    total = 0
    for name in (INDEX_FILE, f"{INDEX_FILE}-wal", f"{INDEX_FILE}-shm", DAMAGED_FILE):
        with contextlib.suppress(FileNotFoundError):
            total += os.stat(directory / name).st_size
    return total


def set_aside(directory: Path, *, medium: Medium) -> None:
    """Keep a damaged index under another name; its WAL must not be taken for the next one's."""
    for suffix in ("-wal", "-shm"):
        medium.unlink(directory / (INDEX_FILE + suffix))
    medium.replace(directory / INDEX_FILE, directory / DAMAGED_FILE)
    medium.sync_directory(directory)


def is_full(error: sqlite3.Error) -> bool:
    """Whether SQLite found the disk full."""
    return _code(error) == sqlite3.SQLITE_FULL


def _code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _values(row: Row) -> tuple[int, bytes, int, int, int, bytes, int]:
    at = row.location
    return at.sequence, row.key, at.segment, at.offset, at.size, row.meta, _checksum(row)


def _read_row(values: tuple) -> Row | None:
    """Of whatever types damage may have made."""
    sequence, key, segment, offset, size, meta, checksum = values
    try:
        row = Row(key, Location(sequence, offset, size, segment, len(meta)), meta)
        return row if checksum == _checksum(row) else None
    except (TypeError, struct.error):
        return None


def _checksum(row: Row) -> int:
    hasher = xxhash.xxh3_64(row.location.pack())
    hasher.update(row.key)
    hasher.update(row.meta)
    return hasher.intdigest() & _MASK
