"""Which DDL of a file may run: parsed with sqlglot, compared with a short list of what is allowed, rendered anew.

Nothing is searched for by words, and the text of the file never reaches the database.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers

from common.preflight.rulings import DdlRules, Ruling, same_name

_SQLGLOT_NAMES = {"postgresql": "postgres", "sqlite": "sqlite", "mysql": "mysql", "mariadb": "mysql"}
_HARMLESS: tuple[type[exp.Expression], ...] = (
    exp.Schema,
    exp.Table,
    exp.Identifier,
    exp.Column,
    exp.ColumnDef,
    exp.DataType,
    exp.DataTypeParam,
    exp.ColumnConstraint,
    exp.NotNullColumnConstraint,
    exp.PrimaryKeyColumnConstraint,
    exp.UniqueColumnConstraint,
    exp.DefaultColumnConstraint,
    exp.Constraint,
    exp.PrimaryKey,
    exp.ForeignKey,
    exp.Reference,
    exp.Ordered,
    exp.Literal,
    exp.Null,
    exp.Boolean,
    exp.Neg,
)
"""What a table's description may be made of: names, types, keys and literals; no function, query or option."""

_ACTION = r"(?:NO ACTION|RESTRICT|CASCADE|SET NULL|SET DEFAULT)"
_WORDS = re.compile(
    rf"{_ACTION}|ON (?:DELETE|UPDATE) {_ACTION}|MATCH (?:FULL|PARTIAL|SIMPLE)"
    r"|(?:NOT )?DEFERRABLE|INITIALLY (?:DEFERRED|IMMEDIATE)|DEFERRABLE INITIALLY (?:DEFERRED|IMMEDIATE)",
    re.IGNORECASE,
)
"""What sqlglot keeps as bare text and writes out as it came, also where the file had it in quotes."""

_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

_RETYPED = "ALTER COLUMN TYPE"

_SQLITE_KEEPS = {
    exp.DataType.Type.DECIMAL: "NUMERIC",
    exp.DataType.Type.BOOLEAN: "BOOLEAN",
    exp.DataType.Type.BIGINT: "BIGINT",
    exp.DataType.Type.SMALLINT: "SMALLINT",
    exp.DataType.Type.TINYINT: "TINYINT",
}
"""sqlglot would write REAL, which rounds decimals, and INTEGER: a bool could no longer be told from that, and a key
would be the rowid, which takes nothing but integers."""


def judge(rules: DdlRules, sql: str, keys: Mapping[str, Collection[str]] | None) -> Ruling:
    """Decide about one statement of a file."""
    dialect = _SQLGLOT_NAMES[rules.database]
    try:
        parsed = sqlglot.parse(sql, read=dialect)
    except (SqlglotError, RecursionError) as error:
        return Ruling(False, f"it can't be parsed: {str(error).splitlines()[0]}")
    match [statement for statement in parsed if statement is not None]:
        case [exp.Expression() as statement]:
            if rules.database == "postgresql":
                # Everything is quoted below, so the names that PostgreSQL would fold are folded first.
                statement = normalize_identifiers(statement, dialect=dialect)
            ruling = _judge_one(rules, statement, keys)
        case statements:
            return Ruling(False, f"it holds {len(statements)} statements, not one")
    if not ruling.allowed:
        return ruling
    if rules.database == "sqlite":
        _keep_types(statement, sql)
    return replace(ruling, rendered=statement.sql(dialect=dialect, identify=True, comments=False))


def _judge_one(rules: DdlRules, statement: exp.Expression, keys: Mapping[str, Collection[str]] | None) -> Ruling:
    target = _target(statement)
    if target is None:
        return Ruling(False, f"{statement.key.upper()} is never applied from a file")
    table = _wire_name(target)
    if table is None or table.lower().startswith(("rf_", "sqlite_", "pg_")) or not rules.wants(table):
        return Ruling(False, f"{table or target.sql()} is not among the configured tables", table)
    if rules.database == "sqlite" and target.db.lower() not in {"", "main"}:
        # One in temp would stand before the real table of its name, and be gone with the connection.
        return Ruling(False, f"{table} is not in the database itself: leave {target.db} out", table)
    kind = _kind(statement)
    if kind is None:
        return Ruling(False, "only CREATE TABLE without AS and ADD COLUMN with a literal default are applied", table)
    what, destructive = kind
    if what == _RETYPED and rules.database == "sqlite":
        return Ruling(False, "SQLite can't change a column's type: make the table anew by hand", table)
    if keys is not None and not _is_there(rules, statement, table, keys):
        return Ruling(False, f"{table} is no table here that travels", table)
    pk = _made_key(statement)
    if pk == ():
        return Ruling(False, "the table has no primary key: it could not be captured", table)
    if _takes_key(rules, statement, table, keys or {}):
        return Ruling(False, "the column is of the primary key, without which the table could not be captured", table)
    if rules.database == "postgresql" and (name := _named_default(statement)) is not None:
        return Ruling(False, f"the default {name} is no literal but the name of a column: put text in '…'", table)
    if destructive and not rules.allow_destructive:
        return Ruling(False, f"{what} needs --allow-destructive-ddl", table)
    if not destructive and not (rules.allow or rules.allow_destructive):
        return Ruling(False, f"{what} needs --allow-ddl", table)
    return Ruling(True, what, table, destructive=destructive, pk=pk or (), drops=isinstance(statement, exp.Drop))


def _is_there(rules: DdlRules, statement: exp.Expression, table: str, keys: Collection[str]) -> bool:
    """Tell whether a statement has what it is about: what is made need not be there, nor what is dropped IF EXISTS."""
    if isinstance(statement, exp.Create) or (isinstance(statement, exp.Drop) and statement.args.get("exists")):
        return True
    schema = "main." if rules.database == "sqlite" else "public."
    return any(
        same_name(rules.database, name, wanted) for name in keys for wanted in (table, table.removeprefix(schema))
    )


def _made_key(statement: exp.Expression) -> tuple[str, ...] | None:
    """Return the columns of the key of a table that is made, none where it has none; None for any other statement."""
    if not isinstance(statement, exp.Create):
        return None
    columns = [column for column in statement.this.expressions if isinstance(column, exp.ColumnDef)]
    of_columns = [column.name for column in columns if column.find(exp.PrimaryKeyColumnConstraint) is not None]
    of_table = [part.name for key in statement.find_all(exp.PrimaryKey) for part in key.expressions]
    return tuple(of_columns + of_table)


def _takes_key(rules: DdlRules, statement: exp.Expression, table: str, keys: Mapping[str, Collection[str]]) -> bool:
    """Tell whether a statement drops a column of the table's key."""
    actions = statement.args.get("actions") or [] if isinstance(statement, exp.Alter) else []
    dropped = [_dropped(action) for action in actions if isinstance(action, exp.Drop)]
    names = {one.name for one in dropped if isinstance(one, exp.Expression)}
    if rules.database != "sqlite":
        return not names.isdisjoint(keys.get(table, ()))
    of_table = {
        column.lower() for name, key in keys.items() if same_name(rules.database, name, table) for column in key
    }
    return not {name.lower() for name in names}.isdisjoint(of_table)


def _keep_types(statement: exp.Expression, sql: str) -> None:
    """Let columns keep the types that they mean on SQLite."""
    tokens = sqlglot.tokenize(sql, read="sqlite")
    for column in statement.find_all(exp.ColumnDef):
        kind = column.args.get("kind")
        if not isinstance(kind, exp.DataType):
            continue
        name = _SQLITE_KEEPS.get(kind.this)
        if kind.this == exp.DataType.Type.INT:
            # sqlglot takes INT and INTEGER for one; the word stands right behind the column's name.
            behind = column.this.meta["end"]
            name = next(token.text.upper() for token in tokens if token.start > behind)
        if name is not None:
            sizes = ", ".join(size.sql() for size in kind.expressions)
            kind.replace(exp.DataType(this=exp.DataType.Type.USERDEFINED, kind=f"{name}({sizes})" if sizes else name))


def _target(statement: exp.Expression) -> exp.Table | None:
    if not isinstance(statement, exp.Create | exp.Alter | exp.Drop):
        return None
    if str(statement.args.get("kind") or "").upper() != "TABLE":
        return None
    this = _dropped(statement) if isinstance(statement, exp.Drop) else statement.this
    this = this.this if isinstance(this, exp.Schema) else this
    return this if isinstance(this, exp.Table) else None


def _dropped(drop: exp.Drop) -> object:
    """Return the one thing that is dropped. sqlglot calls it `this` or, since 30, `tables`."""
    things = drop.args.get("tables") or [drop.this]
    return things[0] if len(things) == 1 else None


def _wire_name(table: exp.Table) -> str | None:
    if table.args.get("catalog") or not isinstance(table.this, exp.Identifier):
        return None
    parts = [part.replace(".", "..") for part in (table.db, table.name) if part]
    return ".".join(parts) if len(parts) > 1 else table.name


def _kind(statement: exp.Expression) -> tuple[str, bool] | None:
    """Return what the statement is, and whether it can destroy data; None for what is never applied."""
    match statement:
        case exp.Create():
            plain = isinstance(statement.this, exp.Schema) and _only(statement, {"this", "kind", "exists"})
            return ("CREATE TABLE", False) if plain and _is_harmless(statement.this) else None
        case exp.Drop():
            plain = _only(statement, {"this", "tables", "kind", "exists"}) and _is_harmless(_dropped(statement))
            return ("DROP TABLE", True) if plain else None
        case exp.Alter():
            actions = statement.args.get("actions") or []
            if len(actions) != 1 or not _only(statement, {"this", "kind", "actions"}):
                return None
            return _action(actions[0])
        case _:
            return None


def _action(action: exp.Expression) -> tuple[str, bool] | None:
    match action:
        case exp.ColumnDef():
            return ("ADD COLUMN", False) if _is_harmless(action) else None
        case exp.Drop():
            column = str(action.args.get("kind") or "").upper() == "COLUMN"
            plain = _only(action, {"this", "tables", "kind", "exists"}) and _is_harmless(_dropped(action))
            return ("DROP COLUMN", True) if column and plain else None
        case exp.AlterColumn():
            plain = _only(action, {"this", "dtype"}) and action.args.get("dtype") is not None
            parts = [part for part in (action.this, action.args.get("dtype")) if isinstance(part, exp.Expression)]
            return (_RETYPED, True) if plain and all(map(_is_harmless, parts)) else None
        case _:
            return None


def _only(node: exp.Expression, allowed: set[str]) -> bool:
    """Tell whether nothing but the allowed clauses is given."""
    return all(name in allowed for name, value in node.args.items() if value)


def _is_harmless(tree: object) -> bool:
    return isinstance(tree, exp.Expression) and all(_is_plain(node) for node in tree.walk())


def _is_plain(node: object) -> bool:
    if isinstance(node, exp.IndexParameters):
        # sqlglot hangs one on every key that PostgreSQL could give options; none were given.
        return not any(node.args.values())
    return isinstance(node, _HARMLESS) and all(_is_word(node, text) for text in _bare(node))


def _bare(node: exp.Expression) -> Iterator[str]:
    """Yield what a node holds as text. Names and literals are quoted anew; everything else is written as it stands."""
    if isinstance(node, exp.Identifier) or (isinstance(node, exp.Literal) and node.is_string):
        return
    for value in node.args.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                yield one


def _is_word(node: exp.Expression, text: str) -> bool:
    match node:
        case exp.Literal():
            return _NUMBER.fullmatch(text) is not None
        case exp.DataType():
            return _TYPE.fullmatch(text) is not None
        case _:
            return _WORDS.fullmatch(text) is not None


def _named_default(statement: exp.Expression) -> str | None:
    """Return a default that is a bare name. SQLite takes that for text, PostgreSQL for a column, which it refuses."""
    defaults = (default.find(exp.Column) for default in statement.find_all(exp.DefaultColumnConstraint))
    return next((column.sql() for column in defaults if column is not None), None)
