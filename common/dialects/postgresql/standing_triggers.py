"""Whether capture stands on tables that an applying transaction has written.

Asked after the write, whose lock keeps it so up to the commit: who makes a table anew, or switches its triggers off,
has to wait for that."""

from collections.abc import Iterable, Mapping

from common.dialects.postgresql.arrays import number_array, text_array
from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.queries import partition_tree
from common.dialects.postgresql.shapes import relation
from common.dialects.postgresql.types import PgTable
from common.ports.dialect import TableShape

TRIGGERS_OF_A_TABLE = 2
"""The one for rows and the one for TRUNCATE."""
_HAS_TRIGGERS = f"""{TRIGGERS_OF_A_TABLE} = (
        SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid = {{place}} AND t.tgenabled = 'O' AND p.proname IN (w.capture, w.truncate)
          AND p.pronamespace = current_schema()::regnamespace)"""
_OF_PARTITIONS = f"""
       OR k.relkind = 'p' AND EXISTS (
          {partition_tree("k.oid")}
          SELECT FROM tree JOIN pg_class l ON l.oid = tree.relid
          WHERE l.relkind <> 'p' AND NOT {_HAS_TRIGGERS.format(place="l.oid")})"""


def _without_triggers(partitions: str) -> str:
    return f"""
    SELECT w.place FROM unnest(%(rf_tables)s::int[], %(rf_relations)s::text[], %(rf_captures)s::text[],
        %(rf_truncates)s::text[]) WITH ORDINALITY AS w(table_id, relation, capture, truncate, place)
    LEFT JOIN rf_capture c ON c.table_id = w.table_id
    LEFT JOIN pg_class k ON k.oid = to_regclass(w.relation)
    WHERE CASE WHEN c.table_id IS NULL THEN EXISTS (SELECT FROM rf_capture o WHERE o.relation = k.oid)
          ELSE k.oid IS NULL OR c.relation <> k.oid OR NOT {_HAS_TRIGGERS.format(place="k.oid")}{partitions} END
"""


WITHOUT_TRIGGERS = {False: _without_triggers(""), True: _without_triggers(_OF_PARTITIONS)}
"""Selects the places, from 1, of those tables that capture was installed for and that have lost it; `True`: where some
are partitioned. A table of the same name that is another one has lost it also where a dump brought its triggers along:
nobody captured how its rows came. So has one that was renamed since: what is known of its rows has the old name."""


def has_partitioned(tables: Iterable[TableShape]) -> bool:
    """Tell which of the two queries to ask."""
    return any(isinstance(table, PgTable) and table.partitioned for table in tables)


def asked_for(tables: Mapping[int, TableShape]) -> dict[str, str]:
    """Return the parameters of `WITHOUT_TRIGGERS` for tables by their numbers."""
    made = [CapturedTable(shape, "", 0, 0).function_names for shape in tables.values()]
    return {
        "rf_tables": number_array(list(tables)),
        "rf_relations": text_array([relation(shape) for shape in tables.values()]),
        "rf_captures": text_array([capture for capture, _ in made]),
        "rf_truncates": text_array([truncate for _, truncate in made]),
    }
