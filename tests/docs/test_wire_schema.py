"""The written schema and the code say the same about every line."""

import json
from importlib import resources
from pathlib import Path

import jsonschema
import msgspec
import pytest

from common.clock import from_us
from common.versions import NEVER, Version
from common.wire.control import Control, Gone, Heartbeat, Request, SeenLog, control_lines, encode_control
from common.wire.encode import encode_change, header_line, seal_part
from common.wire.records import TableMeta, TxHeader
from common.wire.signing import Signer, new_private_key

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = jsonschema.Draft202012Validator(json.loads((DOCS / "reference" / "wire.schema.json").read_text()))
TX = "0192f000-0000-7000-8000-000000000001"

HEARTBEAT = Heartbeat(
    source_node="a",
    incarnation="i1",
    head_lsn=9,
    head_tx_id=TX,
    sent_lsn=8,
    every_seconds=60,
    at=from_us(1_800_000_000_000_001),
    number=1_800_000_000_000_001,
    release="1.0",
    features=("x",),
    schema_sha256="0" * 64,
    policies_sha256="1" * 64,
    passed=(("b", "i2", 7),),
)


def test_what_the_encoder_writes_is_valid() -> None:
    meta = TableMeta(pk=("id",), columns={"id": "int", "v": "text"})
    header = TxHeader(TX, "a", "i1", "2026-01-01T00:00:00.000000Z", 1, 2, 0, {"t": meta}, grouped=True, requires=("x",))
    line = encode_change(
        lsn=1,
        tx_id=TX,
        table="t",
        op="U",
        pk=b'{"id":1}',
        before=b'{"id":1,"v":null}',
        after=b'{"id":1,"v":{"$int":5}}',
        version=Version(0, 5, "a"),
        base=NEVER,
        captured_at="2026-01-01T00:00:00.000000Z",
    )
    for signer in (None, Signer(new_private_key())):
        body = seal_part(header.tx_id, header_line(header, 1, 1, 2, "0" * 64), [line], 1, signer)
        for written in body.splitlines():
            SCHEMA.validate(json.loads(written))
    # One of the two alone shows nothing.
    *_, end = body.splitlines()
    for key in ("key", "signature"):
        fields = json.loads(end)
        del fields[key]
        assert not SCHEMA.is_valid(fields)


@pytest.mark.parametrize(
    "control",
    [
        Request(
            from_node="b", to_node="a", incarnation="i1", after_lsn=3, until_lsn=9, asked_at="2026-01-01T00:00:00Z"
        ),
        Gone(from_node="a", to_node="b", incarnation="i1", after_lsn=3, until_lsn=9),
        HEARTBEAT,
        msgspec.structs.replace(HEARTBEAT, seen={"b": SeenLog(incarnation="i1", lsn=4, tx_id=TX)}),
    ],
)
def test_what_nodes_tell_each_other_is_valid(control: Control) -> None:
    line = encode_control(control)
    SCHEMA.validate(json.loads(line))
    SCHEMA.validate(json.loads(encode_control(control, Signer(new_private_key()))))
    assert control_lines(line) == [control]
    # Whatever the code demands the schema demands too, and nothing else.
    for key in json.loads(line):
        fields = json.loads(line)
        del fields[key]
        assert SCHEMA.is_valid(fields) is (key in ("number", "passed", "seen")), key
    if isinstance(control, Heartbeat):
        silent = json.loads(line)
        del silent["passed"]
        assert control_lines(json.dumps(silent).encode() + b"\n") == [msgspec.structs.replace(control, passed=None)]


@pytest.mark.parametrize(
    "line",
    [
        {"type": "batch"},
        {"type": "end", "tx_id": TX, "changes": 1, "sha256": "short"},
        {"type": "change", "lsn": 1, "tx_id": TX, "op": "U"},
        {"type": "other"},
    ],
)
def test_what_is_no_line_is_invalid(line: dict[str, object]) -> None:
    assert not SCHEMA.is_valid(line)


def test_the_policy_page_names_every_header_key() -> None:
    page = (DOCS / "DB_SYNC_POLICY.md").read_text()
    keys = json.loads((DOCS / "reference" / "wire.schema.json").read_text())["$defs"]["batch"]["properties"]
    assert [key for key in keys if f"`{key}`" not in page and f'"{key}"' not in page] == []


def test_the_package_is_typed() -> None:
    assert resources.files("common").joinpath("py.typed").is_file()
