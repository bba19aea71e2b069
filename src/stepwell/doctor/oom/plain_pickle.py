"""Unpickling that can only build plain values: None, booleans, numbers, strings, bytes and the
containers of them.

A pickle is a program: it may name any function and call it. Here every name is refused, so nothing
of the file is run. Snapshots of torch contain plain values only.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn

from stepwell.base.errors import StepwellError


class UnreadableSnapshot(StepwellError):
    """The file is not a memory snapshot, or is one that names code."""

    code = "unreadable_snapshot"


class _Plain(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise UnreadableSnapshot(
            f"the file wants {module_name}.{global_name}, and a snapshot has plain values only.",
            hint="Nothing of it was run. Do not load it with pickle.",
        )

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnreadableSnapshot("the file refers to objects outside of it.")


def load_plain(data: bytes) -> Any:
    """The value. Raises UnreadableSnapshot for whatever is not one of plain types."""
    try:
        return _Plain(io.BytesIO(data)).load()
    except UnreadableSnapshot:
        raise
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise UnreadableSnapshot(f"not a pickle that can be read: {error}.") from error
