"""transformers' list of its model files, read once per installation instead of once per start.

transformers finds its 500 model folders' classes by reading 2,000 source files, a fifth of a
second. The list is kept in the user's cache, by transformers' version and the folders' times of
change; whatever is wrong with the kept one, the files are read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_READER = "create_import_structure_from_path"


def remember_model_files(import_utils: ModuleType) -> None:
    """Make `transformers.utils.import_utils` use the kept list. Other folders are read as ever."""
    read = getattr(import_utils, _READER)
    models = Path(import_utils.__file__ or "").resolve().parent.parent / "models"
    kept: list[Any] = []

    def create(path: Any) -> Any:
        asked = Path(path).resolve()
        if (asked.parent if asked.is_file() else asked) != models:
            return read(path)
        if not kept:
            kept.append(_kept(models, read))
        return kept[0]

    setattr(import_utils, _READER, create)


def cache_file(models: Path) -> Path:
    """Where the list of this state of the installation is kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = getattr(sys.modules.get("transformers"), "__version__", "")
    state = [str(models), version]
    with os.scandir(models) as entries:
        state += sorted(f"{entry.name} {entry.stat().st_mtime_ns}" for entry in entries)
    digest = hashlib.sha256("\n".join(state).encode()).hexdigest()[:16]
    return home / "stepwell" / f"model-files-{digest}.json"


def _kept(models: Path, read: Any) -> Any:
    try:
        file = cache_file(models)
    except OSError:
        return read(models)
    try:
        return decode(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        pass
    structure = read(models)
    new = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(encode(structure)), encoding="utf-8")
        new.replace(file)
    except OSError:  # no cache folder: read again next time
        pass
    return structure


def encode(structure: Any) -> Any:
    """Folders, then frozen sets of packages, then files, then sets of names, as JSON holds them."""
    if not isinstance(structure, dict):
        return {"names": sorted(structure)}
    return [
        [sorted(key) if isinstance(key, frozenset) else key, encode(value)]
        for key, value in structure.items()
    ]


def decode(form: Any) -> Any:
    """What `encode` was given."""
    if isinstance(form, dict):
        return set(form["names"])
    return {frozenset(key) if isinstance(key, list) else key: decode(value) for key, value in form}
