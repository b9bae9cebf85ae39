"""Puts the operations page into the application."""

from collections.abc import Mapping, Sequence

from fastapi import FastAPI

from common.ports.http_part import HttpShare, PageLink
from common.ports.part import Part
from common.runtime.node import Node
from common.web.auth import TokenGate
from common.web.page.access import Doorkeeper
from common.web.page.explaining import word_routes
from common.web.page.fleet import fleet_routes
from common.web.page.glossary import WORDS
from common.web.page.login import door_routes
from common.web.page.login_audit import LoginAudit
from common.web.page.looks import Looks
from common.web.page.nodes import node_routes
from common.web.page.page import HOME, ROWS, Page
from common.web.page.rows import row_routes
from common.web.page.sessions import Sessions


def add_page(
    app: FastAPI, node: Node, gate: TokenGate, parts: Sequence[Part[Node]], shares: Mapping[str, HttpShare]
) -> None:
    """Add what every page needs, and the pages about the whole node; the parts' own are among their routers."""
    server = node.config.server
    # A proxy that does TLS may not say so of each request; without TLS anywhere the cookie would not come back.
    is_secure = server.tls_cert_file is not None or bool(server.proxies)
    audit = LoginAudit(node.database, node.clock)
    app.state.door = Doorkeeper(gate, Sessions(), audit, node.facts.node_id, always_secure=is_secure)
    links = [
        PageLink("Fleet", HOME),
        PageLink("Rows", ROWS),
        *(link for share in shares.values() for link in share.pages),
        PageLink("Words", WORDS),
    ]
    folders = {name: share.templates for name, share in shares.items() if share.templates is not None}
    app.state.page = Page(node.facts.node_id, node.clock, links, folders)
    app.include_router(door_routes())
    looks = Looks(node, parts)
    app.include_router(word_routes())
    app.include_router(fleet_routes(node, looks))
    app.include_router(node_routes(node, looks))
    app.include_router(row_routes(node, parts))
