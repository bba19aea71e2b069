"""How a contestant is spoken to: one JSON object a line on stdin, one on stdout.

A contestant is a process that runs the same requests as the others when it is its turn:

    {"op": "load", "model": "...", ...}        -> {"ok": true, "result": {...}}
    {"op": "run", "requests": [...], ...}      -> {"ok": true, "result": {"seconds": ..., ...}}
    {"op": "ttft", "prompts": [...], ...}      -> {"ok": true, "result": {"cold": [...], ...}}
    {"op": "quit"}                             -> the process ends

An operation that raises answers {"ok": false, "error": "..."} and the contestant goes on. This
module needs the standard library alone: adapters of rivals import it inside their own
environments.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO

Operation = Callable[..., Mapping[str, Any]]


_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def serve_contestant(operations: Mapping[str, Operation]) -> None:
    """Answer operations until `quit` or the end of input; end with the caller, however it ends.

    Whatever libraries print goes to stderr: stdout carries replies and nothing else.
    """
    _die_with_caller()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    for line in sys.stdin:
        message = json.loads(line)
        name = message.pop("op")
        if name == "quit":
            return
        _reply(replies, _answer(operations, name, message))


def _die_with_caller() -> None:
    """A caller that was killed must leave nobody behind who takes processor time."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answer(
    operations: Mapping[str, Operation], name: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    if name not in operations:
        return {"ok": False, "error": f"no such operation: {name}"}
    try:
        return {"ok": True, "result": operations[name](**arguments)}
    except Exception as error:  # told to the caller, who decides
        traceback.print_exc(file=sys.stderr)
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def _reply(replies: TextIO, value: Mapping[str, Any]) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()
