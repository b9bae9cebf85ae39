"""Files that a release has written stay readable. Files in `tests/golden` are only added to."""

import io
from pathlib import Path

import pytest

from common.wire.changes import TxReader
from common.wire.compress import encoding_of, open_decompressed
from common.wire.decode import read_parts
from common.wire.records import Change, Part

GOLDEN = Path(__file__).parents[1] / "golden"


def read(name: str) -> dict[str, list[Change]]:
    data = (GOLDEN / name).read_bytes()
    stream = open_decompressed(io.BytesIO(data), encoding_of(name), len(data))
    parts: dict[str, list[Part]] = {}
    for found in read_parts(stream):
        assert isinstance(found, Part), found
        parts.setdefault(found.header.tx_id, []).append(found)
    return {tx_id: list(TxReader(some[0].header, [part.payload for part in some])) for tx_id, some in parts.items()}


@pytest.mark.parametrize("name", ["rowferry-1.jsonl", "rowferry-1.jsonl.gz", "rowferry-1.jsonl.zst"])
def test_a_file_of_the_first_release_is_read(name: str) -> None:
    txs = list(read(name).values())
    assert [[change.op for change in changes] for changes in txs] == [["I", "U", "D"], ["I", "I"]]
    assert bytes(txs[0][0].after) == '{"id":1,"price":"9.50","note":"Łódź \\u0000","raw":{"$bytes":"AP8="}}'.encode()
    assert [len(bytes(change.after)) for change in txs[1]] == [len(b'{"id":0,"note":""}') + 3_000] * 2
