"""What may be shown of settings that can hold a secret."""

from __future__ import annotations

import re

_URL = re.compile(r"(?P<scheme>\w+)://(?P<user>[^@/?#]*@)?(?P<place>[^@?#]*)(?P<more>[?#][^@]*)?")


def redact_url(url: str) -> str:
    """The URL with `***` for its user part and its options, either of which may hold a password.
    What is not shaped like a URL is not shown at all."""
    match = _URL.fullmatch(url)
    if match is None:
        return "***" if url else ""
    user = "***@" if match["user"] else ""
    more = "?***" if match["more"] else ""
    return f"{match['scheme']}://{user}{match['place']}{more}"
