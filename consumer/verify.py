"""Refuses what can't be checked or may not be: senders, features, versions, tables, keys and images."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from decimal import Decimal, InvalidOperation

import msgspec

from common.config.model import Config
from common.errors import PoisonError, Reason
from common.ports.source import Delivery
from common.versions import NEVER, check_settled, check_version
from common.wire.decode import missing_features
from common.wire.kinds import fits
from common.wire.records import BatchHeader, Change
from common.wire.unreadable import UNREADABLE
from consumer.main_node import MainNode
from consumer.tables import Tables, TableUse

IDENTITY_ERROR = "rowferry_identity_error"
"""The header under which a source that proves senders says that this message's proof does not hold."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_float = msgspec.json.Decoder(float | str | dict[str, float])
_NULL = b"null"
_MOST_SHOWN = 80


class Checked(msgspec.Struct, frozen=True):
    """A change that may be applied, with the table it goes to."""

    change: Change
    use: TableUse


def sender_error(delivery: Delivery, source_node: str, config: Config) -> PoisonError | None:
    """Return why `delivery` may not speak for `source_node`; None when it may, or nothing is proven."""
    problem = delivery.headers.get(IDENTITY_ERROR)
    if problem is not None:
        return PoisonError(Reason.SOURCE, str(problem))
    if not delivery.verified or delivery.source_node == source_node:
        return None
    is_main = config.node.role == "branch" and delivery.source_node == config.node.main
    if is_main if delivery.may_forward is None else delivery.may_forward:
        return None
    return PoisonError(Reason.SOURCE, f"{delivery.source_node!r} sent a batch of {source_node!r}")


def header_error(header: BatchHeader) -> PoisonError | None:
    """Return why a batch with this header can't be applied, whatever is in it."""
    missing = missing_features(header)
    if missing:
        return PoisonError(Reason.REQUIRES, f"needs {', '.join(missing)}, which this release does not know")
    return None


class ChangeChecker:
    """Checks the changes of one tx, in their order."""

    def __init__(self, header: BatchHeader, tables: Tables, main: MainNode) -> None:
        self._header = header
        self._tables = tables
        self._main = main
        self._uses: dict[str, TableUse] = {}
        self.writes_as_main = False
        """Whether a change that was checked goes above others as the main node's do."""
        self.latest_us = 0
        """The latest that the source's clock said, by the changes that were checked."""

    def look_first(self) -> None:
        """Ask the database all that `check` may want to know of it, for a caller who is going to lock it.

        SQLite lets nobody read any more, this node's other connections too, once a transaction has written much."""
        self._main.may_be(self._header.source_node)
        for table in self._header.tables:
            # What does not fit is no fault before a change wants it.
            with suppress(PoisonError):
                self._use(table)

    def check(self, changes: Iterable[Change]) -> Iterator[Checked]:
        """Yield each change with its table. Raises PoisonError at the first that may not be applied."""
        source = self._header.source_node
        for change in changes:
            if change.op == "DDL":
                text = f"lsn {change.lsn}: DDL is applied by import-change-log alone, where it is allowed by a flag"
                raise PoisonError(Reason.DDL, text)
            use = self._uses.get(change.table) or self._use(change.table)
            if not _is_right_at_one_look(change, use):
                key = self._check_key(change, use)
                if change.op != "D":
                    self._check_image(change, use, key)
            base = change.base or NEVER
            is_raised = change.version.main_epoch > base.main_epoch
            _check_policy(change, use)
            try:
                check_version(change.version, base, source, from_main=is_raised and self._main.may_be(source))
            except PoisonError as error:
                raise _named(error, change, use) from error
            self.writes_as_main = self.writes_as_main or is_raised
            hlc = change.version.hlc
            # One above its base tells nothing of the clock: whoever writes on top of a future write has to go beyond.
            if hlc > self.latest_us and hlc != base.hlc + 1:
                self.latest_us = hlc
            if change.resolves:
                _check_choice(change, use)
            yield Checked(change, use)

    def _use(self, table: str) -> TableUse:
        use = self._uses[table] = self._tables.use(table, self._header.tables[table])
        return use

    def _check_key(self, change: Change, use: TableUse) -> dict[str, msgspec.Raw]:
        key = _parsed(change.pk, change, "pk")
        if key.keys() != use.key_names:
            text = f"lsn {change.lsn}: the key names {sorted(key)}, not {sorted(use.key_names)}"
            raise PoisonError(Reason.FORMAT, text, table=use.name)
        if any(bytes(value) == _NULL for value in key.values()):
            text = f"lsn {change.lsn}: a row of {use.name!r} with NULL in its key can't be named"
            raise PoisonError(Reason.NULL_KEY, text, table=use.name)
        _check_kinds(change, use, key)
        return key

    def _check_image(self, change: Change, use: TableUse, key: dict[str, msgspec.Raw]) -> None:
        image = _parsed(change.after, change, "after")
        if image.keys() != use.column_names:
            odd = sorted(image.keys() ^ use.column_names)
            text = f"lsn {change.lsn}: column {odd[0]!r} is not in both the row and the header"
            raise PoisonError(Reason.FORMAT, text, table=use.name)
        _check_kinds(change, use, image)
        # The version is kept under the key, the row is written from the image: they must be of one row.
        for name, value in key.items():
            if image[name] != value and not _are_equal(image[name], value, use.meta.columns[name]):
                text = f"lsn {change.lsn}: {name!r} is not the same in the key and in the row"
                raise PoisonError(Reason.FORMAT, text, table=use.name)


def _is_right_at_one_look(change: Change, use: TableUse) -> bool:
    try:
        return use.form is not None and use.form.holds(bytes(change.pk), change.image)
    except UNREADABLE:
        return False


def _check_kinds(change: Change, use: TableUse, values: dict[str, msgspec.Raw]) -> None:
    for name, value in values.items():
        logical = use.meta.columns[name]
        if not fits(logical, value):
            shown = bytes(value)[:_MOST_SHOWN].decode(errors="replace")
            text = f"lsn {change.lsn}: {shown} is no {logical}, which column {name!r} of {use.name!r} is by the header"
            raise PoisonError(Reason.TYPE, text, table=use.name)


def _check_policy(change: Change, use: TableUse) -> None:
    # A choice is no write of an application: somebody decided between two inserts of one key.
    if use.append_only and change.op != "I" and not change.resolves:
        what = "an update" if change.op == "U" else "a delete"
        text = (
            f"lsn {change.lsn}: {what} of {bytes(change.pk).decode()} in {use.name!r}, which is append-only here "
            "(tables.policy): its source has another policy, or changed the row while capture was off"
        )
        raise PoisonError(Reason.POLICY, text, table=use.name)


def _check_choice(change: Change, use: TableUse) -> None:
    try:
        check_settled(change.resolves, change.version)
    except PoisonError as error:
        raise _named(error, change, use) from error


def _named(error: PoisonError, change: Change, use: TableUse) -> PoisonError:
    """Return the error with the change and the table that it is about."""
    return PoisonError(error.reason, f"lsn {change.lsn}: {error}", table=use.name)


def _are_equal(one: msgspec.Raw, other: msgspec.Raw, logical: str) -> bool:
    """Tell whether two spellings are of one value; those that JSON allows and nobody can read are of none.

    An image keeps a decimal's zeros at the end, a key has none: equal keys have one text."""
    try:
        if logical == "float":
            return bool(_float.decode(one) == _float.decode(other))
        values = msgspec.json.decode(one), msgspec.json.decode(other)
        if logical == "decimal":
            return Decimal(str(values[0])) == Decimal(str(values[1]))
    except (msgspec.DecodeError, RecursionError, InvalidOperation):
        return False
    return bool(values[0] == values[1])


def _parsed(raw: msgspec.Raw, change: Change, what: str) -> dict[str, msgspec.Raw]:
    try:
        return _object.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: {what}: {error}", table=change.table) from error
