"""What a plain change of one table looks like."""

from typing import NamedTuple

from common.config.model import Policy
from common.wire.row_form import RowForm
from consumer.tables import TableUse

_PLAIN_POLICIES = frozenset({Policy.LWW, Policy.MAIN_WINS})


class Form(NamedTuple):
    """One table as one kind of sender describes it."""

    use: TableUse
    rows: RowForm | None
    """None: nothing of this table is plain. Its rows may wait for a choice, or keep columns that the sender has not, or
    it has names for which msgspec makes no decoder."""


def form_of(use: TableUse, policy: Policy) -> Form:
    """Return what is plain of `use` under `policy`."""
    has_all = use.column_names == {one.name for one in use.shape.written}
    return Form(use, use.form if policy in _PLAIN_POLICIES and has_all else None)
