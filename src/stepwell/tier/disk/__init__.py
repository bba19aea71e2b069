"""The disk tier: values in append-only segment files, found through an SQLite index.

Owns one directory (and holds its lock while open):

    format                which format this is, with a checksum
    lock                  flock of the process that has it open, and its process id
    segment-00000001.stw  frames (`tier/frame.py`), each at a multiple of 4 KiB, appended only
    index.sqlite[-wal]    a row a chunk: sequence, key, segment, offset, size, meta, row checksum;
                          a watermark a segment; what was quarantined and why
    index.damaged         the last index that could not be read (kept for whoever looks for a cause)

Order of writing (who relies on it: `recovery.py`):

1. a frame is written past the end of the active segment; only then it can be found in this process
2. a group commit (256 MiB, 1,024 chunks or one second after the last, looked at by each write; and
   each `flush`) calls fdatasync on the segments it covers, and fsync on the directory if it has new
   files
3. only then the rows that point there are committed (WAL, synchronous=FULL), with the watermark of
   each segment: the offset before which every frame that counts has its row
4. a segment is unlinked after the commit that took its last row away (before it only where the
   disk is so full that the commit fails: rows without a file are dropped at the next start).
   Compaction copies what lives elsewhere and does 2 and 3 first.

What is found again:

- after a power cut: all that was written before the last flush or group commit. Later writes may be
  there or not; each is whole or absent
- after kill -9: all writes that had returned. The tail of a segment past its watermark is scanned
  and verified at start: at most what a group commit covers. Beyond that no payload is read at start
- a delete is on disk with the next commit; until then a crash may bring the chunk back, as does a
  rebuild from segments. It is the same bytes under the same key, so nothing is wrong with it

Every read verifies header, key and xxh3_128 of meta and payload, in the caller's own buffers. What
does not match is quarantined: its row goes, a row in the quarantine table says why, a log line has
the code `disk_quarantine`, and the read is CORRUPT. No wall-clock time is read anywhere: age is the
sequence number.

Space: segments (dead frames included) and index files never exceed `capacity`. One segment's worth
and the index's slack are kept back from values so that compaction can always copy; `usage` reports
what is left of `capacity` after that.
"""

from stepwell.tier.disk.options import DiskOptions
from stepwell.tier.disk.recovery import RecoveryReport
from stepwell.tier.disk.store import DiskTier

__all__ = ["DiskOptions", "DiskTier", "RecoveryReport"]
