"""Replies of the knowledge base as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwell.cli.output import print_table

_WIDTH = 80


def _safe(value: Any) -> str:
    """What others wrote, without what a terminal would obey."""
    text = str(value)
    return "".join(c if c.isprintable() or c == "\n" else f"<{ord(c):x}>" for c in text)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.markup import escape

    print_table(escape(_safe(title)), columns, [[escape(_safe(c)) for c in row] for row in rows])


def me(reply: Any) -> None:
    """Who a key is, and its verbs."""
    for name in ("tenant", "user", "capture", "release"):
        print(f"{name}: {_safe(reply[name] or 'none')}")
    print(f"roles: {', '.join(reply['roles']) or 'none'}")
    rows = [
        (f"{item['method']} {item['path']}", "yes" if item["may"] else f"no: {item['why_not']}")
        for item in reply["verbs"]
    ]
    _table("verbs", ("path", "may"), rows)


def entries(reply: Any) -> None:
    """Of a listing."""
    rows = [_row(item) for item in reply["data"]]
    _table("entries", ("id", "status", "area", "says", "by"), rows)
    _more(reply)


def entry(reply: Any) -> None:
    """One, with all that is known of it."""
    shown = reply["entry"]
    rows = [(name, value) for name, value in shown["payload"].items() if value]
    rows += [(n, shown[n]) for n in ("status", "area", "trust", "source", "by", "at", "triggers")]
    rows += [("evidence", f"{item['what']} by {item['by']}") for item in reply["evidence"]]
    rows += [("finding", code) for code in reply["findings"]]
    rows += [("contradicts", name) for name in shown["contradicts"]]
    rows += [("release", item["release"]) for item in reply["history"] if item["markdown"]]
    _table(shown["id"], ("what", ""), rows)


def candidates(reply: Any) -> None:
    """Best first, with what stands against them."""
    rows = [
        (
            *_row(item["entry"])[:4],
            item["times"],
            ", ".join(item["findings"]),
            ", ".join(other["id"] for other in item["contradicts"]),
        )
        for item in reply["data"]
    ]
    columns = ("id", "status", "area", "says", "times", "findings", "contradicts")
    _table(f"{reply['waiting']} candidates wait", columns, rows)
    for item in reply["data"]:
        for other in item["contradicts"]:
            print(f"\n{_safe(other['diff'])}")
    _more(reply)


def found(reply: Any) -> None:
    """Of a search, as a model is given it."""
    if not reply["entries"]:
        print("Nothing is found.")
    for item in reply["entries"]:
        print(f"{_safe(item['text'])}({item['pattern']})\n")


def made(reply: Any) -> None:
    """What a proposal or a verdict came to."""
    print(f"{reply['outcome']}: {reply['id'] or 'no entry'}")
    for name in ("status", "findings", "contradicts"):
        if reply.get(name):
            value = reply[name]
            print(f"{name}: {value if isinstance(value, str) else ', '.join(value)}")


def releases(reply: Any) -> None:
    """Oldest first."""
    rows = [
        (
            f"{item['name']}{' (in force)' if item['name'] == reply['current'] else ''}",
            item["by"],
            item["at"],
            len(item["added"]),
            len(item["removed"]),
        )
        for item in reply["releases"]
    ]
    _table("releases", ("name", "by", "at", "added", "removed"), rows)


def plan(reply: Any) -> None:
    """What comes in, goes out, stays behind."""
    rows = [("comes in", name, "") for name in reply["added"]]
    rows += [("goes out", name, "") for name in reply["removed"]]
    rows += [("stays behind", item["id"], item["why"]) for item in reply["behind"]]
    rows += [("in doubt", i["id"], f"{i['bad']} bad, {i['good']} good") for i in reply["doubted"]]
    _table(f"plan {reply['digest']}", ("what", "entry", "why"), rows)
    print(_safe(reply["diff"]), end="")


def diff(reply: Any) -> None:
    """As `diff -u` shows it."""
    print(_safe(reply["diff"]), end="")


def cases(reply: Any) -> None:
    """Golden cases."""
    rows = [
        (
            item["id"],
            item["kind"],
            item["reads"],
            item["question"],
            "\n".join(item["expect"]),
            "\n".join(item["forbid"]),
        )
        for item in reply["data"]
    ]
    _table("cases", ("id", "kind", "reads", "question", "expect", "forbid"), rows)
    _more(reply)


def notes(reply: Any) -> None:
    """Of a session, oldest first."""
    rows = [(item["id"], item["text"]) for item in reply["data"]]
    _table(f"notes of {reply['session']}", ("id", "text"), rows)


def plain(reply: Any) -> None:
    """A line a value."""
    for name, value in reply.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{name}: {'none' if shown in ('', None) else _safe(shown)}")


def _row(item: Any) -> tuple[str, str, str, str, str]:
    said = "; ".join(str(value) for value in item["payload"].values() if value)
    short = said if len(said) <= _WIDTH else said[: _WIDTH - 3] + "..."
    return item["id"], item["status"], item["area"], short, item["by"]


def _more(reply: Any) -> None:
    if reply["next"]:
        print(f"There is more: --after {reply['next']}")
