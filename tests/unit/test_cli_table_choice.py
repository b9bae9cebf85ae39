"""Which tables travel: refusals name every table and the remedy."""

from __future__ import annotations

import pytest

from common.config.model import TablesSection
from common.errors import ConfigError
from common.ops.table_choice import choose_tables
from common.ports.dialect import Catalog, ColumnShape, TableShape


def shape(name: str, *, numbers_itself: bool = False) -> TableShape:
    return TableShape(name, None, name, (ColumnShape("id", "int", "INTEGER"),), ("id",), numbers_itself=numbers_itself)


CATALOG = Catalog(
    tables={name: shape(name, numbers_itself=name == "sale") for name in ("store", "sale")},
    keyless=("log", "scratch"),
    left_out={"totals": "a view", "draft": "a temporary table"},
)


def choose(include: tuple[str, ...], exclude: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in choose_tables(CATALOG, TablesSection(include=include, exclude=exclude)).captured]


def test_everything_but_what_is_excluded() -> None:
    assert choose(("*",), ("log", "scratch")) == ["sale", "store"]
    assert choose(("*",), ("log", "scratch", "sale")) == ["store"]


def test_names_alone() -> None:
    assert choose(("store",)) == ["store"]


@pytest.mark.parametrize("include", [("*",), ("log", "scratch", "store")])
def test_keyless_tables_are_refused_by_name(include: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"tables\.include: no primary key: log, scratch\..*tables\.exclude"):
        choose(include)


def test_a_name_that_keeps_no_table_off_is_told() -> None:
    choice = choose_tables(CATALOG, TablesSection(exclude=("log", "scratch", "totals", "sales", "*")))
    assert choice.kept_off_in_vain == ("sales", "*")


def test_a_keyless_table_may_be_excluded() -> None:
    assert choose(("*",), ("log", "scratch")) == ["sale", "store"]


def test_unknown_names_are_all_told() -> None:
    with pytest.raises(ConfigError) as caught:
        choose(("stor", "store", "sales"))
    assert "'stor' is not a table" in str(caught.value)
    assert "'sales' is not a table" in str(caught.value)


def test_a_view_asked_for_by_name_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="'totals' can't be kept in sync: a view"):
        choose(("totals",))


def test_what_everything_leaves_out_is_told() -> None:
    choice = choose_tables(CATALOG, TablesSection(exclude=("log", "scratch")))
    assert choice.left_out == (("draft", "a temporary table"), ("totals", "a view"))
    assert choice.own_keys == ("sale",)


def test_names_leave_out_nothing_worth_telling() -> None:
    assert choose_tables(CATALOG, TablesSection(include=("store",))).left_out == ()


def test_what_a_framework_notes_of_one_database_is_not_everything() -> None:
    """Django and Alembic would take a schema change for done that another node has had."""
    catalog = Catalog(
        tables={name: shape(name) for name in ("store", "django_migrations", "other.alembic_version")},
        keyless=("schema_migrations",),
        left_out={},
    )
    choice = choose_tables(catalog, TablesSection(exclude=("django_migrations",)))
    assert [one.name for one in choice.captured] == ["store"]
    assert [name for name, _ in choice.left_out] == ["other.alembic_version", "schema_migrations"]
    named = choose_tables(catalog, TablesSection(include=("*", "django_migrations")))
    assert [one.name for one in named.captured] == ["django_migrations", "store"]


def test_what_alembic_copies_a_table_into_is_not_everything() -> None:
    """It is the table itself in a moment, or stands there after a migration that failed."""
    catalog = Catalog(tables={name: shape(name) for name in ("store", "_alembic_tmp_store")}, keyless=(), left_out={})
    choice = choose_tables(catalog, TablesSection())
    assert [one.name for one in choice.captured] == ["store"]
    assert choice.left_out == (
        ("_alembic_tmp_store", "a migration's copy of another table; captured only when tables.include names it"),
    )
