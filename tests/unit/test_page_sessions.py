"""How long a login lasts, by a clock that the test moves."""

from __future__ import annotations

from common.http.callers import Caller
from common.http.scopes import Scope
from common.web.page import sessions
from common.web.page.sessions import IDLE_SECONDS, LONGEST_SECONDS, Sessions

ANNA = Caller("anna", "abc", frozenset({Scope.OPS}))


class Watch:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_that_nobody_uses_ends() -> None:
    watch = Watch()
    logins = Sessions(watch)
    session_id, _ = logins.open(ANNA)
    watch.now += IDLE_SECONDS - 1
    assert logins.find(session_id, by_person=True) is not None
    watch.now += IDLE_SECONDS - 1
    assert logins.find(session_id, by_person=True) is not None
    watch.now += IDLE_SECONDS + 1
    assert logins.find(session_id, by_person=True) is None
    watch.now -= IDLE_SECONDS
    assert logins.find(session_id, by_person=True) is None, "what ended does not come back"


def test_a_page_that_looks_again_by_itself_keeps_no_session() -> None:
    watch = Watch()
    logins = Sessions(watch)
    session_id, _ = logins.open(ANNA)
    for _ in range(int(IDLE_SECONDS / 10)):
        watch.now += 10
        assert logins.find(session_id, by_person=False) is not None
    watch.now += 10
    assert logins.find(session_id, by_person=False) is None


def test_a_session_ends_however_busy_it_is() -> None:
    watch = Watch()
    logins = Sessions(watch)
    session_id, _ = logins.open(ANNA)
    for _ in range(int(LONGEST_SECONDS / 60)):
        watch.now += 60
        assert logins.find(session_id, by_person=True) is not None
    watch.now += 60
    assert logins.find(session_id, by_person=True) is None


def test_of_too_many_sessions_the_longest_unused_ends(monkeypatch: object) -> None:
    logins = Sessions()
    first, _ = logins.open(ANNA)
    second, _ = logins.open(ANNA)
    assert logins.find(first, by_person=True) is not None
    for _ in range(sessions._MOST - 1):
        logins.open(ANNA)
    assert logins.find(second, by_person=False) is None
    assert logins.find(first, by_person=False) is not None


def test_messages_are_shown_once_and_are_bounded() -> None:
    _, session = Sessions().open(ANNA)
    for number in range(50):
        session.say(str(number))
    taken = session.take_messages()
    assert taken[-1].text == "49"
    assert len(taken) == 20
    assert session.take_messages() == []
