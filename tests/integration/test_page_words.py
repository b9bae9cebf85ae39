"""Words are explained where they stand, each by one name, by mouse, keyboard and finger; and nothing else is markup."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from common.web.page.glossary import BY_SLUG, TERMS, explained, term
from common.web.page.words import coded
from tests.support.applying import DATABASES
from tests.support.fleet_scene import scene
from tests.support.page import Person, signed_in
from tests.support.web import Served

HOSTILE = "<script>x</script> dead letter \" onfocus='x' LSN 5"


@pytest.fixture(params=DATABASES)
def main(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    url = request.getfixturevalue("pg_database") if request.param == "postgresql" else None
    with scene(tmp_path_factory.mktemp("scene"), url) as node:
        yield node


@pytest.fixture
def anna(main: Served) -> Iterator[Person]:
    with signed_in(main) as person:
        yield person


def test_every_link_to_a_word_leads_to_its_explanation(anna: Person) -> None:
    words = anna.get("/page/words").text
    for one in TERMS:
        assert f'<dt id="{one.slug}">{one.name}</dt>' in words
    linked: set[str] = set()
    for path in (
        "/",
        "/page/nodes/one?id=shop-2",
        "/page/rows?table=item&key=7",
        "/page/dead-letters",
        "/page/conflicts",
        "/page/conflicts/one?id=1",
    ):
        found = re.findall(r'<a class="term" href="/page/words#([a-z-]+)" title="([^"]+)">', anna.get(path).text)
        assert found, path
        assert all(BY_SLUG[slug].says.replace("'", "&#39;") == says for slug, says in found), path
        linked.update(slug for slug, _ in found)
    assert linked >= {"dead-letter", "lsn", "heartbeat", "shared-folder", "transaction", "conflict", "rule"}


def test_a_sentence_is_explained_once_and_stays_escaped() -> None:
    told = str(explained(coded(f"capture is out of date: `rowferry dead letter`; {HOSTILE} and LSN 6")))
    assert told.count('href="/page/words#capture"') == 1
    assert told.count('href="/page/words#lsn"') == 1
    assert told.count('href="/page/words#dead-letter"') == 1
    assert "<code>rowferry dead letter</code>" in told, "a command stays as it is"
    assert "<script" not in told
    assert "&lt;script&gt;" in told
    assert "onfocus='" not in told
    assert str(explained("plain & simple")) == "plain &amp; simple"
    assert str(term("lsn", "<b>")).endswith(">&lt;b&gt;</a>")


def test_a_thing_has_one_name(anna: Person) -> None:
    """A dead letter is not also set aside, and the shared folder is no directory."""
    for path in ("/", "/page/nodes/one?id=shop-2", "/page/rows?table=item&key=7", "/page/dead-letters", "/page/audit"):
        text = re.sub(r"(?s)<option.*?</option>", "", anna.get(path).text)
        text = re.sub(r"<[^>]*>", " ", text)
        assert "set aside" not in text, path
        assert "director" not in text, path
