"""The state machine: random steps of a fleet, then everything arrives, and every node must be what the model says."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from common.errors import PoisonError, UsageError
from tests.soak.fleet import ASKED, CRASHES, IDS, LINKED, MAIN, TABLES, Fleet, Member
from tests.soak.model import History, by_latest, check_main_wins, check_manual, read_log
from tests.support.standing_model import Model

totals: Counter[str] = Counter()
"""What all machines of this process went through: a soak in which nothing was killed or chosen proves nothing."""
MakeDatabase = Callable[[], str]
_MEMBERS = st.integers(0, 4)
_CHOSEN_TABLES = st.sampled_from((*TABLES, *LINKED, "code", "code", ASKED))


def statements(table: str) -> Callable[[random.Random, str], list[str]]:
    """A few writes of a few rows of `table`, key changes and rows put back among them."""

    def chosen(dice: random.Random, name: str) -> list[str]:
        if table in (*LINKED, ASKED):
            return linked(table, dice, name)
        key, other, amount = dice.choice(IDS), dice.choice(IDS), dice.randint(0, 9)
        values = f"({key}, '{name}', {amount})"
        insert = f"INSERT INTO {table} VALUES {values}"
        if table == "event":
            return [f"{insert} ON CONFLICT DO NOTHING"]
        return dice.choice(
            [
                [f"{insert} ON CONFLICT (id) DO UPDATE SET name = excluded.name, amount = excluded.amount"],
                [f"UPDATE {table} SET name = '{name}' WHERE id = {key}"],
                [f"UPDATE {table} SET amount = amount + 1, name = '{name}' WHERE id <= {key}"],
                [f"DELETE FROM {table} WHERE id = {key}"],
                [f"DELETE FROM {table} WHERE id = {key}", insert],
                [f"DELETE FROM {table} WHERE id = {other}", f"UPDATE {table} SET id = {other} WHERE id = {key}"],
            ]
        )

    return chosen


def linked(table: str, dice: random.Random, name: str) -> list[str]:
    """Writes that one node allows and another one may have to take back for a while."""
    key, other = dice.choice(IDS), dice.choice([*map(str, IDS), "NULL"])
    insert = f"INSERT INTO {table} VALUES ({key}, '{name}', {other})"
    if table in ("parent", "child") and dice.random() < 0.6:
        return family(dice, name)
    return dice.choice(
        [
            [insert],
            [f"{insert} ON CONFLICT (id) DO UPDATE SET name = excluded.name"],
            [f"UPDATE {table} SET name = '{name}', amount = {other} WHERE id = {key}"],
            [f"DELETE FROM {table} WHERE id = {key}"],
            [f"DELETE FROM {table} WHERE id = {key}", insert],
            [f"UPDATE {table} SET amount = NULL, name = '{name}'"],
        ]
    )


def family(dice: random.Random, name: str) -> list[str]:
    """A child with its parent, or a parent taken from under whom another node may be giving it to."""
    key, parent = dice.choice(IDS), dice.choice(IDS)
    bring = f"INSERT INTO parent VALUES ({parent}, '{name}', NULL) ON CONFLICT (id) DO UPDATE SET name = excluded.name"
    give = (
        f"INSERT INTO child VALUES ({key}, '{name}', {parent}) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount"
    )
    take = f"DELETE FROM parent WHERE id = {parent}"
    return dice.choice([[bring], [bring, give], [bring, give], [take], [take], [take, bring]])


class Nodes(RuleBasedStateMachine):
    """Three to five nodes of both kinds. `make_database` gives the URL of an empty PostgreSQL database."""

    make_database: MakeDatabase

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rowferry-soak-"))
        self.fleet: Fleet | None = None

    @initialize(
        count=st.integers(3, 5), postgres=st.sets(st.integers(0, 4), min_size=1, max_size=2), seed=st.integers()
    )
    def start(self, count: int, postgres: set[int], seed: int) -> None:
        urls = [type(self).make_database() if place in postgres else None for place in range(count)]
        self.fleet = Fleet(self.folder, urls, seed)

    @rule(place=_MEMBERS, table=_CHOSEN_TABLES)
    def write(self, place: int, table: str) -> None:
        self.nodes.write(self.member(place), statements(table))

    @rule(table=_CHOSEN_TABLES)
    def write_everywhere(self, table: str) -> None:
        """Nobody has seen the others' writes: what meets is a conflict."""
        for member in self.nodes.members:
            self.nodes.write(member, statements(table))

    @rule(place=_MEMBERS, table=_CHOSEN_TABLES)
    def write_while_others_arrive(self, place: int, table: str) -> None:
        """The node's own writes are not sealed when those of the others come in."""
        member = self.member(place)
        for other in self.nodes.members:
            if other is not member:
                self.nodes.write(other, statements(table))
                self.nodes.send(other)
        self.nodes.write(member, statements(table))
        self.nodes.deliver(member, 1)

    @rule(share=st.sampled_from([0.3, 0.7, 1.0]))
    def exchange(self, share: float) -> None:
        for member in self.nodes.members:
            self.nodes.send(member)
        for member in self.nodes.members:
            self.nodes.deliver(member, share)

    @rule(place=_MEMBERS)
    def jump(self, place: int) -> None:
        self.nodes.jump(self.member(place))

    @rule(place=_MEMBERS)
    def send(self, place: int) -> None:
        self.nodes.send(self.member(place))

    @rule(place=_MEMBERS, share=st.sampled_from([0.3, 0.6, 1.0]))
    def deliver(self, place: int, share: float) -> None:
        self.nodes.deliver(self.member(place), share)

    @rule(place=_MEMBERS)
    def cut_off_or_join(self, place: int) -> None:
        member = self.member(place)
        member.cut_off = not member.cut_off

    @rule(place=_MEMBERS, point=st.sampled_from(CRASHES))
    def kill(self, place: int, point: Any) -> None:
        for member in self.nodes.members:
            self.nodes.send(member)
        self.nodes.kill(self.member(place), point)

    @rule(place=_MEMBERS)
    def lose(self, place: int) -> None:
        self.nodes.lose(self.member(place))

    @rule(place=_MEMBERS)
    def resend(self, place: int) -> None:
        self.nodes.resend(self.member(place))

    @rule(place=_MEMBERS)
    def replay(self, place: int) -> None:
        self.nodes.replay(self.member(place))

    @rule(place=_MEMBERS)
    def follow_up(self, place: int) -> None:
        self.nodes.follow_up(self.member(place))

    @rule(place=_MEMBERS)
    def choose(self, place: int) -> None:
        self.nodes.choose(self.member(place))

    @rule(place=_MEMBERS)
    def purge(self, place: int) -> None:
        self.nodes.purge(self.member(place))

    @rule(place=_MEMBERS)
    def undo(self, place: int) -> None:
        # Refused is what was written again since, and what has a unique value that another row has by now.
        with suppress(UsageError, PoisonError):
            self.nodes.undo(self.member(place))

    def teardown(self) -> None:
        try:
            if self.fleet is not None:
                self.fleet.settle()
                note(f"counts: {self.fleet.counts}")
                totals.update(self.fleet.counts)
                self.compare(self.fleet)
        finally:
            if self.fleet is not None:
                self.fleet.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def nodes(self) -> Fleet:
        assert self.fleet is not None
        return self.fleet

    def member(self, place: int) -> Member:
        return self.nodes.members[place % len(self.nodes.members)]

    def compare(self, fleet: Fleet) -> None:
        """Every node holds what the model says, and the same versions."""
        histories = read_log(fleet.logs())
        model = Model({table: _unique_of(table) for table in LINKED}, {"child": {"amount": "parent"}})
        model.take_changes(fleet.logs())
        standing = model.standing(LINKED)
        for member in fleet.members:
            assert member.world.letters_open() == [], f"{member.name}: dead letters"
            assert member.writer.new_bodies() == [], f"{member.name}: what was applied is not its own change"
            gaps = member.world.one("SELECT count(*) FROM rf_sync_state WHERE last_lsn < highest_lsn")
            assert gaps == 0, f"{member.name}: gaps"
        for table in TABLES:
            known = {member.name: versions(member, table) for member in fleet.members}
            expected = {key: version for found in known.values() for key, version in found.items()}
            asked = standing_asked(histories, expected) if table == ASKED else {}
            for name, found in known.items():
                assert {key: expected[key] for key in found} == found, f"{table}: versions of {name}"
            for key in IDS:
                history = histories.get((table, key))
                if history is None:
                    assert key not in expected
                    continue
                # Of what was deleted everybody may have forgotten it.
                stands = expected.get(key, by_latest(history))
                forgotten = [name for name, found in known.items() if key not in found]
                assert not forgotten or history.writes[stands].image is None, f"{table} {key} is unknown: {forgotten}"
                if table in ("label", ASKED):
                    check_manual(history, stands)
                else:
                    assert stands == by_latest(history), f"{table} {key}"
                if table == "brand":
                    check_main_wins(history, stands, MAIN)
                image = history.writes[stands].image
                if table == ASKED:
                    image = asked.get(key) if image is not None else None
                if table in LINKED:
                    linked_row = standing.get((table, key))
                    image = None if linked_row is None else tuple(sorted(linked_row.items()))
                for member in fleet.members:
                    assert row_of(member, table, key) == image, f"{table} {key} on {member.name}"


def _unique_of(table: str) -> Callable[[dict[str, Any]], list[Any]]:
    return (lambda row: [row["amount"]]) if table == "code" else (lambda _: [])


def versions(member: Member, table: str) -> dict[int, tuple[int, int, str]]:
    """The version of each row that a node knows of, tombstones among them."""
    node = member.world.node
    shape = node.captured_tables()[table]
    with node.database.apply_session() as session:
        states = session.lock(shape, shape.meta, [b'{"id":%d}' % key for key in IDS])
    return {key: tuple(state.version) for key, state in zip(IDS, states, strict=True) if state.known}


def row_of(member: Member, table: str, key: int) -> tuple[tuple[str, Any], ...] | None:
    """The row as the application reads it."""
    found = member.world.query(f"SELECT amount, id, name FROM {table} WHERE id = {key}")
    return tuple(zip(("amount", "id", "name"), found[0], strict=True)) if found else None


def standing_asked(
    histories: Mapping[tuple[str, int], History], versions: Mapping[int, tuple[int, int, str]]
) -> dict[int, tuple[tuple[str, Any], ...]]:
    """The rows of the table with choices between rows that stand: by rank, of what each row is."""
    found: dict[int, tuple[tuple[str, Any], ...]] = {}
    taken: set[Any] = set()

    def rank(key: int) -> tuple[int, str, str]:
        _, hlc, node = versions[key]
        return hlc, node, f'{{"id":{key}}}'

    for key in sorted(versions, key=rank, reverse=True):
        image = histories[ASKED, key].writes[versions[key]].image
        amount = None if image is None else dict(image)["amount"]
        if image is not None and (amount is None or amount not in taken):
            found[key] = image
            taken.add(amount)
    return found
