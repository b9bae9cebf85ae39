"""The consumer's pure decisions: how two writes relate, what was seen, what a failure calls for, in which order."""

from __future__ import annotations

import pytest

from common.config.model import Policy
from common.errors import ContentionError, EarlyError, OutageError, PoisonError, Reason
from common.ports.dialect import ColumnShape, ForeignKey, TableShape
from common.versions import NEVER, Version
from consumer.apply.order import parents_first
from consumer.conflict.detect import Relation, relate
from consumer.conflict.policies import comparable, greater_image, incoming_stands
from consumer.dead_letters.states import LetterState
from consumer.dedup import NOTHING, Facts, Known, KnownLetter, Standing, stand
from consumer.failures import Decision, decide, reason_of
from consumer.tables import TableUse
from consumer.watermark import Mark

A1, A2, A3 = (Version(0, hlc, "a") for hlc in (10, 20, 30))
B1, B2 = (Version(0, hlc, "b") for hlc in (15, 25))


@pytest.mark.parametrize(
    ("version", "base", "current", "current_base", "expected"),
    [
        (A1, NEVER, A1, NEVER, Relation.SAME),
        (A1, NEVER, NEVER, NEVER, Relation.ON_TOP),
        (A2, A1, A1, NEVER, Relation.ON_TOP),
        (B2, A1, A1, NEVER, Relation.ON_TOP),
        (A2, A1, NEVER, NEVER, Relation.ON_TOP),  # an earlier write has not come yet, and nothing stands here
        (A3, A2, A1, NEVER, Relation.ON_TOP),  # a node's own writes are a chain
        (B2, A2, A1, NEVER, Relation.ON_TOP),  # its base was made by who wrote what stands here, later
        (B1, NEVER, A1, NEVER, Relation.CONCURRENT),
        (A1, NEVER, B1, NEVER, Relation.CONCURRENT),
        (A1, NEVER, B1, A1, Relation.LATE),
        (A1, NEVER, A2, B1, Relation.LATE),
        (A1, NEVER, B2, A2, Relation.LATE),
        (A2, A1, B2, A1, Relation.CONCURRENT),
    ],
)
def test_how_two_writes_relate(
    version: Version, base: Version, current: Version, current_base: Version, expected: Relation
) -> None:
    assert relate(version, base, current, current_base) is expected


def test_the_higher_version_stands_and_equal_images_compare_equal() -> None:
    assert incoming_stands(Policy.LWW, B1, A1)
    assert not incoming_stands(Policy.LWW, A1, B1)
    assert incoming_stands(Policy.MAIN_WINS, Version(1, 5, "a"), B2)
    assert not incoming_stands(Policy.MAIN_WINS, B2, Version(1, 5, "a"))
    assert comparable(b'{"b": 1, "a": [2]}') == comparable(b'{"a":[2],"b":1}')
    assert greater_image(None, b"{}")
    assert not greater_image(b'{"a":2}', b'{"a":1}')


def letter(state: LetterState, reason: Reason, sha256: str = "s") -> Known:
    return Known(letter=KnownLetter(state, reason.value, sha256, 0))


@pytest.mark.parametrize(
    ("known", "mark", "expected"),
    [
        (NOTHING, None, Standing.NEW),
        (NOTHING, Mark("a", "i", last_lsn=4, last_tx_id="t0"), Standing.NEW),
        (NOTHING, Mark("a", "i", last_lsn=6, last_tx_id="t9"), Standing.DUPLICATE),
        (NOTHING, Mark("a", "i", last_lsn=6, last_tx_id="t0"), Standing.FORKED),
        (NOTHING, Mark("a", "i", last_lsn=5, last_tx_id="t9"), Standing.FORKED),  # it lies on both sides
        (Known(applied_sha256="s"), None, Standing.DUPLICATE),
        (Known(applied_sha256="x"), None, Standing.ALTERED),
        (letter(LetterState.DEAD, Reason.CONSTRAINT), None, Standing.NEW),
        (letter(LetterState.EARLY, Reason.FOREIGN_KEY), None, Standing.NEW),
        (letter(LetterState.DEAD, Reason.CONSTRAINT, "x"), None, Standing.ALTERED),
        (letter(LetterState.DEAD, Reason.CHECKSUM, "x"), None, Standing.NEW),
        (letter(LetterState.DEAD, Reason.CRASH), None, Standing.HELD),
        (letter(LetterState.FORKED, Reason.FORKED), None, Standing.HELD),
        (letter(LetterState.DISCARDED, Reason.CONSTRAINT), None, Standing.DUPLICATE),
    ],
)
def test_what_was_seen(known: Known, mark: Mark | None, expected: Standing) -> None:
    assert stand(Facts("t5", 5, 6, "s"), known, mark) is expected


def test_every_kind_of_error_has_one_decision() -> None:
    kinds = [OutageError("x"), ContentionError("x"), EarlyError("x"), PoisonError(Reason.TYPE, "x"), KeyError("x")]
    assert [decide(error) for error in kinds] == list(Decision)
    assert reason_of(EarlyError("x")) is Reason.FOREIGN_KEY
    assert reason_of(PoisonError(Reason.TYPE, "x")) is Reason.TYPE


def use(name: str, *parents: str) -> TableUse:
    columns = (ColumnShape("id", "int", "INTEGER"),)
    keys = tuple(ForeignKey(("id",), parent, ("id",)) for parent in parents)
    shape = TableShape(name, None, name, columns, ("id",), keys)
    return TableUse(shape.name, shape, shape.meta, frozenset({"id"}), frozenset({"id"}))


def test_parents_are_written_first_also_where_tables_refer_in_a_circle() -> None:
    tree = [use("a", "b"), use("b", "c", "b"), use("c")]
    assert [one.name for one in parents_first(tree)] == ["c", "b", "a"]
    circle = [use("b", "a"), use("a", "b")]
    assert [one.name for one in parents_first(circle)] == ["a", "b"]
