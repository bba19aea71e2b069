"""A schema as hashes: what counts as a change, and what is refused."""

from __future__ import annotations

import contextlib
import sqlite3
import time

import pytest

from stepwell.knowledge.ddl import schema_hashes
from stepwell.knowledge.errors import InvalidEntry
from stepwell.knowledge.payload import Relationship
from stepwell.knowledge.seed import from_ddl

DDL = """
CREATE TABLE orders (id INT PRIMARY KEY, status TEXT, cust INT REFERENCES customers(id));
CREATE VIEW open_orders AS SELECT id FROM orders WHERE status = 'open';
CREATE INDEX by_status ON orders (status);
INSERT INTO orders VALUES (1, 'open', 1);
"""


def changed(ddl: str) -> set[str]:
    """Names whose hash is another one or which are on one side only."""
    old, new = schema_hashes(DDL), schema_hashes(ddl)
    return {name for name in {*old, *new} if old.get(name) != new.get(name)}


def test_tables_columns_and_views_have_each_a_hash() -> None:
    names = {"orders", "orders.id", "orders.status", "orders.cust", "open_orders"}
    assert set(schema_hashes(DDL)) == names


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("status TEXT", "Status  text /* stale */", set()),
        ("CREATE INDEX", "-- once\nCREATE INDEX", set()),
        ("id INT PRIMARY KEY, status TEXT", "status TEXT, id INT PRIMARY KEY", set()),
        ("status TEXT", "status INT", {"orders", "orders.status"}),
        ("status TEXT", "status TEXT NOT NULL", {"orders", "orders.status"}),
        ("status TEXT", "state TEXT", {"orders", "orders.status", "orders.state"}),
        ("status TEXT", "status TEXT, total REAL", {"orders", "orders.total"}),
        ("= 'open'", "= 'Open'", {"open_orders"}),
        ("REFERENCES customers(id)", "", {"orders", "orders.cust"}),
    ],
)
def test_what_counts_as_a_change(old: str, new: str, names: set[str]) -> None:
    assert old in DDL and changed(DDL.replace(old, new)) == names


@pytest.mark.parametrize(
    ("ddl", "says"),
    [
        ("CREATE TABLE (", "cannot be read"),
        ("hello world", "hello world.*cannot be carried out"),
        ("PRAGMA foreign_keys=ON", "no CREATE TABLE"),
        (f"{DDL} ALTER TABLE orders ADD COLUMN x INT", "ALTER TABLE orders.*cannot be carried out"),
        (f"{DDL} DROP TABLE orders", "DROP TABLE orders.*cannot be carried out"),
        ("CREATE TABLE t (a INT, A TEXT)", "t has a column twice"),
        ("CREATE TABLE t (a); CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1;", "does not end"),
        (f"{DDL} CREATE TABLE orders (id INT)", "twice"),
        ("CREATE TABLE a.t (x INT); CREATE TABLE b.t (x INT)", "of one schema"),
    ],
)
def test_what_is_no_schema_is_refused(ddl: str, says: str) -> None:
    with pytest.raises(InvalidEntry, match=says):
        schema_hashes(ddl)


@pytest.mark.parametrize(
    ("dialect", "statement"),
    [
        ("mysql", "RENAME TABLE t TO u"),
        ("mysql", "CALL change_it()"),
        ("mysql", "ALTER IGNORE TABLE t ADD COLUMN b INT"),
        ("mysql", "ALTER VIEW t AS SELECT owner FROM u"),
        ("mysql", "ALTER TABLE t ADD KEY k (a), DROP COLUMN a"),
        ("mysql", "DROP TEMPORARY TABLE t"),
        ("mysql", "DROP TABLE other.t"),
        ("mysql", "CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW BEGIN SET a = 1; END"),
        ("mysql", "/*M! DROP TEMPORARY TABLE t */"),
        ("mysql", "/*!50001 ALTER TABLE t DROP COLUMN a */"),
        ("mysql", "DELIMITER ;;\nSET a = 1; DROP TABLE t;;\nDELIMITER ;"),
        ("mysql", "REPLACE TABLE t (b INT)"),
        ("postgres", "ALTER TABLE t ALTER COLUMN a TYPE text USING a::text"),
        ("postgres", "ALTER TABLE t OWNER TO me, DROP COLUMN a"),
        ("postgres", "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0), ADD COLUMN b int"),
        ("postgres", "ALTER TABLE t RENAME TO u"),
        ("postgres", "ALTER TABLE s.t ADD CONSTRAINT c CHECK (a > 0)"),
        ("postgres", "ALTER FOREIGN TABLE t ADD COLUMN b int"),
        ("postgres", "ALTER VIEW t RENAME COLUMN a TO b"),
        ("postgres", "SELECT 1 AS b INTO u"),
        ("postgres", "SELECT change_it()"),
        ("postgres", "DROP TABLE t CASCADE"),
        ("postgres", "DROP SCHEMA public"),
        ("postgres", "DROP TYPE mood CASCADE"),
        ("postgres", "DO $$ BEGIN ALTER TABLE t RENAME TO u; END $$"),
        ("postgres", "ROLLBACK"),
        ("postgres", "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END"),
        ("postgres", "CREATE FOREIGN TABLE u (a int) SERVER s"),
        ("tsql", "EXEC sp_rename 't.a', 'b'"),
        ("tsql", "IF 1 = 1 DROP TABLE t"),
        ("tsql", "SET ANSI_NULLS ON\nCREATE TABLE u (a INT)"),
        ("tsql", "SET NOCOUNT ON EXEC [sp_rename] 't', 'u'"),
        ("tsql", "SET NOCOUNT ON SELECT * INTO u FROM t"),
        ("tsql", "GRANT SELECT ON t TO x ALTER TABLE t DROP COLUMN a"),
        ("tsql", "ALTER TABLE t CHECK CONSTRAINT c EXEC dbo.migrate"),
        ("tsql", "CREATE PROCEDURE p AS SELECT 1"),
        ("tsql", "BEGIN ALTER TABLE t DROP COLUMN a END"),
        ("sqlite", "UPDATE sqlite_master SET sql = 'CREATE TABLE t (b)'"),
        (
            "sqlite",
            "INSERT INTO sqlite_schema VALUES ('view','v','v',0,'CREATE VIEW v AS SELECT 1')",
        ),
        ("snowflake", "UNDROP TABLE u"),
        ("bigquery", "DROP TABLE `p.d.t`"),
        ("teradata", "REPLACE VIEW t AS SELECT 1"),
        ("oracle", "CREATE TABLE u (a INT) ORGANIZATION INDEX"),
        ("oracle", "RENAME t TO u"),
        ("oracle", "DROP USER x CASCADE"),
    ],
)
def test_what_may_change_a_table_is_refused_and_not_left_out(dialect: str, statement: str) -> None:
    table = "CREATE TABLE t (a INT)"
    assert set(schema_hashes(table, dialect=dialect)) == {"t", "t.a"}
    refused = r"cannot be carried out.*Leave it out|of a table that is not there|cannot be read"
    with pytest.raises(InvalidEntry, match=refused):
        schema_hashes(f"{table};\n{statement}", dialect=dialect)


@pytest.mark.parametrize(
    ("dialect", "ddl"),
    [
        ("mysql", "USE a; CREATE TABLE t (x INT); USE b; CREATE TABLE u (y INT)"),
        ("postgres", "\\connect a\nCREATE TABLE t (x INT);\n\\connect b\nCREATE TABLE u (y INT);"),
    ],
)
def test_tables_of_several_databases_are_refused(dialect: str, ddl: str) -> None:
    with pytest.raises(InvalidEntry, match="several databases"):
        schema_hashes(ddl, dialect=dialect)


def test_a_file_that_others_are_read_from_is_refused() -> None:
    with pytest.raises(InvalidEntry, match="cannot be"):
        schema_hashes("\\i more.sql\nCREATE TABLE t (a INT);", dialect="postgres")


@pytest.mark.parametrize(
    ("dialect", "statement"),
    [
        ("mysql", "SET NAMES utf8; USE shop; INSERT INTO t VALUES (1)"),
        ("postgres", "COMMENT ON TABLE t IS 'x'; CREATE INDEX i ON t (a); GRANT SELECT ON t TO u"),
        ("sqlite", "PRAGMA foreign_keys=ON; BEGIN TRANSACTION; COMMIT"),
        ("sqlite", "INSERT INTO t VALUES ('; CREATE TABLE u (b); DROP TABLE t;')"),
        ("postgres", "CREATE TYPE mood AS ENUM ('sad'); ALTER TYPE mood OWNER TO me"),
        ("mysql", "LOCK TABLES t WRITE; UNLOCK TABLES; DROP TABLE IF EXISTS u"),
        ("mysql", "DROP DATABASE shop; CREATE DATABASE shop; USE shop; DROP TABLE t"),
        ("postgres", "DROP TABLE IF EXISTS public.t CASCADE; DROP SCHEMA public; BEGIN; COMMIT"),
        ("postgres", "GRANT CREATE ON SCHEMA s TO u; ALTER DEFAULT PRIVILEGES GRANT ALL ON t TO u"),
    ],
)
def test_what_changes_no_table_is_passed_over(dialect: str, statement: str) -> None:
    table = "CREATE TABLE t (a INT)"
    alone = schema_hashes(table, dialect=dialect)
    assert schema_hashes(f"{statement}; {table}", dialect=dialect) == alone


def test_what_sqlite_dumps_of_itself(tmp_path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as base:
        base.executescript(f"""
            CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT DEFAULT ';') STRICT;
            CREATE TABLE logins (at TEXT, who INT, begin INT, PRIMARY KEY (at, who)) WITHOUT ROWID;
            {DDL}
            CREATE TRIGGER t AFTER UPDATE ON orders WHEN new.status = ';' BEGIN
                UPDATE orders SET status = CASE WHEN old.id = 1 THEN 'a' ELSE 'b' END;
                DELETE FROM logins WHERE begin > 1;
            END;
            CREATE TABLE begin (a, begin INT, "end" INT);
            CREATE INDEX started ON begin (begin);
            CREATE VIRTUAL TABLE found USING rtree(id, low, high);
            CREATE VIEW late AS SELECT CASE WHEN id > 5 THEN 'END' END AS n FROM orders;
        """)
        dump = "\n".join(base.iterdump())
    found = schema_hashes(dump)
    tables = {"customers", "logins", "orders", "open_orders", "late", "begin", "found"}
    tables |= {"found_rowid", "found_node", "found_parent"}
    assert {name for name in found if "." not in name} == tables
    assert {"logins.at", "logins.who", "customers.name"} <= set(found)
    assert {"begin.a", "begin.begin", "begin.end"} <= set(found)  # a has no type
    other = schema_hashes(dump.replace("rtree(id, low, high)", "rtree(id, low, far)"))
    assert {name for name in found if found[name] != other[name]} == {"found"}
    assert {name: found[name] for name in schema_hashes(DDL)} == schema_hashes(DDL)


POSTGRES = r"""
--
-- PostgreSQL database dump
--
\restrict 4fJk
SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);
CREATE EXTENSION IF NOT EXISTS pgcrypto WITH SCHEMA public;
CREATE TYPE public.mood AS ENUM ('sad', 'ok');
ALTER TYPE public.mood OWNER TO postgres;
CREATE FUNCTION public.f() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN DROP TABLE x; RETURN NEW; END; $$;
CREATE TABLE public.users (
    id integer NOT NULL,
    name character varying(40) DEFAULT 'x'::character varying
);
ALTER TABLE public.users OWNER TO postgres;
CREATE SEQUENCE public.users_id_seq AS integer START WITH 1 INCREMENT BY 1 CACHE 1;
ALTER SEQUENCE public.users_id_seq OWNED BY public.users.id;
CREATE TABLE public.orders (id bigint NOT NULL, who integer);
CREATE VIEW public.names AS SELECT users.name FROM public.users;
ALTER TABLE public.names OWNER TO postgres;
ALTER TABLE ONLY public.users
    ALTER COLUMN id SET DEFAULT nextval('public.users_id_seq'::regclass);
COPY public.users (id, name) FROM stdin;
1	CREATE TABLE z (a int);
2	it's
\.
ALTER TABLE ONLY public.users ADD CONSTRAINT users_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX u ON public.users USING btree (name);
CREATE TRIGGER tr BEFORE INSERT ON public.users FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE ONLY public.orders
    ADD CONSTRAINT fk FOREIGN KEY (who) REFERENCES public.users(id) ON DELETE CASCADE;
GRANT SELECT ON TABLE public.users TO reader;
\unrestrict 4fJk
""".replace("\\t", "\t")
MYSQL = """/*M!999999\\- enable the sandbox mode */
/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
DROP TABLE IF EXISTS `users`;
/*!50503 SET character_set_client = utf8mb4 */;
CREATE TABLE `users` (
  `id` int NOT NULL AUTO_INCREMENT,
  `name` varchar(40) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=4 DEFAULT CHARSET=utf8mb4;
LOCK TABLES `users` WRITE;
INSERT INTO `users` VALUES (1,'a;b'),(2,'GO');
UNLOCK TABLES;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER `t`
BEFORE INSERT ON `users` FOR EACH ROW BEGIN
  IF NEW.id = 0 THEN SET NEW.name = CASE WHEN 1 THEN 'x' END; END IF; SET NEW.begin = 1;
END */;;
CREATE PROCEDURE p() IF 1 THEN SELECT 1; DROP TABLE users; END IF ;;
DELIMITER ;
ALTER TABLE `users` ADD UNIQUE KEY `k` (`name`), ADD KEY `l` (`id`), MODIFY `id` int NOT NULL;
/*!50001 DROP VIEW IF EXISTS `names`*/;
/*!50001 CREATE VIEW `names` AS SELECT 1 AS `name`*/;
/*!50001 DROP VIEW IF EXISTS `names`*/;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50013 DEFINER=`root`@`localhost` SQL SECURITY DEFINER */
/*!50001 VIEW `names` AS select `users`.`name` AS `name` from `users` */;
"""
TSQL = """
SET ANSI_NULLS ON
GO
CREATE TABLE [dbo].[users]([id] [int] IDENTITY(1,1) NOT NULL, [name] [nvarchar](40) NULL,
 CONSTRAINT [pk] PRIMARY KEY CLUSTERED ([id] ASC) WITH (PAD_INDEX = OFF) ON [PRIMARY]) ON [PRIMARY]
GO
CREATE TABLE [dbo].[orders]([who] [int] NULL)
go
ALTER TABLE [dbo].[users] ADD CONSTRAINT [d] DEFAULT ('x') FOR [name]
GO
ALTER TABLE [dbo].[orders] WITH CHECK ADD CONSTRAINT [fk] FOREIGN KEY([who])
REFERENCES [dbo].[users] ([id])
GO
ALTER TABLE [dbo].[orders] CHECK CONSTRAINT [fk]
GO
CREATE NONCLUSTERED INDEX [i] ON [dbo].[users] ([name] ASC) WITH (PAD_INDEX = OFF)
GO
CREATE VIEW [dbo].[names] AS SELECT name FROM users
GO -- and so on
CREATE PROCEDURE [dbo].[p] AS DROP TABLE users; CREATE TABLE other (a INT);
GO 2
GRANT SELECT ON [dbo].[users] TO [reader]
GO
EXEC sys.sp_addextendedproperty @name=N'x', @value=N'CREATE TABLE'
GO
""".replace("\n", "\r\n")
DUMPS = {
    "postgres": (POSTGRES, {"users.id", "users.name", "orders.id", "orders.who"}),
    "mysql": (MYSQL, {"users.id", "users.name"}),
    "tsql": (TSQL, {"users.id", "users.name", "orders.who"}),
}


@pytest.mark.parametrize("dialect", sorted(DUMPS))
def test_what_tools_of_other_databases_dump(dialect: str) -> None:
    dump, columns = DUMPS[dialect]
    tables = {"names", *(name.partition(".")[0] for name in columns)}
    assert set(schema_hashes(dump, dialect=dialect)) == tables | columns


@pytest.mark.parametrize(
    ("dialect", "old", "new", "names"),
    [
        ("postgres", "ON DELETE CASCADE", "on  delete\ncascade", set()),
        ("postgres", "ON DELETE CASCADE", "", {"orders"}),
        ("postgres", "SET DEFAULT nextval('public.users_id_seq'", "SET DEFAULT nextval('s'",
         {"users", "users.id"}),
        ("postgres", "users.name FROM", "users.id FROM", {"names"}),
        ("postgres", "GRANT SELECT", "GRANT UPDATE", set()),
        ("mysql", "AUTO_INCREMENT=4", "AUTO_INCREMENT=5", set()),
        ("mysql", "`users`.`name` AS", "`users`.`id` AS", {"names"}),
        ("tsql", "DEFAULT ('x')", "DEFAULT ('y')", {"users"}),
        ("tsql", "REFERENCES [dbo].[users] ([id])", "REFERENCES [dbo].[users] ([no])", {"orders"}),
    ],
)  # fmt: skip
def test_what_counts_as_a_change_in_a_dump(
    dialect: str, old: str, new: str, names: set[str]
) -> None:
    dump, _ = DUMPS[dialect]
    assert old in dump
    before = schema_hashes(dump, dialect=dialect)
    after = schema_hashes(dump.replace(old, new), dialect=dialect)
    assert {name for name in before if before[name] != after.get(name)} == names
    assert set(before) == set(after)


def test_keys_of_a_dump_are_seeds_too() -> None:
    found = from_ddl(POSTGRES, dialect="postgres")
    assert Relationship(left="orders.who", right="users.id") in found


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("postgres", "COPY t FROM stdin;\n" * 30_000),
        ("mysql", "/*!" * 150_000),
        ("tsql", "GO" + " " * 400_000 + "x"),
        ("sqlite", "CREATE TRIGGER t" + ";" * 100_000),
        ("mysql", "CREATE TABLE t (a INT); DROP TABLE " + "u," * 100_000 + "u PURGE"),
    ],
)
def test_what_is_made_to_take_long_does_not(dialect: str, text: str) -> None:
    start = time.process_time()
    with pytest.raises(InvalidEntry):
        schema_hashes(text, dialect=dialect)
    assert time.process_time() - start < 30  # hours, if each place were looked at from each other


def test_the_order_of_a_views_columns_counts() -> None:
    table = "CREATE TABLE t (x INT, y INT); CREATE VIEW v ({}) AS SELECT x, y FROM t"
    one, other = (schema_hashes(table.format(names)) for names in ("a, b", "b, a"))
    assert {name for name in one if one[name] != other[name]} == {"v"}


def test_what_a_dump_drops_is_no_seed() -> None:
    ddl = "CREATE TABLE t (a INT); DROP TABLE t; CREATE TABLE u (b INT)"
    assert [found.subject for found in from_ddl(ddl, dialect="mysql")] == ["u"]


def test_other_dialects() -> None:
    ddl = 'CREATE TABLE "Orders" (id BIGSERIAL, tags TEXT[])'
    assert set(schema_hashes(ddl, dialect="postgres")) == {"orders", "orders.id", "orders.tags"}
    with pytest.raises(InvalidEntry, match="postgres"):
        schema_hashes(ddl, dialect="")
