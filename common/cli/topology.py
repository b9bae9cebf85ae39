"""`rowferry topology`: RabbitMQ's definitions for all nodes, and what stands on the broker against what should.

The operation's modules are imported where they are used: pika takes a part of a second, which other commands need not
pay.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.config.load import read_secret_file
from common.console import Console
from common.errors import UsageError
from common.ids import NODE_ID
from common.runtime.host import ExitCode, Host, current_host

if TYPE_CHECKING:
    from common.ops.topology import Passwords
    from common.transports.rabbitmq.definitions import Document
    from common.transports.rabbitmq.findings import Finding

STDOUT = "-"
PASSWORDS_FILE = "rowferry-passwords.json"


@click.group(short_help="What should stand on RabbitMQ: export, check.")
def topology() -> None:
    """The RabbitMQ topology: export it for all nodes, check it for this one."""


@topology.command(short_help="Write the definitions for RabbitMQ.")
@click.option(
    "--nodes", multiple=True, metavar="A,B", help="Nodes to include; repeatable. Default: this one and its peers."
)
@click.option("--out", default=STDOUT, show_default=True, metavar="FILE", help="Where to write; - for stdout.")
@click.option(
    "--passwords",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"File with the users' passwords. Default: {PASSWORDS_FILE} beside the configuration.",
)
@click.option("--no-users", is_flag=True, help="Leave out users: they exist already, or sign in with certificates.")
def export(nodes: tuple[str, ...], out: str, passwords: Path | None, no_users: bool) -> None:
    """Write the definitions for RabbitMQ: a user with least rights for each node, exchanges, queues, bindings.

    Import them with `rabbitmqctl import_definitions FILE` or on the management page; an import changes no existing
    queue, and sets these passwords for existing users. Passwords are kept in a private file (a JSON object, node to
    password), never printed: those already in it are reused, new ones are made for the other nodes. A node whose id is
    the user in [broker] url keeps the password given there.
    """
    from common.ops import topology as ops

    host = current_host()
    if no_users and passwords is not None:
        raise UsageError("--no-users and --passwords: give one of them")
    settings = ops.rabbit_settings(host.config)
    chosen = _split(nodes) or _known(host)
    file = passwords or host.config_file.resolve().parent / PASSWORDS_FILE
    secrets = None if no_users else ops.passwords_for(chosen, settings, file)
    document = ops.export(host.config, chosen, secrets.known if secrets else {})
    if secrets is not None:
        # Before the definitions: a user whose password nobody knows is of no use.
        secrets.write()
    if out == STDOUT:
        host.console.print_json(document)
        _warn_of_passwords(host.console, secrets)
        return
    # For the owner alone as well: what the hashes are made from may be a person's own password.
    ops.write_private_json(Path(out), document)
    host.emit(_report(out, chosen, document, secrets), lambda console: _tell_export(console, out, chosen, secrets))


@topology.command(short_help="Compare what RabbitMQ has with what it should have.")
@click.option("--management", metavar="URL", help="Also use the management API, such as http://admin@host:15672.")
@click.option(
    "--password-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private file with the password for --management.",
)
def check(management: str | None, password_file: Path | None) -> None:
    """Compare what RabbitMQ has for this node with what it should have, and say how to fix it; changes nothing.

    Over AMQP, with the account in [broker] url: exchanges, queues and, if the account may declare, their arguments.
    With --management also bindings, policies and the node's permissions; if that URL has no user, with the account in
    [broker] url. Exit code 1 if something differs, 5 if the broker can't be reached.
    """
    from common.ops import topology as ops

    host = current_host()
    if password_file is not None and management is None:
        raise UsageError("--password-file is for --management: give both")
    password = read_secret_file(password_file, "--password-file") if password_file else None
    findings = ops.check(host.config, management, password)
    if ops.problems(findings):
        host.exit_code = ExitCode.FAILED
    host.emit({"findings": [_finding(one) for one in findings]}, lambda console: _tell_findings(console, findings))


def _known(host: Host) -> tuple[str, ...]:
    from common.ops.topology import known_nodes

    with host.node() as node:
        return known_nodes(node.config, node.database)


def _split(given: tuple[str, ...]) -> tuple[str, ...]:
    names = [name.strip() for one in given for name in one.split(",")]
    for name in names:
        if not NODE_ID.match(name):
            raise UsageError(f"--nodes {name!r}: a node's id is 1 to 64 letters, digits, - or _")
    return tuple(dict.fromkeys(names))


def _report(out: str, nodes: Sequence[str], document: "Document", secrets: "Passwords | None") -> dict[str, Any]:
    return {
        "file": out,
        "vhost": document["vhosts"][0]["name"],
        "nodes": list(nodes),
        "passwords": str(secrets.file) if secrets else None,
        "new_passwords": list(secrets.made) if secrets else [],
    }


def _tell_export(console: Console, out: str, nodes: Sequence[str], secrets: "Passwords | None") -> None:
    console.say(f"Wrote {out} for {', '.join(nodes)}; import it with rabbitmqctl import_definitions.")
    if secrets is not None:
        console.say(f"Each node signs in with its id as user and its password from {secrets.file}.")


def _warn_of_passwords(console: Console, secrets: "Passwords | None") -> None:
    if secrets is not None and secrets.made:
        console.warn(f"New passwords for {', '.join(secrets.made)} are in {secrets.file}, which only you can read")


def _finding(one: "Finding") -> dict[str, Any]:
    return {"kind": one.kind, "name": one.name, "state": one.state.value, "detail": one.detail, "remedy": one.remedy}


def _tell_findings(console: Console, findings: "Sequence[Finding]") -> None:
    from common.ops.topology import problems, unchecked

    wrong, unseen = problems(findings), unchecked(findings)
    for one in wrong:
        console.say(f"{one.state}: {one.kind} {one.name}: {one.detail}", style="bold red")
        console.say(f"  to fix it: {one.remedy}")
    for one in unseen:
        console.say(f"not checked: {one.kind} {one.name}: {one.detail}")
    for remedy in dict.fromkeys(one.remedy for one in unseen):
        console.say(f"  {remedy}")
    good = len(findings) - len(wrong) - len(unseen)
    console.say(f"{good} as they should be, {len(wrong)} to fix, {len(unseen)} not checked.")
