"""Who has the directory, and which format it is in."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import xxhash

from stepwell.base.errors import TierInUse, TierUnusable
from stepwell.tier.disk.medium import Medium

FORMAT_FILE = "format"
LOCK_FILE = "lock"
VERSION = 1
_NAME = "stepwell-disk-tier"
_OWN = ("segment-", "index.", FORMAT_FILE, LOCK_FILE)


class DirectoryLock:
    """An exclusive flock: the kernel lets go of it when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Raises TierInUse (naming the holder) or TierUnusable."""
        path = directory / LOCK_FILE
        try:
            self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(directory, error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise TierInUse(
                f"the disk tier {directory} is in use by process {holder or '(unknown)'}.",
                hint="Stop that process, or choose another directory.",
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the number is a courtesy, flock counts
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. Twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def prepare_directory(directory: Path) -> None:
    """Make it if need be; TierUnusable where that fails or where somebody else's files are."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = os.listdir(directory)
    except OSError as error:
        raise _unwritable(directory, error) from error
    foreign = sorted(name for name in names if not name.startswith(_OWN) and name != "lost+found")
    if foreign and FORMAT_FILE not in names:
        raise TierUnusable(
            f"{directory} holds other files ({foreign[0]}).",
            hint="Give the disk tier a directory of its own.",
        )


def check_format(directory: Path, *, medium: Medium) -> bool:
    """Whether the format file had to be written anew. TierUnusable for another version."""
    path = directory / FORMAT_FILE
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = b""
    except OSError as error:
        raise _unwritable(directory, error) from error
    words = found.split()
    if len(words) == 3 and _line(words[0], words[1]) == found:
        if (words[0], words[1]) == (_NAME.encode(), str(VERSION).encode()):
            return False
        raise TierUnusable(
            f"{directory} is in format {words[0].decode()} version {words[1].decode()}; "
            f"this program reads {_NAME} version {VERSION}.",
            hint="Use the program that wrote it, or another directory.",
        )
    fresh = directory / "format.tmp"
    try:
        fd = medium.open(fresh, create=True)
        try:
            medium.truncate(fd, 0)
            medium.write(fd, [_line(_NAME.encode(), str(VERSION).encode())], 0)
            medium.sync(fd)
        finally:
            os.close(fd)
        medium.replace(fresh, path)
        medium.sync_directory(directory)
    except OSError as error:
        raise _unwritable(directory, error) from error
    return True


def _line(name: bytes, version: bytes) -> bytes:
    """Checksummed, so that damage is not taken for another version."""
    text = name + b" " + version
    return text + b" " + xxhash.xxh3_64_hexdigest(text).encode() + b"\n"


def _unwritable(directory: Path, error: OSError) -> TierUnusable:
    return TierUnusable(
        f"cannot use {directory} for the disk tier: {error.strerror or error}.",
        hint="Choose a directory on a local disk that this user may write.",
    )
