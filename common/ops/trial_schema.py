"""The trial schema: company, store, product, sale, with references, decimals, times and text in several scripts."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import UserDefinedType

metadata = sa.MetaData()


class _SqliteDecimal(UserDefinedType[Decimal]):
    """DECIMAL on SQLite, given as text: SQLAlchemy's own would go through a float, and warn."""

    cache_ok = True

    def get_col_spec(self, **_kw: Any) -> str:
        return "DECIMAL(12, 2)"

    def bind_processor(self, _dialect: sa.Dialect) -> Callable[[Decimal | None], str | None]:
        return lambda value: None if value is None else str(value)


def _money() -> sa.types.TypeEngine[Decimal]:
    return sa.Numeric(12, 2).with_variant(_SqliteDecimal(), "sqlite")


company = sa.Table(
    "company",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("founded", sa.Date, nullable=False),
    sa.Column("motto", sa.Text),
)

store = sa.Table(
    "store",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("company_id", sa.Text, sa.ForeignKey("company.id"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("city", sa.Text, nullable=False),
    sa.Column("opened_at", sa.DateTime, nullable=False),
)

product = sa.Table(
    "product",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("company_id", sa.Text, sa.ForeignKey("company.id"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("price", _money(), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
)

sale = sa.Table(
    "sale",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("store_id", sa.Text, sa.ForeignKey("store.id"), nullable=False),
    sa.Column("product_id", sa.Text, sa.ForeignKey("product.id"), nullable=False),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("amount", _money(), nullable=False),
    sa.Column("sold_at", sa.DateTime, nullable=False),
    sa.Column("note", sa.Text),
)

TABLES = tuple(table.name for table in metadata.sorted_tables)
