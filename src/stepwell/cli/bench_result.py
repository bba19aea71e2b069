"""The document that a benchmark leaves: when, by which command, on which machine, what."""

from __future__ import annotations

from typing import Any


def result_document(result: dict[str, Any], *, model: str, quick: bool) -> dict[str, Any]:
    """For --json and --out."""
    import platform
    import shlex
    import sys
    from datetime import UTC, datetime

    from stepwell.hardware.machine import read_machine

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "stepwell " + shlex.join(sys.argv[1:]),
        "machine": read_machine().as_dict() | {"host_python": platform.python_version()},
        "model": model,
        "quick": quick,
    } | result
