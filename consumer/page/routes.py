"""The consumer's pages together, as its share of `serve` names them."""

from pathlib import Path

from fastapi import APIRouter

from common.ports.http_part import PageLink
from common.runtime.node import Node
from common.web.page.page import CONFLICTS, LETTERS
from consumer.page import audit, conflicts, letters
from consumer.page.letter_actions import letter_action_pages

TEMPLATES = Path(__file__).parent / "templates"
PAGES = (
    PageLink("Dead letters", LETTERS),
    PageLink("Conflicts", CONFLICTS),
    PageLink("Audit", audit.PATH),
)


def page_routes(node: Node) -> list[APIRouter]:
    """Return the routes of all of them."""
    return [
        letters.letter_pages(node),
        letter_action_pages(node),
        conflicts.conflict_pages(node),
        audit.audit_pages(node),
    ]
