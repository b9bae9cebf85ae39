"""Unique keys and foreign keys between real nodes of both kinds: the same rows stand everywhere, in whatever order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.applying import World, close_world, open_world, sqlite_url
from tests.support.standing_model import Model
from tests.support.writers import KEYS, Network, Writer

pytestmark = pytest.mark.containers

SCHEMA = (
    "CREATE TABLE brand (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, note TEXT)",
    "CREATE TABLE product (id INTEGER PRIMARY KEY, brand_id INTEGER REFERENCES brand (id) ON DELETE CASCADE,"
    " code TEXT, place INTEGER, UNIQUE (brand_id, code))",
    "CREATE UNIQUE INDEX product_place ON product (place) WHERE place > 1",
    "CREATE UNIQUE INDEX product_lower ON product (lower(code)) WHERE place = 0",
    "CREATE TABLE tag (id INTEGER PRIMARY KEY, product_id INTEGER NOT NULL REFERENCES product (id),"
    " brand_id INTEGER REFERENCES brand (id) ON DELETE SET NULL)",
    "CREATE TABLE tree (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES tree (id) ON DELETE CASCADE)",
)
TABLES = ("brand", "product", "tag", "tree")


def product_keys(row: dict[str, Any]) -> list[Any]:
    brand, code, place = row["brand_id"], row["code"], row["place"]
    return [
        None if brand is None or code is None else (brand, code),
        place if place is not None and place > 1 else None,
        code.lower() if place == 0 and code is not None else None,
    ]


def new_model() -> Model:
    unique = {"brand": lambda row: [row["name"]], "product": product_keys, "tag": lambda _: [], "tree": lambda _: []}
    references = {
        "product": {"brand_id": "brand"},
        "tag": {"product_id": "product", "brand_id": "brand"},
        "tree": {"parent_id": "tree"},
    }
    return Model(unique, references)


def statements(dice: random.Random, name: str) -> list[str]:
    found = []
    for _ in range(dice.randint(1, 3)):
        key, other = dice.choice(KEYS), dice.choice(KEYS)
        word, place = dice.choice(["'a'", "'A'", "'b'", "NULL"]), dice.choice(["0", "1", "2", "3", "NULL"])
        up = dice.choice([str(other), "NULL"])
        found += dice.choice(
            [
                [f"INSERT INTO brand VALUES ({key}, 'n{other}', '{name}')"],
                [
                    f"INSERT INTO brand VALUES ({key}, 'n{key}', '{name}')"
                    f" ON CONFLICT (id) DO UPDATE SET note = '{name}'"
                ],
                [f"UPDATE brand SET name = 'n{other}' WHERE id = {key}"],
                [
                    f"UPDATE brand SET name = name || 'x' WHERE id = {key}",
                    f"UPDATE brand SET name = 'n{other}' WHERE id = {key}",
                ],
                [
                    f"DELETE FROM tag WHERE brand_id = {key}",
                    f"DELETE FROM tag WHERE product_id IN (SELECT id FROM product WHERE brand_id = {key})",
                    f"DELETE FROM brand WHERE id = {key}",
                ],
                [f"INSERT INTO product VALUES ({key}, {up}, {word}, {place})"],
                [f"UPDATE product SET code = {word}, place = {place} WHERE id = {key}"],
                [f"UPDATE product SET brand_id = {up} WHERE id = {key}"],
                [f"DELETE FROM tag WHERE product_id = {key}", f"DELETE FROM product WHERE id = {key}"],
                [f"INSERT INTO tag VALUES ({key}, {other}, {up})"],
                [f"DELETE FROM tag WHERE id = {key}"],
                [f"INSERT INTO tree VALUES ({key}, {up})"],
                [f"UPDATE tree SET parent_id = {up} WHERE id = {key}"],
                [f"DELETE FROM tree WHERE id = {key}"],
            ]
        )
    return found


@pytest.fixture(params=["sqlite", "both"])
def worlds(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[World]]:
    """Three nodes on SQLite; or two, and one on PostgreSQL."""
    third = request.getfixturevalue("pg_database") if request.param == "both" else sqlite_url(tmp_path, "c.db")
    urls = {"a": sqlite_url(tmp_path, "a.db"), "b": sqlite_url(tmp_path, "b.db"), "c": third}
    made = [open_world(url, SCHEMA, node={"id": name, "database": url, "role": "branch"}) for name, url in urls.items()]
    yield made
    for world in made:
        close_world(world)


def stood(world: World) -> dict[tuple[str, int], tuple[Any, ...]]:
    return {(table, row[0]): row for table in TABLES for row in world.rows(table)}


def kept_aside(world: World) -> set[tuple[str, str]]:
    return {(table, version) for table, version in world.query("SELECT table_name, version FROM rf_stepped_back")}


class Tapped(Network):
    """A network that a model listens to."""

    model: Model

    def send(self) -> None:
        for writer in self.writers:
            bodies = writer.new_bodies()
            self.model.take(bodies)
            for other in self.writers:
                if other is not writer:
                    self.waiting.setdefault(other.node_id, []).extend(bodies)


def follow_up(worlds: list[World], dice: random.Random, share: float) -> None:
    for world in worlds:
        if dice.random() < share:
            world.refresh.step()


@pytest.mark.parametrize("seed", range(6))
def test_the_same_rows_stand_on_every_node(worlds: list[World], seed: int) -> None:
    dice = random.Random(seed)
    skews = dice.sample([-3_600.0, 0.0, 7_200.0], 3)
    writers = [Writer(world, random.Random(dice.random()), skew) for world, skew in zip(worlds, skews, strict=True)]
    network = Tapped(writers, random.Random(seed))
    network.model = new_model()
    flips = 0
    for _ in range(40):
        for writer in writers:
            for _ in range(writer.dice.randint(0, 3)):
                writer.write(statements)
        network.send()
        follow_up(worlds, dice, dice.choice([0.05, 0.2, 0.5]))
        network.deliver(dice.choice([0.0, 0.3, 0.7]))
        flips += sum(len(kept_aside(world)) for world in worlds)
    network.send()
    network.deliver(1)
    for world in worlds:
        world.refresh.catch_up()
    for writer in writers:
        assert writer.new_bodies() == [], "stepping back and returning is no write of anybody"
    assert flips > 0, "a test in which no row steps back proves nothing"
    expected = network.model.standing(TABLES)
    for world in worlds:
        assert world.letters_open() == [], f"seed {seed}"
        assert stood(world) == {key: tuple(row.values()) for key, row in expected.items()}, f"seed {seed}"
        assert kept_aside(world) == kept_aside(worlds[0])
