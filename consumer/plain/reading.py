"""Deliveries to a `PlainGroup`: each one wholly, or not at all."""

from collections.abc import Mapping

from common.clock import YEAR_2200_US
from common.errors import PoisonError
from common.ids import NODE_ID
from common.ports.plain import RowRun
from common.ports.source import Delivery
from common.runtime.node import Node
from common.versions import MOST_EPOCH, NEVER, Version
from common.wire.compress import decompress_at_once
from common.wire.headers import PlainHeader
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.plain import NotPlainError, PlainChange, PlainTx, plain_txs
from common.wire.records import TableMeta
from common.wire.signing import Purpose
from common.wire.unreadable import UNREADABLE
from consumer.peers import PeerIds
from consumer.plain.forms import Form, form_of
from consumer.plain.group import PlainGroup, Runs, Stretch, TxNote
from consumer.tables import Tables, TableUse
from consumer.verify import sender_error
from consumer.watermark import SourceKey

_MOST_KNOWN = 1_000
_Forms = Mapping[str, Form]


class PlainReading:
    """Reads for one database. One thread at a time."""

    def __init__(self, node: Node, tables: Tables, limits: Limits = DEFAULT_LIMITS) -> None:
        self._node = node
        self._tables = tables
        self._limits = limits
        self._peers = PeerIds(node)
        self._trust = node.config.trust()
        self._forms: dict[int, tuple[Mapping[str, TableMeta], _Forms]] = {}
        """By the identity of a header's description."""
        self._generation = -1
        self._node_ids: set[str] = set()
        """Those seen in bases that are well spelled."""

    def begin(self) -> PlainGroup:
        """Return an empty group."""
        generation = self._tables.generation
        if generation != self._generation:
            self._forms.clear()
            self._generation = generation
        return PlainGroup(generation)

    def take(self, group: PlainGroup, delivery: Delivery) -> bool:
        """Add what `delivery` holds; False, and nothing is added, where some of it is not plain here."""
        body = decompress_at_once(delivery.body, delivery.content_encoding)
        if not body:
            return False
        taking = _Taking(self, group, delivery)
        try:
            # One at a time: what a tx was read from is gone, and its memory warm, when the next one is read.
            for tx in plain_txs(body, self._limits):
                taking.add(tx)
        except (NotPlainError, PoisonError, *UNREADABLE):
            return False
        taking.end(len(body))
        return True

    def forms(self, tables: Mapping[str, TableMeta]) -> _Forms:
        """Return the forms of the tables that a header describes. Raises PoisonError for one that does not fit."""
        known = self._forms.get(id(tables))
        if known is not None and known[0] is tables:
            return known[1]
        policy_for = self._node.config.tables.policy_for
        forms = {name: form_of(self._tables.use(name, meta), policy_for(name)) for name, meta in tables.items()}
        if len(self._forms) >= _MOST_KNOWN:
            self._forms.clear()
        self._forms[id(tables)] = tables, forms
        return forms

    def may_speak(self, delivery: Delivery, source: str) -> bool:
        """Tell whether txs of `source` may come with `delivery`."""
        if source == self._node.facts.node_id or sender_error(delivery, source, self._node.config) is not None:
            return False
        return self._peers.clash(source) is None

    def is_believed(self, tx: PlainTx) -> bool:
        """Tell whether `tx` is signed as it must be."""
        return self._trust.fault(tx.header.source_node, Purpose.BATCH, tx.batch_sha256, tx.proof) is None

    def is_node_id(self, name: str) -> bool:
        """Tell whether `name` is spelled as a node's id."""
        if name not in self._node_ids:
            if not NODE_ID.match(name):
                return False
            if len(self._node_ids) >= _MOST_KNOWN:
                self._node_ids.clear()
            self._node_ids.add(name)
        return True


class _Taking:
    """One delivery on its way into a group."""

    def __init__(self, reading: PlainReading, group: PlainGroup, delivery: Delivery) -> None:
        self._reading = reading
        self._group = group
        self._delivery = delivery
        self._notes: list[TxNote] = []
        self._stretches: dict[SourceKey, Stretch] = {}
        self._runs: dict[TableUse, Runs] = {}
        self._uses = {use.name: use for use in group.runs}
        self._tables: Mapping[str, TableMeta] | None = None
        self._forms: _Forms = {}
        """Of `_tables`, those of the last tx."""

    def add(self, tx: PlainTx) -> None:
        """Take the next tx. Raises NotPlainError, PoisonError, one of `UNREADABLE`."""
        if not self._reading.is_believed(tx):
            raise NotPlainError
        header = tx.header
        stretch = self._stretches.get((header.source_node, header.incarnation)) or self._stretch(header)
        if header.prev_lsn != stretch.to_lsn:
            raise NotPlainError
        stretch.to_lsn, stretch.tx_id = header.to_lsn, header.tx_id
        if tx.tables is not self._tables:
            self._tables, self._forms = tx.tables, self._reading.forms(tx.tables)
        for change in tx.changes:
            self._add_change(change, header.source_node, stretch)
        link = stretch.source_node, header.tx_id, stretch.incarnation, header.prev_lsn, header.to_lsn
        self._notes.append(TxNote(*link, tx.sha256, header.changes))

    def end(self, size: int) -> None:
        """Let the group have it all. `size`: bytes of the message, unwrapped."""
        self._group.take(self._notes, self._stretches, self._runs, size)

    def _stretch(self, header: PlainHeader) -> Stretch:
        """Return a new stretch of this delivery's that goes on with what the group has of its source."""
        key = header.source_node, header.incarnation
        if not self._reading.may_speak(self._delivery, header.source_node):
            raise NotPlainError
        before = self._group.stretches.get(key)
        first, latest_us = (before.prev_lsn, before.latest_us) if before else (header.prev_lsn, 0)
        stretch = Stretch(*key, first, before.to_lsn if before else first, "", latest_us)
        self._stretches[key] = stretch
        return stretch

    def _add_change(self, change: PlainChange, source: str, stretch: Stretch) -> None:
        use, rows = self._forms[change.table]
        if rows is None or change.resolves:
            raise NotPlainError
        version, base = change.version, change.base or NEVER
        epoch, hlc, node_id = version
        base_epoch, base_hlc, base_node_id = base
        if node_id != source or epoch != base_epoch:
            raise NotPlainError
        if not base_hlc < hlc < YEAR_2200_US or not 0 <= epoch <= MOST_EPOCH:
            raise NotPlainError
        if base != NEVER and not (base_hlc >= 0 and self._reading.is_node_id(base_node_id)):
            raise NotPlainError
        pk, image = bytes(change.pk), None if change.op == "D" else bytes(change.after)
        if not rows.holds(pk, image):
            raise NotPlainError
        # One above its base tells nothing of the clock: whoever writes on top of a future write has to go beyond.
        if hlc > stretch.latest_us and hlc != base_hlc + 1:
            stretch.latest_us = hlc
        self._follow(use, pk, change.op == "I", version, base, image)

    def _follow(
        self, use: TableUse, pk: bytes, is_new: bool, version: Version, base: Version, image: bytes | None
    ) -> None:
        """Let a change go on with its row's run, or begin one."""
        runs = self._runs.get(use)
        if runs is None:
            # Of several writes of a row the last alone is written: it must name the columns that all name.
            if self._uses.setdefault(use.name, use) is not use:
                raise NotPlainError
            runs = self._runs[use] = {}
        before = runs.get(pk) or self._group.runs.get(use, {}).get(pk)
        if before is None:
            runs[pk] = RowRun(pk, is_new, base, version, image, version, base)
            return
        if before.version != base or (before.image is None and not is_new):
            raise NotPlainError
        first = before.is_new, before.first_base, before.first_version
        runs[pk] = RowRun(pk, *first, image, version, base)
