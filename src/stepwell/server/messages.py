"""Chat messages as the template gets them: known roles, text only."""

from __future__ import annotations

from typing import Any

from stepwell.base.errors import InvalidParameter
from stepwell.server.fields import check_text

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Accepted roles -> the role that the template sees."""

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def read_messages(value: Any) -> list[dict[str, Any]]:
    """Messages with plain-text contents. Raises InvalidParameter naming the place."""
    if not isinstance(value, list) or not value:
        raise InvalidParameter("messages must be a non-empty list.", param="messages")
    return [_read_message(item, f"messages[{i}]") for i, item in enumerate(value)]


def _read_message(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise InvalidParameter(f"{where} must be an object.", param=where)
    role = item.get("role")
    if role not in ROLES:
        raise InvalidParameter(
            f"{where}.role is {role!r}.", hint=f"Valid: {', '.join(ROLES)}.", param=f"{where}.role"
        )
    for name, inner in item.items():
        if name not in ("role", "content", "name") and inner not in (None, [], {}):
            raise InvalidParameter(
                f"{where}.{name} is not supported.", hint="Leave it out.", param=f"{where}.{name}"
            )
    content = check_text(_read_content(item.get("content"), where), where=f"{where}.content")
    message = {"role": ROLES[role], "content": content}
    if isinstance(item.get("name"), str):
        message["name"] = item["name"]
    return message


def _read_content(content: Any, where: str) -> str:
    """The text of a string or of a list of text parts (joined without a separator)."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise InvalidParameter(
            f"{where}.content must be a string or a list of text parts.", param=f"{where}.content"
        )
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            raise InvalidParameter(
                f"{where}.content has a part of type {kind!r}.",
                hint="This server takes text only: parts of type 'text'.",
                param=f"{where}.content",
            )
        texts.append(part["text"])
    return "".join(texts)
