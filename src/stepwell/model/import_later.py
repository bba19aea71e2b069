"""Modules that are imported when something of them is first asked for, not when an import statement
names them.

A stand-in takes the module's place until then; whoever holds it goes on asking the module through
it. Only for modules whose import nobody depends on, and which nobody writes to.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

_lock = threading.Lock()  # held for a look and a change, never during an import


def import_later(names: Iterable[str], *, before: Mapping[str, Sequence[str]]) -> None:
    """Give these modules stand-ins when they are imported. Nothing happens to a module that is
    there already, or is not installed. `before`: which of them are to be imported for good before
    a module that relies on their import."""
    sys.meta_path.insert(0, _Later(set(names) - set(sys.modules), before))


def import_now(name: str) -> None:
    """Import a module that was to be imported later. Nothing happens to one that nobody named."""
    module = sys.modules.get(name)
    if isinstance(module, _StandIn):
        module._finder.imported(name)


class _StandIn(ModuleType):
    """In the place of a module. Setting an attribute does not reach the module."""

    _finder: _Later

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder.imported(self.__name__), name)


class _Later(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: set[str], before: Mapping[str, Sequence[str]]) -> None:
        self.names, self.before = names, before

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Part of the import protocol."""
        for first in self.before.get(name, ()):
            import_now(first)
        # By one of them, or by its package, whose path was just asked for. `target`: a reload.
        if target is None and name in sys.modules:
            return _present(sys.modules[name])
        if name not in self.names:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        if found is None:
            return None
        # Without a __path__, so that importing a module inside it imports it first.
        return importlib.machinery.ModuleSpec(name, self, origin=found.origin)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Part of the import protocol."""

    def exec_module(self, module: Any) -> None:
        """Part of the import protocol."""
        module.__file__ = module.__spec__.origin  # asked for by those who look through all modules
        module.__class__ = _StandIn
        module._finder = self

    def imported(self, name: str) -> ModuleType:
        """The module itself."""
        with _lock:
            self.names.discard(name)
            if isinstance(sys.modules.get(name), _StandIn):
                del sys.modules[name]
        return importlib.import_module(name)


def _present(module: ModuleType) -> importlib.machinery.ModuleSpec:
    """For the import of a module that has been imported meanwhile: leaves it as it is. The import
    system goes by the spec of the module then, so it has this one until it is loaded."""
    present = importlib.machinery.ModuleSpec(module.__name__, _Present(module))
    module.__spec__ = present
    return present


class _Present(importlib.abc.Loader):
    """Leaves a module that has been imported as it is."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Part of the import protocol."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Part of the import protocol."""
        module.__spec__ = self.spec
