"""Dumps of a PostgreSQL database by its own `pg_dump`, and putting one back with `pg_restore` and `psql`."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from psycopg.conninfo import make_conninfo
from sqlalchemy.dialects import postgresql

from common.dialects.literal_sql import as_literal_sql
from common.dialects.postgresql.connection import driver
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.naming import ident, literal
from common.errors import ConfigError, RowferryError
from common.ports.backup import Advance, Holds, Moment

_BLOCK = 1024 * 1024
_LOCK_TIMEOUT = "30s"
_TOLD = 2_000
"""So many characters of what a program said are handed on."""
_SECRET = frozenset({"password"})
_OTHER_TABLES = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
                 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
"""
_MOMENT = """
SELECT n.node_id, n.incarnation, coalesce(t.to_lsn, 0), t.tx_id, (SELECT version_num FROM rf_alembic_version)
FROM rf_node n LEFT JOIN LATERAL (
    SELECT to_lsn, tx_id FROM rf_tx WHERE incarnation = n.incarnation ORDER BY to_lsn DESC LIMIT 1) t ON true
WHERE n.is_self
"""
_GO_WITH_OTHERS = """
SELECT format('ALTER TABLE IF EXISTS %%s%%I.%%I DROP CONSTRAINT IF EXISTS %%I;',
              one.how, n.nspname, t.relname, c.conname)
FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace,
     (VALUES ('ONLY '), ('')) AS one (how)
WHERE c.conparentid <> 0 OR (c.coninhcount > 0 AND NOT c.conislocal)
UNION ALL
SELECT format('DROP INDEX IF EXISTS %%I.%%I;', n.nspname, i.relname)
FROM pg_class i JOIN pg_namespace n ON n.oid = i.relnamespace WHERE i.relkind IN ('i', 'I') AND i.relispartition
"""
"""What `pg_restore --clean` says to drop what only goes with what it belongs to: the server refuses that."""
_PARTS = """
SELECT format('%%I.%%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relispartition AND c.relkind IN ('r', 'p', 'f')
"""
_MISSED = """
DO $rf$ DECLARE part text; BEGIN
    FOREACH part IN ARRAY ARRAY[{parts}]::text[] LOOP
        IF to_regclass(part) IS NULL THEN
            RAISE EXCEPTION 'table % was made since the backup, as a part of one that is put back: drop or detach it',
                part;
        END IF;
    END LOOP;
END $rf$;
"""
_ENTRY = b"-- Name: "
"""What the first thing that is made begins with; all is dropped before."""
_CAPTURE_FUNCTIONS = """
SELECT format('DROP FUNCTION IF EXISTS %s CASCADE;', p.oid::regprocedure)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname ~ '^rf_' AND n.nspname = current_schema() ORDER BY 1
"""


class _StoppedReadingError(Exception):
    """A program ended before it had taken all; its exit code and what it said tell why."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        super().__init__(process.args)
        self.process = process


class PostgresBackups:
    """Dumps of one database."""

    file_name = "database.dump"

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def holds(self) -> Holds:
        """See `Backups`."""
        with translated(), self._engine.connect() as connection:
            if connection.exec_driver_sql("SELECT to_regclass('rf_node') IS NOT NULL").scalar():
                return Holds.NODE
            return Holds.OTHER_TABLES if connection.exec_driver_sql(_OTHER_TABLES).scalar() else Holds.NOTHING

    def node_id(self) -> str | None:
        """See `Backups`."""
        with translated(), self._engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT node_id FROM rf_node WHERE is_self").scalar()
        return None if found is None else str(found)

    def copy(self, target: Path, advance: Advance) -> Moment:
        """See `Backups`. What is told of the dump is read in its own snapshot."""
        program = _program("pg_dump")
        with translated(), self._engine.connect() as connection:
            raw = driver(connection)
            raw.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            row = raw.execute(_MOMENT).fetchone()
            snapshot = raw.execute("SELECT pg_export_snapshot()").fetchone()
            if row is None or snapshot is None:
                raise ConfigError("the migration of this database never finished; run `rowferry migrate`")
            command = [program, "--format=custom", "--no-password", f"--snapshot={snapshot[0]}", self._conninfo()]
            with self._running(command, "dumping the database") as dumping, target.open("xb") as file:
                for block in _blocks(dumping.stdout):
                    file.write(block)
                    advance(len(block))
        return Moment(*row)

    def put_back(self, copy: Path, news: Sequence[sa.Executable], advance: Advance) -> None:
        """See `Backups`. One transaction of psql's: what the dump has is dropped and made anew, `news` is said, and
        only then is it committed."""
        restoring = [_program("pg_restore"), "--file=-", "--exit-on-error"]
        if self.holds() is not Holds.NOTHING:
            restoring += ["--clean", "--if-exists"]
        with translated(), self._engine.connect() as connection:
            schema = str(connection.exec_driver_sql("SELECT coalesce(current_schema(), 'public')").scalar())
            drops = [str(row[0]) for row in connection.exec_driver_sql(_CAPTURE_FUNCTIONS)]
            left_out = {str(row[0]).encode() for row in connection.exec_driver_sql(_GO_WITH_OTHERS)}
            parts = [literal(str(row[0])) for row in connection.exec_driver_sql(_PARTS)]
        before = ["BEGIN;", f"SET LOCAL lock_timeout = {literal(_LOCK_TIMEOUT)};", *drops]
        # What a dump says of its own session would outlive it: the search path, for one.
        after = [
            _MISSED.format(parts=", ".join(parts)),
            f"SET LOCAL search_path = {ident(schema)};",
            "SET LOCAL row_security = off;",
        ]
        dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
        after += [f"{as_literal_sql(statement, dialect)};" for statement in news]
        doing = "putting the database back (it is as it was; stop what uses it, or put it into a new, empty database)"
        command = [_program("psql"), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"]
        command += [f"--output={os.devnull}"]
        with self._running([*command, "--dbname", self._conninfo()], doing) as taking:
            with self._running([*restoring, str(copy)], "reading the dump") as giving:
                _write(taking, ("\n".join(before) + "\n").encode())
                for block in _without(giving.stdout, left_out):
                    _write(taking, block)
                    advance(len(block))
            # Only here is it known that all of the dump was read: without a COMMIT nothing of it stands.
            _write(taking, ("\n".join([*after, "COMMIT;"]) + "\n").encode())

    def _conninfo(self) -> str:
        """Return the URL as libpq writes it, without the password: that would be seen by everybody in `ps`."""
        url = self._engine.url
        given = {"host": url.host, "port": url.port, "user": url.username, "dbname": url.database}
        query = {name: value for name, value in url.query.items() if isinstance(value, str) and name not in _SECRET}
        return make_conninfo(**{name: str(value) for name, value in (given | query).items() if value is not None})

    @contextmanager
    def _running(self, command: Sequence[str], doing: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run one of the server's programs; it must end well. What it says is told where it does not."""
        environment = {**os.environ, "PGAPPNAME": "rowferry", "PGCLIENTENCODING": "UTF8"}
        password = self._engine.url.password or self._engine.url.query.get("password")
        if password is not None:
            environment["PGPASSWORD"] = str(password)
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment
            )
            try:
                yield process
            except _StoppedReadingError as error:
                if error.process is not process:
                    process.kill()
                    raise
            except BaseException:
                process.kill()
                raise
            finally:
                _end(process)
            if process.returncode:
                raise RowferryError(f"{doing}: {Path(command[0]).name} said: {_tail(said)}")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ConfigError(
            f"{name} is not in the path: install PostgreSQL's client programs, not older than the server (Debian:"
            " postgresql-client)"
        )
    return found


def _blocks(stream: IO[bytes] | None) -> Iterator[bytes]:
    while stream is not None and (block := stream.read(_BLOCK)):
        yield block


def _without(stream: IO[bytes] | None, left_out: Collection[bytes]) -> Iterator[bytes]:
    """Yield what a dump says without some of its lines, as far as it drops what is there."""
    if stream is None:
        return
    for line in stream:
        if line.rstrip(b"\n") not in left_out:
            yield line
        if line.startswith(_ENTRY):
            break
    yield from _blocks(stream)


def _write(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    if process.stdin is not None:
        try:
            process.stdin.write(data)
            process.stdin.flush()
        except BrokenPipeError as error:
            raise _StoppedReadingError(process) from error


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Close what is open to it, take what it still says, and wait for it."""
    try:
        process.communicate()
    except BrokenPipeError:
        process.wait()


def _tail(said: IO[bytes]) -> str:
    said.seek(0)
    text = " ".join(said.read().decode("utf-8", "replace").split())
    return text[-_TOLD:] or "nothing"
