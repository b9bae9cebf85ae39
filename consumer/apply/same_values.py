"""Whether two images are of one row, however the two kinds of databases spell its values."""

from common.wire.forms import form_of, joint
from common.wire.row_digests import RowForm
from consumer.tables import TableUse


class SameValues:
    """Compares rows as they stand here with images as senders write them. For one call."""

    def __init__(self) -> None:
        self._forms: dict[TableUse, tuple[RowForm, RowForm]] = {}

    def are_same(self, use: TableUse, stands: bytes, comes: bytes) -> bool:
        """Compare two images of the columns that `use` has. Raises PoisonError for one that can't be read."""
        here, there = self._forms.get(use) or self._made(use)
        return here.values(stands) == there.values(comes)

    def _made(self, use: TableUse) -> tuple[RowForm, RowForm]:
        ours, theirs = use.shape.meta.columns, use.meta.columns
        forms = {name: joint(form_of(ours[name]), form_of(logical)) for name, logical in theirs.items()}
        own = {name: ours[name] for name in theirs}
        made = RowForm(use.meta.pk, own, forms), RowForm(use.meta.pk, theirs, forms)
        self._forms[use] = made
        return made
