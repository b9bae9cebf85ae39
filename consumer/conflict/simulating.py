"""What another policy would have made of the conflicts on record. Pure but for reading them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from common.config.model import Policy
from common.errors import UsageError
from common.schema import tables as rf
from common.versions import Version
from consumer.conflict.record import BETWEEN_ROWS, Kind, State, Winner, read_version
from consumer.readable import readable

_COLUMNS = ("id", "table_name", "pk", "kind", "state", "winner", "rule", "our_version", "their_version")
_MOST_AT_ONCE = 1_000


def simulate(connection: sa.Connection, policies: Mapping[str, Policy], main: str | None) -> Iterator[dict[str, Any]]:
    """Yield each conflict between two writes of one row in the tables of `policies`, in order of their numbers, and how
    it would have ended.

    `main`: the main node's id. What is on record of before does not say what main had raised under another policy,
    so `main-wins` is told by who wrote each side."""
    stored = rf.conflict
    query = (
        sa.select(*(stored.c[name] for name in _COLUMNS))
        .where(stored.c.table_name.in_(list(policies)), stored.c.kind.not_in([kind.value for kind in BETWEEN_ROWS]))
        .order_by(stored.c.id)
    )
    for row in connection.execution_options(yield_per=_MOST_AT_ONCE).execute(query).mappings():
        policy = policies[row["table_name"]]
        ours, theirs = read_version(row["our_version"]), read_version(row["their_version"])
        outcome = outcome_under(policy, Kind(row["kind"]), ours, theirs, main)
        now = row["state"] if row["state"] == State.WAITING else row["winner"]
        yield {
            "id": row["id"],
            "table": row["table_name"],
            "pk": readable(row["pk"]),
            "kind": row["kind"],
            "rule": row["rule"],
            "now": now,
            "policy": policy.value,
            "then": outcome,
            "differs": outcome != now,
        }


def read_policies(given: Sequence[str]) -> dict[str, Policy]:
    """Return what `--policy TABLE=POLICY` asks for. Raises UsageError."""
    found: dict[str, Policy] = {}
    for one in given:
        table, separator, name = one.rpartition("=")
        if not separator or not table or name not in set(Policy):
            known = ", ".join(policy.value for policy in Policy)
            raise UsageError(f"--policy {one!r}: write TABLE=POLICY; policies are {known}")
        if found.setdefault(table, Policy(name)) is not Policy(name):
            raise UsageError(
                f"--policy {one!r}: {table} was already given {found[table].value}: a table has one policy"
            )
    return found


def refuse_unknown(connection: sa.Connection, policies: Mapping[str, Policy], captured: Collection[str]) -> None:
    """Raise UsageError for a table that is neither captured here nor among the conflicts on record."""
    stored = rf.conflict.c
    asked = [name for name in policies if name not in captured]
    known = set(
        connection.execute(sa.select(stored.table_name).where(stored.table_name.in_(asked)).distinct()).scalars()
    )
    unknown = sorted(set(asked) - known)
    if unknown:
        raise UsageError(
            f"--policy: no table {unknown[0]!r} is captured here, and no conflict of one is on record; "
            + (f"captured are {', '.join(sorted(captured))}" if captured else "no table is captured yet")
        )


def outcome_under(policy: Policy, kind: Kind, ours: Version, theirs: Version, main: str | None) -> str:
    """Return `ours`, `theirs`, `waiting`, or `refused`: it would be a dead letter."""
    if ours == theirs or kind is Kind.IDENTITY:
        return "same version"
    if kind is Kind.FIRST_SYNC:
        # No policy decides about a row that nobody has written here.
        return Winner.THEIRS.value
    higher = Winner.THEIRS.value if theirs > ours else Winner.OURS.value
    match policy:
        case Policy.LWW:
            # Epochs were given out under a policy that this one takes the place of.
            return Winner.THEIRS.value if theirs[1:] > ours[1:] else Winner.OURS.value
        case Policy.MANUAL:
            return State.WAITING.value
        case Policy.APPEND_ONLY if kind is not Kind.INSERT:
            return "refused"
        case Policy.MAIN_WINS if main is not None and (ours.node_id == main) != (theirs.node_id == main):
            return Winner.OURS.value if ours.node_id == main else Winner.THEIRS.value
        case _:
            return higher
