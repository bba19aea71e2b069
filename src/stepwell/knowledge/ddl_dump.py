"""What a schema dump says of tables, as sqlite3, pg_dump, mysqldump and SQL Server tools write it.
Statements that make no difference to a table are left out.

Nothing is guessed. A statement that is neither understood nor known to leave tables as they are is
refused, and so is one that another seems to hide in: SQL Server's need no semicolon between them.
What types, domains and sequences are is not followed; columns have their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import Token, TokenType, exp

from stepwell.knowledge.errors import InvalidEntry


@dataclass(frozen=True, slots=True)
class Made:
    """A CREATE TABLE or CREATE VIEW."""

    tree: exp.Create


@dataclass(frozen=True, slots=True)
class Dropped:
    """Tables or views that are there no more, if they were; names without their schemas."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """Something that an ALTER TABLE says of a table, or of one of its columns, without changing
    names: a constraint, a default. `text`: in equal words whatever its layout. `sql`: all of it."""

    table: str
    column: str | None
    text: str
    sql: str


Statement = Made | Dropped | Added

_HINT = "Leave it out, or give the table's CREATE as it is now, in plainer words."
_QUOTED = {TokenType.STRING, TokenType.IDENTIFIER, TokenType.HEREDOC_STRING, TokenType.NUMBER}
_TABLES = frozenset({"TABLE", "VIEW"})
_BODIES = frozenset({"TRIGGER", "FUNCTION", "PROCEDURE", "EVENT"})
_WITH_BODIES = {
    "sqlite": frozenset({"TRIGGER"}),
    "postgres": frozenset({"TRIGGER", "FUNCTION", "PROCEDURE"}),
    "mysql": _BODIES,
}
_NO_TABLES = frozenset({
    "INDEX", "EXTENSION", "TYPE", "DOMAIN", "SEQUENCE", "SCHEMA", "DATABASE", "ROLE", "USER",
    "POLICY", "AGGREGATE", "CAST", "OPERATOR", "COLLATION", "PUBLICATION", "STATISTICS", "LANGUAGE",
    "LOGIN", "DEFAULT",
})  # fmt: skip
_PASSED_OVER = frozenset({
    "SET", "USE", "PRAGMA", "COMMIT", "LOCK", "UNLOCK", "GRANT", "REVOKE", "COMMENT", "ANALYZE",
    "INSERT", "REPLACE", "UPDATE", "DELETE",
})  # fmt: skip
_BLOCKS = frozenset({"BEGIN", "START", "END"})  # of a transaction, if they are that short
_LONGEST_BLOCK = 3
_CLOSED_OTHERWISE = frozenset({"IF", "LOOP", "WHILE", "REPEAT"})
_HIDDEN = re.compile(
    r"\b((CREATE|ALTER|DROP)\s+(\w+\s+){0,3}?(TABLE|VIEW)|RENAME|EXEC(UTE)?\s+(sp_|\())", re.I
)
_LINES = {
    # psql's own commands, and rows of tables behind COPY
    "postgres": ((re.compile(r"^COPY .* FROM stdin;\n(.*\n)*?\\\.$", re.I | re.M), ""),
                 (re.compile(r"^\\\w+.*$", re.M), "")),
    "mysql": ((re.compile(r"^DELIMITER .*$", re.I | re.M), ""),
              (re.compile(r"/\*!\d*(.*?)\*/", re.S), r"\1")),  # for MySQL these are no comments
    "tsql": ((re.compile(r"^[ \t]*GO[ \t]*$", re.I | re.M), ";"),),
}  # fmt: skip


def statements(ddl: str, *, dialect: str) -> Iterator[Statement]:
    """Of a known dialect, in their order. Raises InvalidEntry."""
    for pattern, instead in _LINES.get(dialect, ()):
        ddl = pattern.sub(instead, ddl)
    try:
        tokens = sqlglot.Dialect.get_or_raise(dialect).tokenize(ddl)
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise wrong(f"it cannot be read: {error}"[:300], "") from None
    for part in _split(tokens):
        yield from _Reader(dialect, part, ddl[part[0].start : part[-1].end + 1]).read()


def wrong(what: str, hint: str) -> InvalidEntry:
    """What is refused."""
    return InvalidEntry(f"the DDL: {what}", hint=hint, param="ddl")


def _word(token: Token) -> str:
    return "" if token.token_type in _QUOTED else token.text.upper()


def _told(token: Token) -> str:
    """In equal words whatever the layout."""
    if token.token_type is TokenType.STRING:
        return f"'{token.text}'"
    return _word(token) or token.text


def _has_several(words: Sequence[str]) -> bool:
    """Whether there is a comma outside of all brackets."""
    depth = 0
    for word in words:
        depth += (word == "(") - (word == ")")
        if word == "," and not depth:
            return True
    return False


def _split(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """At semicolons that are in no body of a trigger or routine."""
    part: list[Token] = []
    for token in tokens:
        if token.token_type is not TokenType.SEMICOLON:
            part.append(token)
        elif part and not _is_open(part):
            yield part
            part = []
    if part:
        yield part


def _is_open(part: Sequence[Token]) -> bool:
    """Whether a body has begun in it and not ended."""
    words = [_word(token) for token in part]
    if words[0] != "CREATE" or not _BODIES & set(words[1:8]):
        return False
    depth, before = 0, ""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == "END" and after not in _CLOSED_OTHERWISE:
            depth -= 1
        elif word == "BEGIN" or (word == "CASE" and before != "END"):
            depth += 1
        before = word
    return depth > 0


@dataclass(frozen=True, slots=True)
class _Reader:
    """One statement."""

    dialect: str
    tokens: Sequence[Token]
    text: str

    @property
    def words(self) -> list[str]:
        return [_word(token) for token in self.tokens]

    def read(self) -> Iterator[Statement]:
        words = self.words
        lead = words[0].partition(" ")[0]
        if lead == "CREATE":
            yield from self._create()
        elif lead == "DROP":
            yield from self._drop()
        elif lead == "ALTER":
            yield from self._alter()
        elif lead in _PASSED_OVER or (lead in _BLOCKS and len(words) <= _LONGEST_BLOCK):
            self._check_hidden(beyond=1)
        else:
            self._parsed()

    def _create(self) -> Iterator[Made]:
        kind = next(
            (word for word in self.words[1:8] if word in _TABLES | _NO_TABLES | _BODIES), ""
        )
        if kind in _TABLES:
            tree = self._parsed()
            if not isinstance(tree, exp.Create) or tree.kind not in _TABLES:
                raise self._refusal("cannot be read")
            yield Made(tree)
        elif kind in _BODIES:
            if kind not in _WITH_BODIES.get(self.dialect, ()):
                raise self._refusal("cannot be read")
            if "BEGIN" not in self.words:
                self._check_hidden(beyond=1)
        elif kind:
            self._check_hidden(beyond=1)
        else:
            raise self._refusal("cannot be read")

    def _drop(self) -> Iterator[Dropped]:
        words = self.words
        kind = next((word for word in words[1:4] if word in _TABLES | _NO_TABLES | _BODIES), "")
        if kind not in _TABLES:
            if not kind:
                raise self._refusal("is not carried out")
            self._check_hidden(beyond=1)
            return
        first = words.index(kind) + 1
        if words[first : first + 2] == ["IF", "EXISTS"]:
            first += 2
        names, place = [], first
        while place < len(words):
            name, place = self._name(place)
            names.append(name)
            if words[place : place + 1] != [","]:
                break
            place += 1
        if words[place:] not in ([], ["CASCADE"], ["RESTRICT"]):
            raise self._refusal("is not carried out")
        yield Dropped(tuple(names))

    def _alter(self) -> Iterator[Added]:
        words = self.words
        if words[1:2] != ["TABLE"]:
            if words[1:2] == ["VIEW"] and "OWNER" not in words:
                raise self._refusal("is not carried out")
            self._check_hidden(beyond=1)
            return
        first = 2
        while words[first : first + 1] in (["ONLY"], ["IF"], ["EXISTS"]):
            first += 1
        table, first = self._name(first)
        says = words[first:]
        if _has_several(says):
            raise self._refusal("is not carried out")
        if says[:1] in (["OWNER"], ["ENABLE"], ["DISABLE"], ["CLUSTER"], ["REPLICA"]):
            self._check_hidden(beyond=first)
            return
        if says[:1] == ["WITH"] and says[1:2] in (["CHECK"], ["NOCHECK"]):
            first, says = first + 2, says[2:]
        if says[:2] == ["CHECK", "CONSTRAINT"]:
            self._check_hidden(beyond=first)
            return
        column = None
        if says[:2] == ["ALTER", "COLUMN"] and words[first + 3 : first + 4] in (["SET"], ["ADD"]):
            column = self.tokens[first + 2].text.casefold()
        elif says[:2] != ["ADD", "CONSTRAINT"]:
            raise self._refusal("is not carried out")
        self._check_hidden(beyond=first)
        yield Added(table, column, " ".join(map(_told, self.tokens[first:])), self.text)

    def _name(self, place: int) -> tuple[str, int]:
        """A table's name without its schema, and the place behind it."""
        words = self.words
        while words[place + 1 : place + 2] == ["."]:
            place += 2
        if place >= len(words):
            raise self._refusal("cannot be read")
        return self.tokens[place].text.casefold(), place + 1

    def _parsed(self) -> exp.Expr | None:
        """By the parser, which keeps as text what it does not know: that may make or rename
        anything."""
        text = self.text if self.dialect != "sqlite" else self._without_options()
        try:
            tree = sqlglot.parse_one(text, read=self.dialect)
        except (sqlglot.errors.SqlglotError, RecursionError) as error:
            raise wrong(f"it cannot be read: {error}"[:300], "") from None
        if tree.find(exp.Command, exp.Execute, exp.Alter, exp.Drop, exp.Into):
            raise self._refusal("cannot be read")
        if not isinstance(tree, exp.Create) and tree.find(exp.Create):
            raise self._refusal("cannot be read")
        return tree

    def _without_options(self) -> str:
        """SQLite's ways to store a table."""
        end = len(self.tokens)
        while end and self.words[end - 1] in ("WITHOUT", "ROWID", "STRICT", ","):
            end -= 1
        stop = self.tokens[end - 1].end - self.tokens[0].start + 1 if end else len(self.text)
        return self.text[:stop]

    def _check_hidden(self, *, beyond: int) -> None:
        """Refuse a statement that seems to contain another one; what is in quotes does not count,
        but for what the tokenizer does not look into."""
        raw = any(token.token_type is TokenType.COMMAND for token in self.tokens)
        rest = self.tokens[beyond:]
        text = " ".join(token.text if raw else _word(token) for token in rest)
        if _HIDDEN.search(text):
            raise self._refusal("cannot be read")

    def _refusal(self, what: str) -> InvalidEntry:
        return wrong(f"{' '.join(self.text.split())!r:.60} {what}.", _HINT)
