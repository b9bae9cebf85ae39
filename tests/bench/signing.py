"""What signatures cost: one-row txs written and read with and without, in one run. `python -m tests.bench.signing`

Only the ratios mean something on another machine."""

import time
import uuid
from collections.abc import Callable

from common.versions import Version
from common.wire.encode import encode_change, small_batch
from common.wire.plain import plain_txs
from common.wire.records import SmallTx, TableMeta, TxHeader
from common.wire.signing import Purpose, Signer, Trust, new_private_key

_TXS = 2_000
_ROUNDS = 5
_WHEN = "2026-01-01T00:00:00.000000Z"
_META = {"t": TableMeta(pk=("id",), columns={"id": "int", "v": "text"})}


def _tx(lsn: int) -> SmallTx:
    tx_id = str(uuid.UUID(int=(0x0192F000 << 96) | (0x7 << 76) | (0x8 << 60) | lsn))
    line = encode_change(
        lsn=lsn,
        tx_id=tx_id,
        table="t",
        op="I",
        pk=b'{"id":%d}' % lsn,
        before=None,
        after=b'{"id":%d,"v":"%s"}' % (lsn, b"x" * 100),
        version=Version(0, lsn, "a"),
        base=None,
        captured_at=_WHEN,
    )
    return SmallTx(TxHeader(tx_id, "a", "i", _WHEN, lsn, lsn, lsn - 1, _META), line)


def _best_us(work: Callable[[], object]) -> float:
    """Return the shortest of some rounds, in microseconds a tx."""
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best / _TXS * 1e6


def main() -> None:
    """Measure and print."""
    signer, txs = Signer(new_private_key()), [_tx(lsn) for lsn in range(1, _TXS + 1)]
    trust, nobody = Trust({"a": [signer.public]}, required=True), Trust({}, required=False)

    def write(by: Signer | None) -> bytes:
        return b"".join(small_batch(tx, signer=by) or b"" for tx in txs)

    def read(body: bytes, by: Trust) -> None:
        for tx in plain_txs(body):
            if by.fault(tx.header.source_node, Purpose.BATCH, tx.batch_sha256, tx.proof) is not None:
                raise RuntimeError("a signature does not hold")

    plain, signed = write(None), write(signer)
    found = {
        "written": (_best_us(lambda: write(None)), _best_us(lambda: write(signer))),
        "read": (_best_us(lambda: read(plain, nobody)), _best_us(lambda: read(signed, trust))),
        "bytes": (len(plain) / _TXS, len(signed) / _TXS),
    }
    for name, (without, with_key) in found.items():
        print(f"{name:8} {without:8.1f} without, {with_key:8.1f} signed: {with_key / without:.2f} times")


if __name__ == "__main__":
    main()
