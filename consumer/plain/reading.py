"""Deliveries to a `PlainGroup`: each one wholly, or not at all."""

from collections.abc import Mapping

import msgspec

from common.clock import YEAR_2200_US
from common.errors import PoisonError
from common.ids import NODE_ID
from common.ports.plain import RowRun
from common.ports.source import Delivery
from common.runtime.node import Node
from common.versions import MOST_EPOCH, NEVER
from common.wire.compress import decompress_at_once
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.plain import PlainChange, PlainTx, plain_txs
from common.wire.records import TableMeta
from common.wire.signing import Purpose
from consumer.peers import PeerIds
from consumer.plain.forms import Form
from consumer.plain.group import PlainGroup, Runs, Stretch
from consumer.tables import Tables, TableUse
from consumer.verify import sender_error
from consumer.watermark import SourceKey

_MOST_KNOWN = 1_000
_Forms = Mapping[str, Form]


class _NotPlainError(Exception):
    """Something wants a closer look than is taken here."""


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
        if body is None:
            return False
        txs = plain_txs(body, self._limits)
        if not txs:
            return False
        try:
            _Taking(self, group, delivery).take(txs, len(body))
        except (_NotPlainError, PoisonError, msgspec.DecodeError, RecursionError):
            return False
        return True

    def forms(self, tables: Mapping[str, TableMeta]) -> _Forms:
        """Return the forms of the tables that a header describes. Raises PoisonError for one that does not fit."""
        known = self._forms.get(id(tables))
        if known is not None and known[0] is tables:
            return known[1]
        policy_for = self._node.config.tables.policy_for
        forms = {name: Form(self._tables.use(name, meta), policy_for(name)) for name, meta in tables.items()}
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
        self._stretches: dict[SourceKey, Stretch] = {}
        self._runs: dict[TableUse, Runs] = {}
        self._uses = {use.name: use for use in group.runs}

    def take(self, txs: list[PlainTx], size: int) -> None:
        """`size`: bytes of the message, unwrapped."""
        for tx in txs:
            if not self._reading.is_believed(tx):
                raise _NotPlainError
            stretch = self._stretch(tx)
            self._take_changes(tx, stretch)
        self._group.take(txs, self._stretches, self._runs, size)

    def _stretch(self, tx: PlainTx) -> Stretch:
        """Return the stretch that `tx` is the next of."""
        header = tx.header
        key = header.source_node, header.incarnation
        stretch = self._stretches.get(key)
        if stretch is None:
            if not self._reading.may_speak(self._delivery, header.source_node):
                raise _NotPlainError
            before = self._group.stretches.get(key)
            first, latest_us = (before.prev_lsn, before.latest_us) if before else (header.prev_lsn, 0)
            stretch = self._stretches[key] = Stretch(first, before.to_lsn if before else first, "", latest_us)
        if header.prev_lsn != stretch.to_lsn:
            raise _NotPlainError
        stretch.to_lsn, stretch.tx_id = header.to_lsn, header.tx_id
        return stretch

    def _take_changes(self, tx: PlainTx, stretch: Stretch) -> None:
        forms = self._reading.forms(tx.tables)
        source = tx.header.source_node
        for change in tx.changes:
            form = forms[change.table]
            if not form.is_plain or change.resolves:
                raise _NotPlainError
            image = None if change.op == "D" else bytes(change.after)
            base = change.base or NEVER
            version = change.version
            if version.node_id != source or version.main_epoch != base.main_epoch:
                raise _NotPlainError
            if not base.hlc < version.hlc < YEAR_2200_US or not 0 <= version.main_epoch <= MOST_EPOCH:
                raise _NotPlainError
            if base != NEVER and not (base.hlc >= 0 and self._reading.is_node_id(base.node_id)):
                raise _NotPlainError
            if not form.holds(change, image):
                raise _NotPlainError
            # One above its base tells nothing of the clock: whoever writes on top of a future write has to go beyond.
            if version.hlc > stretch.latest_us and version.hlc != base.hlc + 1:
                stretch.latest_us = version.hlc
            self._follow(form.use, change, image)

    def _follow(self, use: TableUse, change: PlainChange, image: bytes | None) -> None:
        """Let `change` go on with its row's run, or begin one."""
        runs = self._runs.get(use)
        if runs is None:
            # Of several writes of a row the last alone is written: it must name the columns that all name.
            if self._uses.setdefault(use.name, use) is not use:
                raise _NotPlainError
            runs = self._runs[use] = {}
        pk, base = bytes(change.pk), change.base or NEVER
        before = runs.get(pk) or self._group.runs.get(use, {}).get(pk)
        is_new = change.op == "I"
        if before is None:
            runs[pk] = RowRun(pk, is_new, base, change.version, image, change.version, base)
            return
        if before.version != base or (before.image is None and not is_new):
            raise _NotPlainError
        first = before.is_new, before.first_base, before.first_version
        runs[pk] = RowRun(pk, *first, image, change.version, base)
