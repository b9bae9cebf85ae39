"""Whatever the headers of a message hold, they are a trace context as W3C writes it, or none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ports.sink import TraceContext
from common.tracing import trace_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
values: Any = st.none() | st.integers() | st.binary(max_size=80) | st.text(max_size=80) | st.lists(st.text(max_size=5))
nearly: Any = st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{30,34}-[0-9a-f]{14,18}-[0-9a-f]{2}\n?")


@given(st.dictionaries(st.sampled_from(["traceparent", "tracestate", "other"]), values | nearly))
def test_headers_are_a_context_or_none(headers: dict[str, Any]) -> None:
    found = trace_of(headers)
    if found is not None:
        assert found.traceparent == headers["traceparent"]
        assert len(found.traceparent) == 55
        assert found.tracestate in ("", headers.get("tracestate"))


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", True),
        ("tenant@vendor=a b", True),
        ("a=", False),
        ("A=1", False),
        ("a=1,,b=2", False),
        ("a=1,", False),
        ("a=\u00e9", False),
        ("a=1\n", False),
        ("a=" + "1" * 511, False),
        (b"a=1", False),
    ],
)
def test_a_state_is_taken_as_it_is_or_not_at_all(state: object, kept: bool) -> None:
    expected = TraceContext(PARENT, str(state) if kept else "")
    assert trace_of({"traceparent": PARENT, "tracestate": state}) == expected
