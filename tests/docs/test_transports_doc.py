"""The transports' page says what the features records say.

`python -m tests.docs.test_transports_doc` writes it anew.
"""

from __future__ import annotations

from pathlib import Path

from common.ports.sink import TransportFeatures
from common.transports.directory import FEATURES as DIRECTORY
from common.transports.directory.names import file_name, parse_name
from common.transports.http.features import FEATURES as HTTP
from common.transports.kombu_broker import KNOWN, schemes_of
from common.transports.rabbitmq import RabbitSettings
from common.transports.rabbitmq.messages import features as rabbitmq_features

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "transports.md"
BEGIN, END = "<!-- generated from the features records -->\n", "<!-- end of what is generated -->\n"
PROMISES = {
    "durable": "durable",
    "ordered": "ordered",
    "confirms": "confirms",
    "redelivers": "comes again",
    "notices_unroutable": "notices unroutable",
    "authenticated": "proves the sender",
}


def documented() -> list[tuple[str, TransportFeatures]]:
    """Return how each transport is configured, and its features."""
    rabbitmq = rabbitmq_features(RabbitSettings(url="amqp://host", node_id="a"))
    kombu = [(", ".join(f"`{scheme}`" for scheme in schemes_of(one)) or "any other", one.features) for one in KNOWN]
    return [("`amqp`, `amqps`", rabbitmq), ("`[directory]`", DIRECTORY), ("`[peers]`", HTTP), *kombu]


def generated() -> str:
    """Return the page's generated part."""
    lines = [
        f"| transport | URL scheme or section | {' | '.join(PROMISES.values())} | largest message |",
        f"| --- | --- | {' | '.join('---' for _ in PROMISES)} | --- |",
    ]
    for configured, features in documented():
        promises = ("yes" if getattr(features, name) else "no" for name in PROMISES)
        largest = f"{features.max_message_bytes:,} bytes" if features.max_message_bytes else "no limit of its own"
        lines.append(f"| {features.name} | {configured} | {' | '.join(promises)} | {largest} |")
    for _, features in documented():
        lines += ["", f"### {features.name}", "", *(f"- {note[0].upper()}{note[1:]}" for note in features.notes)]
    return "\n".join(lines) + "\n"


def test_the_page_says_what_the_records_say() -> None:
    page = PAGE.read_text()
    found = page[page.index(BEGIN) + len(BEGIN) : page.index(END)]
    assert found == f"\n{generated()}\n", "run `python -m tests.docs.test_transports_doc`"


def test_the_page_s_file_name_is_one() -> None:
    name = file_name("store-042", "0f3a", 101, 103, "gzip")
    assert f"main/{name}" in PAGE.read_text()
    assert parse_name("main", name) is not None


def main() -> None:
    """Write the generated part anew."""
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    PAGE.write_text(f"{before}\n{generated()}\n{after}")


if __name__ == "__main__":
    main()
