"""`seed`: rows for a first look, the same ones for the same number, with keys that no other node gives."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from common.errors import UsageError
from common.ops import trial_schema as trial

SALES_PER_TX = 500
_STORES, _PRODUCTS = 3, 8
_FIRST_DAY = datetime(2026, 1, 5, 8, 0)
_CITIES = ("Łódź", "Genève", "東京", "Αθήνα", "Reykjavík", "서울", "Zürich", "القاهرة")
_GOODS = ("Espresso", "Crème brûlée", "緑茶", "Smörgås", "Jalapeño 🌶", "Кефир", "Weißbrot", "Açaí")
_NOTES = (None, None, "", "gift 🎁", "with \"quotes\" and 'more'", "two\nlines")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SeedReport:
    """How many rows came into each table, and in how many transactions."""

    rows: Mapping[str, int]
    transactions: int


def make_tables(engine: sa.Engine) -> tuple[str, ...]:
    """Create the trial tables that are missing and return their names.

    Raises UsageError when one of that name has other columns: it is somebody's own."""
    inspector = sa.inspect(engine)
    standing = set(inspector.get_table_names())
    for table in trial.metadata.sorted_tables:
        if table.name in standing:
            _refuse_foreign(table, {column["name"] for column in inspector.get_columns(table.name)})
    trial.metadata.create_all(engine)
    return tuple(name for name in trial.TABLES if name not in standing)


def refuse_filled(engine: sa.Engine) -> None:
    """Raise UsageError when trial tables hold rows already."""
    standing = set(sa.inspect(engine).get_table_names())
    with engine.connect() as connection:
        for table in trial.metadata.sorted_tables:
            query = sa.select(sa.exists(sa.select(table.c.id)))
            if table.name in standing and connection.scalar(query):
                raise UsageError(f"table {table.name} already has rows; add more with --more")


def seed(engine: sa.Engine, node_id: str, sales: int, number: int) -> SeedReport:
    """Add a company with stores and products, and `sales` sales; continues behind rows of an earlier seed.

    The same `number` gives the same rows. Keys begin with the node's id, so two nodes never give the same one."""
    chance = random.Random(f"{number}/{node_id}")
    with engine.begin() as connection:
        first = {table.name: _last_number(connection, table, node_id) + 1 for table in trial.metadata.sorted_tables}
        base = _base_rows(node_id, first, chance)
        for table in (trial.company, trial.store, trial.product):
            connection.execute(sa.insert(table), base[table.name])
    transactions = 1
    for rows in _sales(node_id, first["sale"], sales, base, chance):
        with engine.begin() as connection:
            connection.execute(sa.insert(trial.sale), rows)
        transactions += 1
    counts = {name: len(rows) for name, rows in base.items()} | {"sale": sales}
    return SeedReport(counts, transactions)


def _refuse_foreign(table: sa.Table, columns: set[str]) -> None:
    expected = {column.name for column in table.columns}
    if columns != expected:
        raise UsageError(
            f"table {table.name} is not the trial one (its columns: {', '.join(sorted(columns))}); seed an empty "
            "database instead"
        )


def _last_number(connection: sa.Connection, table: sa.Table, node_id: str) -> int:
    """Return the highest number that an earlier seed of this node gave; 0 before the first."""
    own = table.c.id.startswith(f"{node_id}-", autoescape=True)
    last = connection.scalar(sa.select(sa.func.max(table.c.id)).where(own))
    return int(str(last).rpartition("-")[2]) if last else 0


def _key(node_id: str, number: int) -> str:
    return f"{node_id}-{number:08d}"


def _base_rows(node_id: str, first: Mapping[str, int], chance: random.Random) -> dict[str, list[Row]]:
    company = _key(node_id, first["company"])
    return {
        "company": [
            {
                "id": company,
                "name": f"Rowferry & Söhne ({node_id})",
                "founded": date(1900, 1, 1) + timedelta(days=chance.randrange(40_000)),
                "motto": chance.choice(_NOTES),
            }
        ],
        "store": [_store(node_id, first["store"] + step, company, chance) for step in range(_STORES)],
        "product": [_product(node_id, first["product"] + step, company, chance) for step in range(_PRODUCTS)],
    }


def _store(node_id: str, number: int, company: str, chance: random.Random) -> Row:
    city = chance.choice(_CITIES)
    return {
        "id": _key(node_id, number),
        "company_id": company,
        "name": f"{city} {number}",
        "city": city,
        "opened_at": _FIRST_DAY + timedelta(hours=chance.randrange(500)),
    }


def _product(node_id: str, number: int, company: str, chance: random.Random) -> Row:
    return {
        "id": _key(node_id, number),
        "company_id": company,
        "name": _GOODS[(number - 1) % len(_GOODS)],
        "price": Decimal(chance.randrange(50, 5_000)) / 100,
        "active": chance.random() < 0.9,
    }


def _sales(
    node_id: str, first: int, count: int, base: Mapping[str, list[Row]], chance: random.Random
) -> Iterator[list[Row]]:
    """Yield the sales, one list a transaction."""
    for start in range(0, count, SALES_PER_TX):
        numbers = range(first + start, first + min(start + SALES_PER_TX, count))
        yield [_sale(node_id, number, base, chance) for number in numbers]


def _sale(node_id: str, number: int, base: Mapping[str, list[Row]], chance: random.Random) -> Row:
    product = chance.choice(base["product"])
    quantity = chance.randrange(1, 12)
    return {
        "id": _key(node_id, number),
        "store_id": chance.choice(base["store"])["id"],
        "product_id": product["id"],
        "quantity": quantity,
        "amount": product["price"] * quantity,
        "sold_at": _FIRST_DAY + timedelta(minutes=13 * number, microseconds=chance.randrange(1_000_000)),
        "note": chance.choice(_NOTES),
    }
