"""Where one statement of a schema dump ends and the next begins, for the tools that write dumps:
sqlite3, pg_dump, mysqldump, SQL Server's scripts. What a statement says is dump.py's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import sqlglot
from sqlglot import Token, TokenType

from stepwell.knowledge.errors import InvalidEntry

BODIES = frozenset({"TRIGGER", "FUNCTION", "PROCEDURE", "PROC", "EVENT"})
"""What may have statements inside."""
_QUOTED = frozenset({
    TokenType.STRING, TokenType.NATIONAL_STRING, TokenType.HEREDOC_STRING, TokenType.IDENTIFIER,
    TokenType.NUMBER,
})  # fmt: skip

# What is matched here is somebody else's text: no pattern looks at a character more than twice.
# psql's rows behind COPY, and those of its commands that say nothing of tables
_COPY = re.compile(r"COPY .* FROM stdin;", re.I)
_PSQL = re.compile(r"^\\(?:restrict|unrestrict|encoding)\b.*$", re.M)
_CONNECT = re.compile(r"^\\connect\b(.*)$", re.M)
# For MySQL and MariaDB these are no comments; the first one of a dump of MariaDB's says nothing.
_SANDBOX = re.compile(r"/\*M?!999999\\- enable the sandbox mode \*/")
_CONDITIONAL = re.compile(r"/\*M?!\d*")
_DELIMITER = re.compile(r"^DELIMITER[ \t]+(\S+)[ \t]*$", re.I | re.M)
_GO = re.compile(r"^[ \t]*GO(?:[ \t]+\d+)?[ \t]*(?:--.*)?$", re.I | re.M)


@dataclass(frozen=True)
class Part:
    """One statement. `is_whole`: semicolons inside of it are its own, whatever it is."""

    tokens: Sequence[Token]
    text: str
    is_whole: bool = False

    @cached_property
    def words(self) -> list[str]:
        """Each token in upper case; what is quoted is empty."""
        return [word(token) for token in self.tokens]


def word(token: Token) -> str:
    """In upper case; empty if it is quoted or a number."""
    return "" if token.token_type in _QUOTED else token.text.upper()


def parts(ddl: str, dialect: str) -> Iterator[Part]:
    """All statements of a known dialect, in their order. Raises InvalidEntry."""
    yield from _SPLITTERS.get(dialect, _plain)(ddl.replace("\r\n", "\n"), dialect)


def wrong(what: str, hint: str) -> InvalidEntry:
    """What is refused."""
    return InvalidEntry(f"the DDL: {what}", hint=hint, param="ddl")


def _tokens(text: str, dialect: str) -> list[Token]:
    try:
        return list(sqlglot.Dialect.get_or_raise(dialect).tokenize(text))
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise wrong(f"it cannot be read: {error}"[:300], "") from None


def _part(tokens: Sequence[Token], text: str, *, is_whole: bool = False) -> Part:
    return Part(tokens, text[tokens[0].start : tokens[-1].end + 1], is_whole)


def _plain(text: str, dialect: str) -> Iterator[Part]:
    """At every semicolon."""
    return _split(text, dialect, ends=lambda part: True)


def _split(text: str, dialect: str, *, ends: Callable[[Sequence[Token]], bool]) -> Iterator[Part]:
    """At those semicolons before which `ends` says so; the last one may be left out."""
    part: list[Token] = []
    for token in _tokens(text, dialect):
        if token.token_type is not TokenType.SEMICOLON:
            part.append(token)
        elif part and ends(part):
            yield _part(part, text)
            part = []
        elif part:
            part.append(token)
    if part:
        yield _part(part, text, is_whole=not ends(part))


def _sqlite(text: str, dialect: str) -> Iterator[Part]:
    """A trigger ends where SQLite itself says: at `; END ;`."""

    def ends(part: Sequence[Token]) -> bool:
        first = [word(token) for token in part[:3]]
        if first[0] != "CREATE" or "TRIGGER" not in first[1:]:
            return True
        return [word(token) for token in part[-2:]] == [";", "END"]

    for part in _split(text, dialect, ends=ends):
        if part.is_whole:
            raise wrong(f"{part.text!r:.60} does not end.", "Give all of it.")
        yield part


def _postgres(text: str, dialect: str) -> Iterator[Part]:
    text = _PSQL.sub("", _without_rows(text))
    connected = {name.strip() for name in _CONNECT.findall(text)}
    if len(connected) > 1:
        raise wrong("it is of several databases.", "Give one after the other.")
    return _plain(_CONNECT.sub("", text), dialect)


def _without_rows(text: str) -> str:
    """Without each COPY and what follows it up to `\\.`, which must be there."""
    kept, copied = [], False
    for line in text.split("\n"):
        if copied:
            copied = line != "\\."
        elif _COPY.fullmatch(line):
            copied = True
        else:
            kept.append(line)
    if copied:
        raise wrong("rows behind a COPY do not end.", "Give all of it.")
    return "\n".join(kept)


def _uncommented(text: str) -> str:
    """With what is in conditional comments."""
    kept, place = [], 0
    while found := _CONDITIONAL.search(text, place):
        end = text.find("*/", found.end())
        if end < 0:
            break
        kept += [text[place : found.start()], text[found.end() : end]]
        place = end + 2
    return "".join([*kept, text[place:]])


def _mysql(text: str, dialect: str) -> Iterator[Part]:
    """At the delimiter that is in force."""
    text = _uncommented(_SANDBOX.sub("", text))
    start, delimiter = 0, ";"
    for found in [*_DELIMITER.finditer(text), None]:
        section = text[start : found.start() if found else len(text)]
        if delimiter == ";":
            yield from _plain(section, dialect)
        else:
            for piece in section.split(delimiter):
                tokens = _tokens(piece, dialect)
                if tokens:
                    yield _part(tokens, piece, is_whole=True)
        if found:
            start, delimiter = found.end(), found[1]


def _tsql(text: str, dialect: str) -> Iterator[Part]:
    """In batches between GO; one that begins with a routine is all that routine's."""
    for batch in _GO.split(text):
        tokens = _tokens(batch, dialect)
        words = [word(token) for token in tokens[:4]]
        if words and words[0] in ("CREATE", "ALTER") and BODIES & set(words):
            yield _part(tokens, batch, is_whole=True)
        else:
            yield from _plain(batch, dialect)


_SPLITTERS: dict[str, Callable[[str, str], Iterator[Part]]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
    "mysql": _mysql,
    "tsql": _tsql,
}
