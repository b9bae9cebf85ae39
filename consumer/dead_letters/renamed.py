"""Applies dead letters under the names that tables and columns have here now, with the versions that they came with.

So it comes to what it would have come to under these names, on every node that does the same."""

from collections.abc import Sequence

import msgspec

from common.clock import to_iso
from common.errors import EarlyError, PoisonError, UsageError
from common.ports.dialect import ApplySession
from common.runtime.node import Node
from common.wire.changes import TxReader
from common.wire.encode import encode_change
from common.wire.records import BatchHeader, Change
from consumer import audit
from consumer.dead_letters.another_form import AnotherForm, Form, readable_header
from consumer.dead_letters.renaming import Renames
from consumer.dead_letters.table_store import Letter, SettledError
from consumer.incoming import Incoming, Outcome, Result


class RenamedReplay:
    """Applies letters under other names for `actor`. Killed anywhere, a letter is applied whole or not at all."""

    def __init__(self, node: Node, actor: str, renames: Renames, *, dry_run: bool = False) -> None:
        self._node = node
        self._actor = actor
        self._renames = renames
        self._form = AnotherForm(node, actor, dry_run=dry_run)

    def concern(self, letter: Letter) -> set[str]:
        """Return which of the old names a letter has; none where it can't be read."""
        tx = self._form.load(letter)
        return set() if tx.header is None else self._renames.concern(tx.header)

    def replay(self, letter: Letter) -> Result:
        """Apply one letter. Raises OutageError; what is wrong with it is told in the result, and changes nothing.

        The result has the tx under the names of today: what waits for rows of these tables is found by them."""
        tx, which = self._form.load(letter), {"names": dict(self._renames.names)}
        try:
            came = readable_header(letter, tx)
            header, changes = self._renames.apply(came, list(TxReader(came, [tx.payload or b""])))

            def last(session: ApplySession) -> None:
                detail = {"sha256": letter.sha256} | which
                line = audit.Line("edited", letter.source_node, letter.tx_id, self._actor, detail)
                audit.write(session.connection, [line], self._node.clock.now_us())

            result = self._form.apply(Form(letter, tx, header, changes, last=last))
            return msgspec.structs.replace(result, incoming=_named(tx, header, changes))
        except SettledError as error:
            return Result(tx, Outcome.DUPLICATE, settled=error.state)
        except (PoisonError, EarlyError) as error:
            return self._form.failed(letter, tx, error, which)
        except UsageError as error:
            # One of many: the others go on.
            return self._form.has_none(letter, tx, error, which)


def _named(tx: Incoming, header: BatchHeader, changes: Sequence[Change]) -> Incoming:
    lines = [
        encode_change(
            lsn=one.lsn,
            tx_id=one.tx_id,
            table=one.table,
            op=one.op,
            pk=bytes(one.pk),
            before=bytes(one.before),
            after=bytes(one.after),
            version=one.version,
            base=one.base,
            captured_at=one.captured_at or to_iso(0),
            resolves=msgspec.json.encode(one.resolves).decode() if one.resolves else None,
        )
        for one in changes
    ]
    return msgspec.structs.replace(tx, header=header, payload=b"".join(lines))
