"""A person at the operations page, without a browser: cookies kept, forms read from the page and sent back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from common.config.model import ServerSection
from common.http.scopes import Scope
from tests.support.applying import sqlite_url
from tests.support.web import Served, served


@dataclass
class Form:
    """One form as a browser would send it."""

    action: str
    method: str
    fields: list[tuple[str, str]]
    text: str = ""


def without_terms(page: str) -> str:
    """Return a page without the links that explain its words."""
    return re.sub(r'<a class="term"[^>]*>([^<]*)</a>', r"\1", page)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get"), []))
            self._open = True
        elif self._open and tag in ("input", "textarea") and "name" in given and given.get("type") != "checkbox":
            self.forms[-1].fields.append((given["name"], given.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.forms[-1].text += data


class Person:
    """Somebody who is logged in, or not yet. Close `client` afterwards."""

    def __init__(self, node: Served, name: str = "anna", **options: Any) -> None:
        self.node = node
        self.client = node.client(**options)
        self.token = node.token(name, Scope.OPS)

    def login(self, token: str | None = None, **headers: str) -> httpx.Response:
        return self.send("/page/login", {"token": token or self.token}, **headers)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def send(self, path: str, fields: Mapping[str, Any], **headers: str) -> httpx.Response:
        """Post a form as a browser does from a page of ours."""
        return self.client.post(path, data=dict(fields), headers={"Origin": self.node.url, **headers})

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/").text)
        assert found is not None
        return found[1]

    def submit(self, page: httpx.Response, button: str, **more: Any) -> httpx.Response:
        """Send the form that has `button` on it, with what it holds and `more`, and follow where it leads."""
        parser = _Forms()
        parser.feed(page.text)
        (form,) = [one for one in parser.forms if button in one.text]
        fields: dict[str, Any] = {}
        for name, value in form.fields:
            fields.setdefault(name, []).append(value)
        fields |= more
        url = urljoin(str(page.url), form.action)
        if form.method == "get":
            return self.client.get(url, params=fields, follow_redirects=True)
        return self.client.post(url, data=fields, headers={"Origin": self.node.url}, follow_redirects=True)


@contextmanager
def signed_in(node: Served) -> Iterator[Person]:
    """Somebody who has logged in, until the block is left."""
    person = Person(node)
    with person.client:
        person.login()
        yield person


@contextmanager
def page_node(
    request: pytest.FixtureRequest, factory: pytest.TempPathFactory, *, exchange: bool = False, **sections: Any
) -> Iterator[Served]:
    """A node on a new database of the dialect that the fixture's parameter names, served until the block is left.

    `exchange`: it sends into a folder, and takes others' changes from there."""
    folder = factory.mktemp("node")
    url = sqlite_url(folder) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    if exchange:
        sections["directory"] = {"path": str(folder / "exchange")}
    if "node" in sections:
        sections["node"] = {"id": "here", "database": url, **sections["node"]}
    with served(url, ServerSection(port=0), **sections) as one:
        yield one


def push(node: Served, *bodies: bytes, source: str = "a") -> None:
    """Send batches by HTTP as the node `source` does; all of them are taken."""
    with node.client(node.token(source, Scope.PUSH)) as client:
        answer = client.post("/sync/push", content=b"".join(bodies))
    assert answer.status_code == 200, answer.text
