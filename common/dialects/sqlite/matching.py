"""SQL conditions within a trigger: which rows that stand would meet the new row in a unique key."""

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.indexes import IndexPart, UniqueIndex
from common.dialects.sqlite.names import quote


class Matching:
    """Writes conditions on one table's rows against `NEW`."""

    def __init__(self, table: SqliteTable) -> None:
        self._table = table
        self._name = quote(table.shape.bare)
        self._key = table.shape.pk

    def by_index(self, index: UniqueIndex) -> str:
        """Whether a row has the new one's values in `index`; of a partial one, whether the row itself is in it."""
        terms = [self._part(part) for part in index.parts]
        if index.where is not None:
            terms.append(f"({index.where})")
        return " AND ".join(terms)

    def by_key(self) -> str:
        """Whether a row has the new one's primary key."""
        collations = dict(zip(self._key, self._table.key_collations, strict=True))
        return " AND ".join(
            f"{self._name}.{quote(name)} = {self.value(name)} COLLATE {quote(collations[name])}" for name in self._key
        )

    def value(self, name: str) -> str:
        """The new row's value. `REPLACE` puts the default where a NOT NULL column gets a NULL, but only later."""
        default = self._table.columns[name].default
        return f"NEW.{quote(name)}" if default is None else f"coalesce(NEW.{quote(name)}, {default})"

    def part_value(self, part: IndexPart) -> str:
        """The new row's value in one part of an index."""
        return self.value(part.column) if part.column is not None else self.of_new(part.sql)

    def of_new(self, expression: str) -> str:
        """An expression over the table's columns, of the new row."""
        fresh = ", ".join(f"NEW.{quote(name)} AS {quote(name)}" for name in self._table.columns)
        return f"(SELECT {expression} FROM (SELECT {fresh}))"

    def _part(self, part: IndexPart) -> str:
        column = f"{self._name}.{part.sql}" if part.column is not None else part.sql
        return f"{column} = {self.part_value(part)} COLLATE {quote(part.collation)}"
