"""`rowferry serve`: the node over HTTP, until it is told to stop."""

import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

import click

from common.config.model import ServerSection
from common.console import Console
from common.errors import ContentionError, OutageError
from common.ops.incarnation import settle_incarnation
from common.retry import OUTAGE, Backoff
from common.runtime.host import Host, current_host
from common.runtime.parts import load_parts
from common.runtime.signals import stop_on_signals
from common.runtime.supervisor import Supervisor

log = logging.getLogger(__name__)


@click.command(short_help="Serve HTTP and the operations page.")
@click.option("--host", help="Address to listen on. Default: server.host.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port. Default: server.port; 0 picks a free one.")
def serve(host: str | None, port: int | None) -> None:
    """Serve HTTP: push and pull, dead letters, conflicts, audit, the operations page, until SIGTERM or Ctrl-C.

    The page is at / (docs/howto/page.md). Programs need a token (rowferry token create) for every request except
    /healthz, /readyz, /openapi.json, and /metrics on this machine. Can run alongside rowferry run. For TLS, proxies and
    limits see docs/reference/http.md."""
    current = current_host()
    current.is_service = True
    stop = threading.Event()
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    with stop_on_signals(stop):
        _serve_on(current, given, stop)
    current.emit({"stopped": True}, _tell)


def _serve_on(host: Host, given: Mapping[str, object], stop: threading.Event) -> None:
    """Serve until `stop`; a database that is away at the start is waited for, and probes are answered meanwhile."""
    server = host.config.server.model_copy(update=dict(given))
    backoff = Backoff(OUTAGE)
    with Meanwhile(server) as meanwhile:
        while not stop.is_set():
            try:
                _serve_opened(host, server, stop, meanwhile)
                backoff.reset()
            except (OutageError, ContentionError) as error:
                seconds = backoff.next_seconds()
                log.warning("serve.can_not_start", extra={"error": str(error), "again_in_seconds": round(seconds, 1)})
                meanwhile.begin()
                stop.wait(seconds)


class Meanwhile:
    """What is answered as long as the node is not open."""

    def __init__(self, server: ServerSection) -> None:
        self._server = server
        self._under_way = ExitStack()
        self._has_begun = False

    def begin(self) -> None:
        """Listen, where that is not so yet. Raises ConfigError, and RowferryError where the port is taken."""
        # Not at the top: other commands need no web framework.
        from common.web.away import answering_meanwhile

        if not self._has_begun:
            self._under_way.enter_context(answering_meanwhile(self._server))
            self._has_begun = True

    def end(self) -> None:
        """Give the port back."""
        self._under_way.close()
        self._has_begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.end()


def _serve_opened(host: Host, server: ServerSection, stop: threading.Event, meanwhile: Meanwhile) -> None:
    # Not at the top: other commands need no web framework.
    from common.web.app import build_web
    from common.web.server import serving

    parts = load_parts()
    with host.node() as opened:
        node = replace(opened, facts=settle_incarnation(opened.database, opened.facts, opened.clock))
        web = build_web(node, parts, stop)
        meanwhile.end()
        log.info("serve.started", extra={"node": node.facts.node_id, "incarnation": node.facts.incarnation})
        with serving(web.guarded(server), server, node.clock):
            outcome = Supervisor(web.services, stop).run()
        log.info("serve.ended", extra={"reopen": outcome.reopen, "crashes": outcome.crashes, "late": outcome.late})


def _tell(console: Console) -> None:
    console.say("Stopped.")
