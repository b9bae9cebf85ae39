"""One behavioural suite for every pair of sink and source; what an adapter's features don't promise is left out.

An adapter's test module subclasses `SinkSourceContract` and gives a `case` fixture. Nodes: `a` sends, `b` and `c`
receive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from common.errors import PoisonError, Reason
from common.ports.dialect import LogHead
from common.ports.sink import Envelope, Sink, TransportFeatures
from common.ports.source import Delivery, Source
from common.versions import NEVER, Version
from common.wire.compress import decompress
from common.wire.decode import read_body
from common.wire.encode import encode_change, encode_tx
from common.wire.records import Part, TableMeta, TxHeader
from tests.support.waiting import wait_for

WAIT_SECONDS = 30.0
IDLE_SECONDS = 0.4
INCARNATION = "inc1"
_WHEN = "2026-01-01T00:00:00.000000Z"
_TABLES = {"t": TableMeta(pk=("id",), columns={"id": "int", "v": "text"})}


@dataclass(frozen=True)
class SmallTx:
    """A sealed tx of `sizes` rows, the first one at `from_lsn`."""

    node: str
    from_lsn: int
    sizes: Sequence[int] = (5,)

    @property
    def to_lsn(self) -> int:
        return self.from_lsn + len(self.sizes) - 1

    @property
    def header(self) -> TxHeader:
        tx_id = f"0192f000-0000-7000-8000-{self.from_lsn:012x}"
        return TxHeader(tx_id, self.node, INCARNATION, _WHEN, self.from_lsn, self.to_lsn, self.from_lsn - 1, _TABLES)

    def lines(self) -> Iterator[bytes]:
        for lsn, size in enumerate(self.sizes, start=self.from_lsn):
            after = b'{"id":%d,"v":"%s"}' % (lsn, b"x" * size)
            yield encode_change(
                lsn=lsn, tx_id=self.header.tx_id, table="t", op="I", pk=b'{"id":%d}' % lsn, before=None, after=after,
                version=Version(0, lsn, self.node), base=NEVER, captured_at=_WHEN,
            )  # fmt: skip


def envelopes(tx: SmallTx, max_batch_bytes: int = 4096) -> list[Envelope]:
    """Return one envelope for each part of the tx, as the producer sends them."""
    return [
        Envelope(
            body=part.body,
            source_node=tx.node,
            incarnation=INCARNATION,
            from_lsn=tx.from_lsn,
            to_lsn=tx.to_lsn,
            tx_id=tx.header.tx_id,
            closes_lsn=tx.to_lsn if part.is_last else None,
        )
        for part in encode_tx(tx, max_batch_bytes)
    ]


def single(node: str, lsn: int, size: int = 5) -> Envelope:
    """Return the envelope of a tx with one row."""
    return envelopes(SmallTx(node, lsn, (size,)), max_batch_bytes=size + 4096)[0]


def packed(*parts: Envelope) -> Envelope:
    """Return one envelope that holds the batches of several."""
    first, last = parts[0], parts[-1]
    body = b"".join(part.body for part in parts)
    return replace(first, body=body, to_lsn=last.to_lsn, closes_lsn=last.closes_lsn, txs=len(parts))


@dataclass
class TransportCase:
    """An adapter under test."""

    features: TransportFeatures
    make_sink: Callable[[str], Sink]
    make_source: Callable[[str], Source]
    watermarks: dict[tuple[str, str], int] = field(default_factory=dict)
    """What the consumer has durably passed, for sources that ask."""
    _sinks: list[Sink] = field(default_factory=list)
    _sources: list[Source] = field(default_factory=list)

    def sink(self, node: str) -> Sink:
        self._sinks.append(self.make_sink(node))
        return self._sinks[-1]

    def source(self, node: str) -> Source:
        self._sources.append(self.make_source(node))
        return self._sources[-1]

    def passed(self, logs: Collection[tuple[str, str]]) -> dict[tuple[str, str], LogHead]:
        return {key: LogHead(lsn, None) for key, lsn in self.watermarks.items() if key in logs}

    def commit(self, source: Source, deliveries: list[Delivery]) -> None:
        """Do what the consumer does: the watermark first, then the acknowledgement."""
        for delivery in deliveries:
            for part in read_body(plain(delivery)):
                assert isinstance(part, Part)
                key = (part.header.source_node, part.header.incarnation)
                self.watermarks[key] = max(self.watermarks.get(key, 0), part.header.to_lsn)
        source.ack(deliveries)

    def needs(self, feature: str) -> None:
        """Skip the test unless the adapter promises `feature`."""
        if not getattr(self.features, feature):
            pytest.skip(f"{self.features.name} does not promise {feature!r}")

    def close(self) -> None:
        for source in self._sources:
            source.close()
        for sink in self._sinks:
            sink.close()


def plain(delivery: Delivery) -> bytes:
    """Return the uncompressed body."""
    return decompress(delivery.body, delivery.content_encoding)


def collect(source: Source, size: int) -> list[Delivery]:
    """Receive until `size` bytes of bodies have come."""
    got: list[Delivery] = []

    def enough() -> bool:
        got.extend(source.receive(10, 0.2))
        return sum(len(plain(one)) for one in got) >= size

    wait_for(enough, WAIT_SECONDS, f"{size} bytes of batches")
    return got


def bodies(deliveries: Sequence[Delivery]) -> bytes:
    return b"".join(plain(one) for one in deliveries)


def send_all(sink: Sink, *sent: Envelope) -> int:
    for envelope in sent:
        sink.send(envelope)
    return sink.flush(WAIT_SECONDS)


class SinkSourceContract:
    """The suite. `case` is the subclass's fixture."""

    def test_the_same_bytes_come_back(self, case: TransportCase) -> None:
        source, sink = case.source("b"), case.sink("a")
        sent = packed(single("a", 1), single("a", 2, size=2000), single("a", 3))
        send_all(sink, sent)
        got = collect(source, len(sent.body))
        assert bodies(got) == sent.body
        assert got[0].source_node in ("a", None)
        assert got[0].verified == case.features.authenticated or not got[0].verified
        assert not got[0].redelivered
        assert got[0].origin

    def test_the_parts_of_a_large_tx_come_in_order(self, case: TransportCase) -> None:
        source, sink = case.source("b"), case.sink("a")
        parts = envelopes(SmallTx("a", 1, [1500] * 10))
        assert len(parts) > 2
        send_all(sink, *parts)
        got = collect(source, sum(len(part.body) for part in parts))
        numbers = [part.header.part for part in read_body(bodies(got)) if isinstance(part, Part)]
        assert sorted(numbers) == list(range(1, len(parts) + 1))
        if case.features.ordered:
            assert bodies(got) == b"".join(part.body for part in parts)

    def test_confirmed_is_the_prefix_that_is_out(self, case: TransportCase) -> None:
        case.source("b")
        sink = case.sink("a")
        assert sink.confirmed() == 0
        assert sink.flush(WAIT_SECONDS) == 0
        assert send_all(sink, single("a", 1), single("a", 2)) == 2
        parts = envelopes(SmallTx("a", 3, [1500] * 10))
        assert send_all(sink, *parts[:-1]) == 2
        assert send_all(sink, parts[-1]) == 12
        assert sink.confirmed() == 12

    def test_every_receiver_gets_everything(self, case: TransportCase) -> None:
        sources = [case.source("b"), case.source("c")]
        sent = single("a", 1)
        send_all(case.sink("a"), sent)
        for source in sources:
            got = collect(source, len(sent.body))
            assert bodies(got) == sent.body
            case.commit(source, got)

    def test_what_a_node_sent_never_comes_back_to_it(self, case: TransportCase) -> None:
        own, other = case.source("a"), case.source("b")
        sent = single("a", 1)
        send_all(case.sink("a"), sent)
        collect(other, len(sent.body))
        assert own.receive(10, IDLE_SECONDS) == []

    def test_what_was_not_acknowledged_comes_again(self, case: TransportCase) -> None:
        """Also where a kill would lose it: `close` is part of every adapter's promise."""
        source = case.source("b")
        sent = [single("a", 1), single("a", 2)]
        send_all(case.sink("a"), *sent)
        whole = b"".join(one.body for one in sent)
        collect(source, len(whole))
        source.close()
        got = collect(case.source("b"), len(whole))
        assert sorted(plain(one) for one in got) == sorted(one.body for one in sent)

    def test_what_was_acknowledged_never_comes_again(self, case: TransportCase) -> None:
        source, sink = case.source("b"), case.sink("a")
        sent = single("a", 1)
        send_all(sink, sent)
        case.commit(source, collect(source, len(sent.body)))
        assert source.receive(10, IDLE_SECONDS) == []
        source.close()
        again = case.source("b")
        assert again.receive(10, IDLE_SECONDS) == []
        later = single("a", 2)
        send_all(sink, later)
        assert bodies(collect(again, len(later.body))) == later.body

    @pytest.mark.parametrize("failed", [True, False])
    def test_what_was_given_back_comes_again(self, case: TransportCase, failed: bool) -> None:
        source = case.source("b")
        sent = single("a", 1)
        send_all(case.sink("a"), sent)
        for _ in range(3):
            got = collect(source, len(sent.body))
            assert bodies(got) == sent.body
            source.give_back(got, failed=failed)
        got = collect(source, len(sent.body))
        case.commit(source, got)
        assert source.receive(10, IDLE_SECONDS) == []

    def test_a_receiver_that_gives_back_leaves_the_others_alone(self, case: TransportCase) -> None:
        source, other = case.source("b"), case.source("c")
        sent = single("a", 1)
        send_all(case.sink("a"), sent)
        case.commit(other, collect(other, len(sent.body)))
        source.give_back(collect(source, len(sent.body)), failed=True)
        source.close()
        assert other.receive(10, IDLE_SECONDS) == []

    def test_messages_keep_their_order(self, case: TransportCase) -> None:
        case.needs("ordered")
        source = case.source("b")
        sent = [single("a", lsn) for lsn in range(1, 31)]
        send_all(case.sink("a"), *sent)
        got = collect(source, sum(len(one.body) for one in sent))
        assert bodies(got) == b"".join(one.body for one in sent)

    def test_receive_takes_no_more_than_asked(self, case: TransportCase) -> None:
        source = case.source("b")
        sent = [single("a", lsn) for lsn in range(1, 6)]
        send_all(case.sink("a"), *sent)
        assert len(wait_for(lambda: source.receive(2, 0.2), WAIT_SECONDS, "two deliveries")) <= 2

    def test_a_range_sent_again_is_harmless(self, case: TransportCase) -> None:
        source = case.source("b")
        sent = [single("a", 1), single("a", 2)]
        send_all(case.sink("a"), *sent)
        restarted = case.sink("a")
        assert send_all(restarted, *sent) == 2
        got = collect(source, len(sent[0].body) + len(sent[1].body))
        got += source.receive(10, IDLE_SECONDS)
        assert {plain(one) for one in got} == {one.body for one in sent}

    def test_what_stood_is_taken_though_more_comes_all_the_time(self, case: TransportCase) -> None:
        """By this `run --once` ends."""
        case.source("b").close()
        sink = case.sink("a")
        stood = [single("a", lsn) for lsn in range(1, 11)]
        send_all(sink, *stood)
        source = case.source("b")
        left = {one.body for one in stood}
        lsns = iter(range(len(stood) + 1, 10_000))

        def one_more() -> bool:
            send_all(sink, single("a", next(lsns)))
            got = source.receive(3, 0.2)
            if left:
                assert not source.took_what_stood
            case.commit(source, got)
            left.difference_update(map(plain, got))
            return source.took_what_stood

        wait_for(one_more, WAIT_SECONDS, "what stood in the source to be taken")
        assert not left
        case.commit(source, source.receive(3, 0.2))
        assert source.took_what_stood

    def test_what_stood_and_was_given_back_is_not_taken(self, case: TransportCase) -> None:
        case.source("b").close()
        sent = single("a", 1)
        send_all(case.sink("a"), sent)
        source = case.source("b")
        source.give_back(collect(source, len(sent.body)), failed=False)
        got = collect(source, len(sent.body))
        assert source.receive(3, IDLE_SECONDS) == []
        assert not source.took_what_stood
        case.commit(source, got)
        assert source.receive(3, IDLE_SECONDS) == []
        assert source.took_what_stood

    def test_a_message_that_is_too_large_is_seen_before_it_is_sent(self, case: TransportCase) -> None:
        limit = case.features.max_message_bytes
        if limit is None:
            pytest.skip(f"{case.features.name} has no limit")
        source, sink = case.source("b"), case.sink("a")
        with pytest.raises(PoisonError) as raised:
            sink.send(single("a", 1, size=limit + 1))
        assert raised.value.reason is Reason.LIMIT
        small = single("a", 2)
        send_all(sink, small)
        assert bodies(collect(source, len(small.body))) == small.body

    def test_closing_twice_and_without_use_is_fine(self, case: TransportCase) -> None:
        source, sink = case.source("b"), case.sink("a")
        for _ in range(2):
            sink.close()
            source.close()

    def test_an_idle_receive_ends_in_time(self, case: TransportCase) -> None:
        source = case.source("b")
        before = time.monotonic()
        assert source.receive(10, IDLE_SECONDS) == []
        assert IDLE_SECONDS * 0.5 <= time.monotonic() - before < IDLE_SECONDS + 5
