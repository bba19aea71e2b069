"""The group commit: data to the disk, then the rows that point to it, then dead segments off it."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from stepwell.tier.disk.books import Batch, Books
from stepwell.tier.disk.index import Index, index_bytes, is_full
from stepwell.tier.disk.medium import Medium
from stepwell.tier.disk.segment import SegmentFiles

log = logging.getLogger("stepwell.tier.disk")

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Answer = TypeVar("Answer")


class Committer:
    """Carries the books' pending batch to the disk. The caller holds the commit lock; `lock` guards
    the books. `index_bytes`: of the index files after the last commit."""

    def __init__(
        self,
        directory: Path,
        *,
        books: Books,
        index: Index,
        files: SegmentFiles,
        medium: Medium,
        lock: threading.Lock,
    ) -> None:
        self._directory = directory
        self._books = books
        self._index = index
        self._files = files
        self._medium = medium
        self._lock = lock
        self.last = time.monotonic()
        self.index_bytes = index_bytes(directory)

    def measure(self) -> None:
        """Look up the size of the index files again."""
        self.index_bytes = index_bytes(self._directory)

    def commit(self) -> None:
        """Commit now. Raises OSError; the batch is pending again then."""
        with self._lock:
            batch = self._books.take_batch()
            new_files, self._books.new_files = self._books.new_files, False
        self.last = time.monotonic()
        if batch.empty:
            return
        try:
            self._sync(batch, new_files=new_files)
        except OSError:
            self._distrust(batch)
            raise
        apply = partial(self.call, partial(self._index.apply, batch))
        try:
            try:
                apply()
            except OSError as error:
                if error.errno not in NO_ROOM or not batch.dead:
                    raise
                # Even removing rows needs room. Their files may go first: at a start, rows
                # without a file are dropped.
                self._unlink(batch)
                apply()
        except OSError:
            with self._lock:
                self._books.restore(batch)
            raise
        self._unlink(batch)
        self.measure()

    def _unlink(self, batch: Batch) -> None:
        while batch.dead:
            self._files.remove(batch.dead[-1].number)
            with self._lock:
                self._books.unlinked(batch.dead.pop())

    def _sync(self, batch: Batch, *, new_files: bool) -> None:
        for number in sorted({row.location.segment for row in batch.rows.values()}):
            try:
                with self._files.using(number) as fd:
                    self._medium.sync(fd)
            except FileNotFoundError:
                continue  # removed by hand: reads will say so
        if new_files:
            self._medium.sync_directory(self._directory)

    def _distrust(self, batch: Batch) -> None:
        """After a failed fdatasync the kernel may have dropped the pages: these chunks are gone."""
        with self._lock:
            self._books.restore(batch)
            self._books.active = None
            self._books.new_files = True
            for row in batch.rows.values():
                if self._books.find(row.key) == row.location:
                    self._books.forget(row.key, reason="sync")
        log.error("disk_sync_failed: %d chunks forgotten", len(batch.rows))

    def call(self, call: Callable[[], Answer]) -> Answer:
        """Errors of SQLite as the medium's."""
        try:
            return call()
        except sqlite3.Error as error:
            code = errno.ENOSPC if is_full(error) else errno.EIO
            raise OSError(code, f"index of the disk tier: {error}") from error
