"""Where log lines go: stderr, one line each, nothing of a request but its id."""

from __future__ import annotations

import logging

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(level: int = logging.INFO) -> None:
    """Our own messages from `level` on, other packages' warnings."""
    logging.basicConfig(level=logging.WARNING, format=_FORMAT)
    logging.getLogger("stepwell").setLevel(level)
