"""Released truth: one git repository for a tenant, written without a git binary.

    entries/<id>.md     what is released (`markdown`)
    packs/<area>.txt    what every request of the area is given in front; `_all` has no area
    release.json        name, what it was made from, who and when, digest of all the rest

A release is a commit with a tag `r0001`, ...; the branch `current` is the pointer that rollback
moves. Releases never change, except when an entry is erased from history (`rewrite`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

from stepwell.knowledge.contents import Contents, Made, diff_entries, digest
from stepwell.knowledge.errors import KnowledgeDamaged, UnknownRelease

_T = TypeVar("_T")
_CURRENT = Ref(b"refs/heads/current")
_TAGS = b"refs/tags/"
_FILE, _FOLDER = 0o100644, 0o040000
NO_AREA = "_all"


class Truth:
    """Reads and writes the repository in `folder`. Names of releases are `r` and four digits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        _finish_rewrite(folder)
        if (folder / "objects").is_dir():
            self._repo = Repo(str(folder))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._repo = Repo.init_bare(str(folder))
            self._repo.refs.set_symbolic_ref(Ref(b"HEAD"), _CURRENT)

    def close(self) -> None:
        self._repo.close()

    def names(self) -> tuple[str, ...]:
        """All releases, oldest first."""
        found = self._repo.refs.as_dict(Ref(_TAGS.rstrip(b"/")))
        return tuple(sorted(name.decode() for name in found))

    def current(self) -> str:
        """The release that the pointer is at; empty before the first."""
        if _CURRENT not in self._repo.refs:
            return ""
        manifest = _reading("current", lambda: self._manifest(self._repo.refs[_CURRENT]))
        return str(manifest["name"])

    def point(self, name: str) -> None:
        """Make `name` current: one reference is rewritten."""
        self._repo.refs[_CURRENT] = self._commit(name).id

    def write(self, contents: Contents, *, by: str, at: float) -> str:
        """A new release on top of the current one; the pointer stays. `at`: seconds since 1970."""
        names = self.names()
        name = f"r{int(names[-1][1:]) + 1 if names else 1:04}"
        self._write(name, contents, based_on=self.current(), by=by, at=at)
        return name

    def revert(self, to: str, *, by: str, at: float) -> str:
        """A new release with the contents of `to`, for a history that only goes forward."""
        return self.write(self.contents(to), by=by, at=at)

    def ids(self, name: str) -> frozenset[str]:
        """Entries in a release."""
        tree = self._folder_of(self._commit(name), b"entries")
        return frozenset(path.decode().removesuffix(".md") for path in tree)

    def made(self, name: str) -> Made:
        """Who made a release, and what is in it."""
        commit = self._commit(name)
        manifest = _reading(name, lambda: self._manifest(commit.id))
        return Made(name=name, by=manifest["by"], at=manifest["at"], ids=self.ids(name))

    def contents(self, name: str) -> Contents:
        """All of a release, compared with its digest. Raises KnowledgeDamaged."""
        self._check_name(name)
        entries, packs, expected = _reading(name, lambda: self._all_of(name))
        found = Contents(entries=entries, packs=packs)
        if expected != digest(found):
            raise KnowledgeDamaged(f"{name} is not what was released.", hint=_RESTORE)
        return found

    def all_entries(self) -> dict[str, str]:
        """Every entry that some release holds, id -> markdown of the newest that does."""
        found: dict[str, str] = {}
        for name in reversed(self.names()):
            for item in self._folder_of(self._commit(name), b"entries").items():
                entry_id = item.path.decode().removesuffix(".md")
                if entry_id not in found:
                    found[entry_id] = self._blob(item.sha)
        return found

    def pack(self, name: str, area: str) -> str:
        """What the requests of an area are given; empty when nothing is for them."""
        tree = self._folder_of(self._commit(name), b"packs")
        path = f"{area or NO_AREA}.txt".encode()
        return self._blob(tree[path][1]) if path in tree else ""

    def diff(self, old: str, new: str) -> str:
        """Unified diff of the entries; `old` may be empty."""
        before = self.contents(old).entries if old else {}
        after = self.contents(new).entries
        return diff_entries(before, after, old=old or "nothing", new=new)

    def history(self, entry_id: str) -> tuple[tuple[str, str], ...]:
        """(release, text) where an entry was added, changed, or (empty text) left out."""
        found: list[tuple[str, str]] = []
        last = ""
        for name in self.names():
            tree = self._folder_of(self._commit(name), b"entries")
            path = f"{entry_id}.md".encode()
            text = self._blob(tree[path][1]) if path in tree else ""
            if text != last:
                found.append((name, text))
            last = text
        return tuple(found)

    def rewrite(self, change: Callable[[Contents], Contents]) -> None:
        """Write every release anew with changed contents and delete all that was there before.

        Names, order, authors and times stay. A kill at any point leaves the old repository or the
        new one whole (`_finish_rewrite`).
        """
        fresh_folder = self._folder.with_name(self._folder.name + ".new")
        shutil.rmtree(fresh_folder, ignore_errors=True)
        fresh = Truth(fresh_folder)
        current = self.current()
        for name in self.names():
            manifest = self._manifest(self._commit(name).id)
            based_on, by, at = manifest["based_on"], manifest["by"], manifest["at"]
            fresh._write(name, change(self.contents(name)), based_on=based_on, by=by, at=at)
        if current:
            fresh.point(current)
        fresh.close()
        self.close()
        (fresh_folder / _WHOLE).touch()
        _finish_rewrite(self._folder)
        self._repo = Repo(str(self._folder))

    def _write(self, name: str, contents: Contents, *, based_on: str, by: str, at: float) -> None:
        manifest = {
            "name": name,
            "based_on": based_on,
            "by": by,
            "at": at,
            "digest": digest(contents),
        }
        made: list[Blob | Tree | Commit] = []
        root = Tree()
        entries = {f"{key}.md": text for key, text in contents.entries.items()}
        packs = {f"{area or NO_AREA}.txt": text for area, text in contents.packs.items()}
        for folder, files in ((b"entries", entries), (b"packs", packs)):
            root.add(folder, _FOLDER, _tree(files, made))
        blob = Blob.from_string(json.dumps(manifest, indent=1).encode() + b"\n")
        made.append(blob)
        root.add(b"release.json", _FILE, blob.id)
        made.append(root)
        commit = Commit()
        commit.tree = root.id
        commit.parents = [self._commit(based_on).id] if based_on else []
        commit.author = commit.committer = f"{_one_line(by)} <>".encode()
        commit.author_time = commit.commit_time = int(at)
        commit.author_timezone = commit.commit_timezone = 0
        commit.encoding = b"UTF-8"
        commit.message = f"Release {name}\n".encode()
        made.append(commit)
        store = self._repo.object_store
        store.add_objects([(item, None) for item in made if item.id not in store])
        self._repo.refs[Ref(_TAGS + name.encode())] = commit.id

    def _all_of(self, name: str) -> tuple[dict[str, str], dict[str, str], str]:
        commit = self._commit(name)
        entries = {k.removesuffix(".md"): v for k, v in self._texts(commit, b"entries")}
        packs = {k.removesuffix(".txt"): v for k, v in self._texts(commit, b"packs")}
        areas = {"" if area == NO_AREA else area: text for area, text in packs.items()}
        return entries, areas, self._manifest(commit.id)["digest"]

    def _check_name(self, name: str) -> None:
        if not name or Ref(_TAGS + name.encode()) not in self._repo.refs:
            raise UnknownRelease(
                f"no release {name!r}.", hint=f"There are: {', '.join(self.names())}.", param="to"
            )

    def _commit(self, name: str) -> Commit:
        self._check_name(name)
        found = self._repo[self._repo.refs[Ref(_TAGS + name.encode())]]
        assert isinstance(found, Commit)
        return found

    def _manifest(self, commit_id: ObjectID) -> dict[str, Any]:
        commit = self._repo[commit_id]
        assert isinstance(commit, Commit)
        root = self._repo[commit.tree]
        assert isinstance(root, Tree)
        return dict(json.loads(self._blob(root[b"release.json"][1])))

    def _folder_of(self, commit: Commit, folder: bytes) -> Tree:
        root = self._repo[commit.tree]
        assert isinstance(root, Tree)
        tree = self._repo[root[folder][1]]
        assert isinstance(tree, Tree)
        return tree

    def _texts(self, commit: Commit, folder: bytes) -> Iterator[tuple[str, str]]:
        for item in self._folder_of(commit, folder).items():
            yield item.path.decode(), self._blob(item.sha)

    def _blob(self, blob_id: ObjectID) -> str:
        blob = self._repo[blob_id]
        assert isinstance(blob, Blob)
        return blob.data.decode()


_RESTORE = "Restore the tenant's folder from a backup."
_WHOLE = "whole"


def _reading(what: str, read: Callable[[], _T]) -> _T:
    """Any error of the layers below (zlib, struct, dulwich, Unicode, JSON) means damage."""
    try:
        return read()
    except Exception as error:
        # Not chained: the traceback holds views of the mapped file, which then cannot be closed.
        reason = repr(error)
    raise KnowledgeDamaged(f"{what} cannot be read: {reason}.", hint=_RESTORE)


def _tree(files: Mapping[str, str], made: list[Blob | Tree | Commit]) -> ObjectID:
    tree = Tree()
    for path, text in sorted(files.items()):
        blob = Blob.from_string(text.encode())
        tree.add(path.encode(), _FILE, blob.id)
        made.append(blob)
    made.append(tree)
    return tree.id


def _one_line(text: str) -> str:
    return "".join(char for char in text if char.isprintable() and char not in "<>") or "unknown"


def _finish_rewrite(folder: Path) -> None:
    """Put a repository that is written to its end in the place of the old one."""
    fresh = folder.with_name(folder.name + ".new")
    if not (fresh / _WHOLE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    (folder / _WHOLE).unlink()
