"""A node that answers HTTP inside the test's process, and tokens for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from common.config.model import ServerSection
from common.http.scopes import Scope
from common.ops.tokens import Tokens
from common.runtime.parts import load_parts
from common.runtime.supervisor import Supervisor
from common.web.app import build_web
from common.web.server import serving
from tests.support.applying import World, close_world, open_world, sqlite_url

ALL = (Scope.PUSH, Scope.PULL, Scope.FORWARD, Scope.OPS)


@dataclass
class Served:
    """A node that is served on a port of this machine."""

    world: World
    url: str

    def token(self, node_id: str = "a", *scopes: Scope, lives_us: int | None = None) -> str:
        """Make a token; all scopes unless some are named."""
        return self.tokens.create(node_id, frozenset(scopes or ALL), "test", lives_us)[0]

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.world.node.database, self.world.node.clock)

    def client(self, token: str | None = None, **options: object) -> httpx.Client:
        """A plain client; the caller closes it."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, **options)  # type: ignore[arg-type]


@contextmanager
def served(url: str, server: ServerSection | None = None, /, **sections: object) -> Iterator[Served]:
    """Migrate a database and serve it until the context ends, its services running."""
    world = open_world(url, **sections)
    stop = threading.Event()
    chosen = server or ServerSection(port=0)
    web = build_web(world.node, load_parts(), stop)
    loops = threading.Thread(target=Supervisor(web.services, stop).run, name="test-services")
    loops.start()
    try:
        with serving(web.guarded(chosen), chosen) as port:
            scheme = "https" if chosen.tls_cert_file else "http"
            yield Served(world, f"{scheme}://127.0.0.1:{port}")
    finally:
        stop.set()
        loops.join(20)
        close_world(world)


@contextmanager
def served_on_sqlite(folder: Path, server: ServerSection | None = None, /, **sections: object) -> Iterator[Served]:
    """The same on a new SQLite file."""
    with served(sqlite_url(folder), server, **sections) as one:
        yield one
