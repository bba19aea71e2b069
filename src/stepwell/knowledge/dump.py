"""What tables and views there are after the statements of a schema dump, or of CREATEs alone.

A dump is carried out as far as it says what tables are; statements of which it is known that they
change none are passed over; every other one is refused. So is what cannot be told apart: tables of
two databases, statements that another seems to hide in. Nothing is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import sqlglot
from sqlglot import Token, TokenType, exp

from stepwell.knowledge.dump_text import BODIES, Part, parts, word, wrong
from stepwell.knowledge.errors import InvalidEntry


@dataclass(frozen=True, slots=True)
class Added:
    """What an ALTER TABLE says of a table, or of one of its columns, without changing a name.
    `text`: in equal words whatever the layout. `sql`: the whole statement."""

    column: str | None
    text: str
    sql: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view. `schema`: what stands before its name, lower case, or nothing."""

    schema: str
    tree: exp.Create
    added: list[Added] = field(default_factory=list)


def read_dump(ddl: str, *, dialect: str) -> dict[str, Table]:
    """By name without schema, lower case. Raises InvalidEntry."""
    dump = _Dump(dialect)
    for part in parts(ddl, dialect):
        dump.carry_out(part)
    return dump.tables


_KNOWN = frozenset({"sqlite", "postgres", "mysql"})
"""Their statements end at semicolons and nowhere else; elsewhere another one may hide in each."""
_HIDDEN = frozenset({"CREATE", "ALTER", "DROP", "RENAME", "EXEC", "EXECUTE", "INTO", "SELECT"})
_TABLES = frozenset({"TABLE", "VIEW"})
_OTHERS = frozenset({
    "INDEX", "EXTENSION", "TYPE", "DOMAIN", "SEQUENCE", "SCHEMA", "DATABASE", "ROLE", "USER",
    "POLICY", "AGGREGATE", "CAST", "OPERATOR", "COLLATION", "PUBLICATION", "STATISTICS", "LANGUAGE",
    "LOGIN",
})  # fmt: skip
_LEAVE_TABLES = BODIES | {"INDEX", "SEQUENCE"}  # dropped without CASCADE
_ALTERED = _OTHERS | BODIES | {"DEFAULT"}
_BEFORE_KIND = frozenset({
    "OR", "REPLACE", "ALTER", "GLOBAL", "LOCAL", "TEMP", "TEMPORARY", "UNLOGGED", "UNIQUE",
    "VIRTUAL", "NONCLUSTERED", "CLUSTERED", "FULLTEXT", "SPATIAL", "MATERIALIZED", "CONSTRAINT",
    "RECURSIVE",
})  # fmt: skip
_PASSED_OVER = frozenset({
    "SET", "USE", "PRAGMA", "COMMIT", "LOCK", "UNLOCK", "GRANT", "REVOKE", "COMMENT", "ANALYZE",
    "PRINT",
})  # fmt: skip
_RIGHTS = frozenset({"GRANT", "REVOKE"})
_ROWS = frozenset({"INSERT", "UPDATE", "DELETE"})
_BLOCKS = frozenset({"BEGIN", "START"})  # of a transaction, if they are that short
_LONGEST_BLOCK = 3
_CATALOG = frozenset({"sqlite_master", "sqlite_schema"})
_CALLED = frozenset({"SET_CONFIG", "SETVAL"})  # by pg_dump
_DOCUMENTED = "sp_addextendedproperty"  # by SQL Server's scripts
_OF_STORAGE = (
    ("OWNER", "TO"), ("ENABLE",), ("DISABLE",), ("CLUSTER", "ON"), ("REPLICA",), ("FORCE",),
    ("NO", "FORCE"), ("CHECK", "CONSTRAINT"),
)  # fmt: skip
_OF_TABLE = (
    ("ADD", "CONSTRAINT"), ("ADD", "PRIMARY"), ("ADD", "PRIMARY KEY"), ("ADD", "UNIQUE"),
    ("ADD", "KEY"), ("ADD", "INDEX"), ("ADD", "FULLTEXT"), ("ADD", "SPATIAL"), ("ADD", "FOREIGN"),
    ("ADD", "FOREIGN KEY"), ("ADD", "CHECK"), ("ADD", "DEFAULT"), ("ATTACH", "PARTITION"),
    ("INHERIT",),
)  # fmt: skip
_HINT = "Leave it out, or give the table's CREATE as it is now, in plainer words."


class _Dump:
    """What is there so far."""

    def __init__(self, dialect: str) -> None:
        self.tables: dict[str, Table] = {}
        self._dialect = dialect
        self._database: list[str] | None = None

    def carry_out(self, part: Part) -> None:
        lead = part.words[0].partition(" ")[0]
        if part.is_whole and TokenType.SEMICOLON in {token.token_type for token in part.tokens}:
            if _kind(part) not in BODIES:
                raise _refusal(part)
        elif lead == "CREATE":
            self._create(part)
        elif lead == "DROP":
            self._drop(part)
        elif lead == "ALTER":
            self._alter(part)
        elif lead in _ROWS or part.words[:2] == ["REPLACE", "INTO"]:
            self._change_rows(part)
        elif not self._is_passed_over(part, lead):
            raise _refusal(part)

    def _is_passed_over(self, part: Part, lead: str) -> bool:
        if lead in ("EXEC", "EXECUTE"):
            names = [token.text.casefold() for token in part.tokens[1:4]]
            self._check_hidden(part, beyond=1)
            return self._dialect == "tsql" and _DOCUMENTED in names
        if lead == "SELECT":
            called = part.words[3:] if part.words[2:3] == ["."] else part.words[1:]
            return bool(_CALLED & set(called[:1])) and "INTO" not in part.words
        if lead == "USE":
            self._use(part)
        self._check_hidden(part, beyond=_behind_rights(part) if lead in _RIGHTS else 1)
        return lead in _PASSED_OVER or (lead in _BLOCKS and len(part.tokens) <= _LONGEST_BLOCK)

    def _use(self, part: Part) -> None:
        database = [token.text.casefold() for token in part.tokens[1:]]
        if self.tables and database != self._database:
            raise wrong("it is of several databases.", "Give one after the other.")
        self._database = database

    def _create(self, part: Part) -> None:
        kind = _kind(part)
        if kind in _TABLES:
            self._make(self._parsed(part, part.text))
        elif kind in BODIES:
            self._check_body(part)
        elif kind in _OTHERS:
            self._check_hidden(part, beyond=1)
        else:
            raise _refusal(part)

    def _check_body(self, part: Part) -> None:
        """Refuse a routine that may not end where its part ends."""
        known = part.is_whole or self._dialect in _KNOWN
        if not known or (self._dialect != "sqlite" and not part.is_whole and "BEGIN" in part.words):
            raise _refusal(part)

    def _parsed(self, part: Part, text: str) -> exp.Create:
        if self._dialect == "sqlite":
            text = _without_options(part, text)
        try:
            tree = sqlglot.parse_one(text, read=self._dialect)
        except (sqlglot.errors.SqlglotError, RecursionError) as error:
            raise wrong(f"it cannot be read: {error}"[:300], "") from None
        if not isinstance(tree, exp.Create) or tree.kind not in _TABLES or tree.find(exp.Into):
            raise _refusal(part)
        return tree

    def _make(self, tree: exp.Create) -> None:
        target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
        name, schema = target.name.casefold(), target.db.casefold()
        before = self.tables.get(name)
        replaces = before is not None and tree.args.get("replace") and before.schema == schema
        if before is not None and not replaces:
            raise wrong(f"{name} is there twice.", "Give each table once, of one schema.")
        self.tables[name] = Table(schema, tree)

    def _drop(self, part: Part) -> None:
        """Before anything was made it drops what a dump replaces. Later, of what was made, only
        the stand-ins that mysqldump makes for views."""
        if not self.tables:
            return self._check_hidden(part, beyond=1)
        words, kind = part.words, _kind(part)
        self._check_hidden(part, beyond=1)
        if "CASCADE" in words or kind not in _TABLES | _LEAVE_TABLES or words[1] == "TEMPORARY":
            raise _refusal(part)
        if kind in _LEAVE_TABLES:
            return
        place = words.index(kind) + 1
        place += 2 * (words[place : place + 2] == ["IF", "EXISTS"])
        while place < len(words):
            schema, name, place = _name(part, place)
            made = self.tables.get(name)
            if made is not None and (self._dialect != "mysql" or made.schema != schema):
                raise _refusal(part)
            self.tables.pop(name, None)
            if words[place : place + 1] not in ([","], []):
                raise _refusal(part)
            place += 1

    def _alter(self, part: Part) -> None:
        words = part.words
        if words[1] == "TABLE":
            return self._alter_table(part)
        if words[1] == "VIEW" or words[1:3] == ["MATERIALIZED", "VIEW"]:
            _, _, place = _name(part, words.index("VIEW") + 1)
            known = words[place : place + 2] == ["OWNER", "TO"]
        else:
            known = words[1].rpartition(" ")[2] in _ALTERED
        self._check_hidden(part, beyond=1)
        if not known:
            raise _refusal(part)

    def _alter_table(self, part: Part) -> None:
        place = 2
        while part.words[place : place + 1] in (["ONLY"], ["IF"], ["EXISTS"]):
            place += 1
        schema, name, place = _name(part, place)
        says = part.words[place:]
        if says[:1] == ["WITH"] and says[1:2] in (["CHECK"], ["NOCHECK"]):
            place, says = place + 2, says[2:]
        self._check_hidden(part, beyond=place + 1)
        actions = list(_actions(part.tokens[place:]))
        if len(actions) == 1 and any(_begins(says, known) for known in _OF_STORAGE):
            return
        added = [_added(part, action) for action in actions]
        table = self.tables.get(name)
        if table is None or table.schema != schema:
            raise wrong(f"{part.text!r:.60} is of a table that is not there.", _HINT)
        table.added.extend(added)

    def _change_rows(self, part: Part) -> None:
        """Tables that SQLite dumps as rows of its catalog are made, other rows are nobody's."""
        self._check_hidden(part, beyond=2)
        if not _CATALOG & {token.text.casefold() for token in part.tokens}:
            return
        told = [token.text for token in part.tokens if token.token_type is TokenType.STRING]
        if part.words[0] != "INSERT" or not told or told[0] != "table":
            raise _refusal(part)
        self._make(self._parsed(part, told[-1]))

    def _check_hidden(self, part: Part, *, beyond: int) -> None:
        """Refuse what another statement may hide in, where no semicolon need be between them; what
        the tokenizer keeps as text counts, too."""
        if self._dialect in _KNOWN:
            return
        whole = any(token.token_type is TokenType.COMMAND for token in part.tokens)
        texts = [token.text.upper() if whole else word(token) for token in part.tokens[beyond:]]
        if _HIDDEN & {found for text in texts for found in text.split()}:
            raise _refusal(part)


def _refusal(part: Part) -> InvalidEntry:
    return wrong(f"{' '.join(part.text.split())!r:.60} cannot be carried out.", _HINT)


def _kind(part: Part) -> str:
    """What a CREATE or DROP is of; empty if that is not clear."""
    words, place = part.words, 1
    while place < len(words):
        last = words[place].rpartition(" ")[2]
        if last in _TABLES | _OTHERS | BODIES:
            return last
        if words[place] == "ALGORITHM":
            place += 3
        elif words[place] == "DEFINER":
            place += 3 + 2 * (words[place + 3 : place + 4] == ["@"])
        elif words[place] == "SQL SECURITY":
            place += 2
        elif words[place] in _BEFORE_KIND:
            place += 1
        else:
            return ""
    return ""


def _behind_rights(part: Part) -> int:
    """Where a GRANT has named the rights, which are called as statements are."""
    return next((i for i, found in enumerate(part.words) if found in ("ON", "TO", "FROM")), 1)


def _name(part: Part, place: int) -> tuple[str, str, int]:
    """(schema or nothing, name, the place behind it), lower case."""
    words, found = part.words, []
    while place < len(words):
        found.append(part.tokens[place].text.casefold())
        place += 1
        if words[place : place + 1] != ["."]:
            break
        place += 1
    if not found or any("." in name for name in found):
        raise _refusal(part)
    return (found[-2] if len(found) > 1 else ""), found[-1], place


def _actions(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Those of an ALTER TABLE, at commas outside of all brackets."""
    depth, action = 0, list[Token]()
    for token in tokens:
        depth += (word(token) == "(") - (word(token) == ")")
        if word(token) == "," and not depth:
            yield action
            action = []
        else:
            action.append(token)
    yield action


def _added(part: Part, action: list[Token]) -> Added:
    words = [word(token) for token in action]
    text = " ".join(map(_told, action))
    if any(_begins(words, known) for known in _OF_TABLE):
        return Added(None, text, part.text)
    place = 1 + (words[1:2] == ["COLUMN"])
    sets = words[:1] == ["ALTER"] and words[place + 1 : place + 2] in (["SET"], ["ADD"])
    if len(action) > place + 1 and (sets or words[:1] == ["MODIFY"]):
        return Added(action[place].text.casefold(), text, part.text)
    raise _refusal(part)


def _begins(words: list[str], known: tuple[str, ...]) -> bool:
    return tuple(words[: len(known)]) == known


def _told(token: Token) -> str:
    """In equal words whatever the layout."""
    if token.token_type is TokenType.STRING:
        return f"'{token.text}'"
    return word(token) or token.text


def _without_options(part: Part, text: str) -> str:
    """SQLite's ways to store a table."""
    words, end = part.words, len(part.tokens)
    while end and words[end - 1] in ("WITHOUT", "ROWID", "STRICT", ","):
        end -= 1
    unchanged = text is not part.text or end == len(part.tokens) or not end
    return text if unchanged else text[: part.tokens[end - 1].end - part.tokens[0].start + 1]
