"""schemathesis against a served node: what it describes is what it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from common.http.scopes import Scope
from common.http.wire import DIGESTS_PATH, HEARTBEAT_PATH, MEDIA_TYPE, PUSH_PATH, ROWS_PATH
from common.web.openapi import current
from tests.support.applying import Origin, resealed, sqlite_url
from tests.support.web import ALL, Served, served


@schemathesis.serializer(MEDIA_TYPE)
def as_it_is(_context: object, value: object) -> bytes:
    """Batches are bytes: what is made up of them goes as it is."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


schema = schemathesis.openapi.from_dict(current())


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(sqlite_url(tmp_path_factory.mktemp("node")), tables={"policy": {"item": "manual"}}) as one:
        one.world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
        a = Origin("a")
        body = a.put(7, "theirs", 3 * 10**15).body + resealed(a.put(1, "one", 10).body, b'"item"', b'"nowhere"')
        with one.client(one.token("a", Scope.PUSH)) as client:
            assert client.post("/sync/push", content=body).status_code == 200
        yield one


@pytest.fixture(scope="module")
def token(node: Served) -> str:
    return node.token("a", *ALL)


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_description_knows(case: Case, node: Served, token: str) -> None:
    if case.query and case.query.get("wait"):
        # Waiting for news is all that it would do.
        case.query["wait"] = 0
    # Text that is no batch, or no heartbeat, fits the description, which can't say what a checksum is; nor which tables
    # there are; nor that an audit's `since` is an instant, with or without a zone, and not after its `until`.
    unsaid = (PUSH_PATH, HEARTBEAT_PATH, DIGESTS_PATH, ROWS_PATH, "/audit")
    left_out = [positive_data_acceptance] if case.operation.path in unsaid else []
    # A made-up header that is meant to be wrong goes as it is: with the right token in its place the request would be
    # right, and its answer taken for that to the wrong one.
    headers = {} if has_wrong_token(case) else {"Authorization": f"Bearer {token}"}
    case.call_and_validate(base_url=node.url, headers=headers, excluded_checks=left_out)


def has_wrong_token(case: Case) -> bool:
    """Tell whether the header, of which the token is all that is described, was made up to be refused."""
    made = case.meta.components.get(ParameterLocation.HEADER) if case.meta else None
    return made is not None and made.mode.is_negative
