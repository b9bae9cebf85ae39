"""The producer's commands: `export-change-log` and `push`."""

from pathlib import Path
from typing import Any

import click

from common.console import Console, counted
from common.errors import UsageError
from common.ops.status_words import A_COPY
from common.runtime.host import ExitCode, Host, current_host
from common.wire.records import MAX_LSN
from producer.clients import Clients
from producer.export import STDOUT, Export, Request, export

_DUE = "A pull is due first: {}. Pushing anyway."
_LSN = click.IntRange(0, MAX_LSN)
DEFAULT_CLIENT = "file"
"""Who is given what `push --file` writes when nobody is named."""


@click.command("export-change-log", short_help="Write this node's changes to a file.")
@click.option("--out", required=True, metavar="FILE|DIR", help="Where to write; - for stdout.")
@click.option("--since", type=_LSN, metavar="LSN", help="Export the whole txs that end after this LSN.")
@click.option("--client", metavar="NAME", help="Start from this client's last_lsn instead.")
def export_change_log(out: str, since: int | None, client: str | None) -> None:
    """Write this node's changes to a file: whole transactions, in order.

    Moves no cursor, so it can be repeated and gives the same bytes. FILE is replaced only once the new one is complete
    and on disk; a name that ends in .gz or .zst is compressed. In a DIR (one that exists, or ends in /) the file is
    named NODE.INCARNATION.FROM-TO.jsonl; if there is nothing to export, no file is written there.
    LSNs count within the node's present incarnation. Without --since, what earlier incarnations left in the log is
    exported too.
    """
    host = current_host()
    if since is not None and client is not None:
        raise UsageError("--since and --client both say where to start: give one of them")
    if out == STDOUT and host.console.json:
        raise UsageError("--out - and --json both write to stdout: give one of them")
    with host.node() as node:
        done = export(node, Request(out, since or 0, client), host)
    if out != STDOUT:
        _report(host, done, {})
    elif done.gone_until_lsn is not None:
        _warn_of_gone(host, done.gone_until_lsn)


@click.command(short_help="Send what a client or a peer doesn't have yet.")
@click.option("--file", "out", metavar="FILE|DIR", help="Where to write what the client doesn't have yet.")
@click.option("--url", metavar="URL", help="Peer to send to, such as https://main.example:8443.")
@click.option("--client", default=DEFAULT_CLIENT, show_default=True, metavar="NAME", help="Who the file is for.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="File with the token. Default: from [peers] with this url."
)
@click.option("--force", is_flag=True, help="Replace FILE even if it holds what was written before.")
def push(out: str | None, url: str | None, client: str, token_file: Path | None, force: bool) -> None:
    """Send a client (by file) or a peer (over HTTP) what it doesn't have yet, and record that in `rf_sync_state`.

    Warns if a pull is due first: if nothing has come in since the last push to this client, or nothing ever has; or if
    the peer has changes that have not come here. There are fewer conflicts if you have the others' changes before they
    get yours.

    A FILE that is not empty is not replaced, because its contents would not be sent again: exit code 1, and nothing is
    recorded. In a DIR each file is named by its LSNs. If there is nothing new, FILE stays as it is.
    """
    host = current_host()
    if (out is None) == (url is None):
        raise UsageError("say where to push to: --file FILE or --url URL")
    if url is not None and force:
        raise UsageError("--force is for files: a peer says itself what it lacks")
    if url is not None:
        _push_to(host, url, token_file)
    else:
        _push_file(host, out or "", client, force=force)


def _push_to(host: Host, url: str, token_file: Path | None) -> None:
    # Not at the top: what writes files needs no HTTP.
    from common.transports.http.settings import settings_for_url
    from producer.pushing import push_to, tell_set_aside

    with host.node() as node:
        settings = settings_for_url(node.config, url, token_file)
        report = push_to(node, settings, lambda: host.console.warn(_DUE.format("this peer has changes of its own")))
    if report.set_aside or report.met:
        host.exit_code = ExitCode.SET_ASIDE
    if report.gone_until_lsn is not None:
        _warn_of_gone(host, report.gone_until_lsn)
    for sentence in tell_set_aside(report):
        host.console.warn(sentence)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.items()) or "Nothing to push"
    host.emit(report.document(), lambda console: console.say(f"{counts}."))


def _push_file(host: Host, out: str, client: str, *, force: bool) -> None:
    if out == STDOUT:
        raise UsageError("push records what was sent, so it needs a file: use export-change-log for stdout")
    with host.node() as node:
        clients = Clients(node.database, node.clock)
        due = clients.pull_is_due(client)
        if due:
            host.console.warn(_DUE.format(f"nothing has come in since the last push to {client}, or ever"))
        done = export(node, Request(out, client=client, replace=force), host)
        # After the file is durable: a crash between the two gives the same changes once more, which is harmless.
        clients.give(client, done.given)
    _report(host, done, {"client": client, "pull_due": due})


def _report(host: Host, done: Export, more: dict[str, Any]) -> None:
    if done.gone_until_lsn is not None:
        _warn_of_gone(host, done.gone_until_lsn)
    document = done.document() | more
    host.emit(document, lambda console: _tell(console, done))


def _warn_of_gone(host: Host, until_lsn: int) -> None:
    host.console.warn(
        f"The log is purged up to LSN {until_lsn}, and what is gone is not in this: a node without it needs {A_COPY}."
    )


def _tell(console: Console, done: Export) -> None:
    for one in done.written:
        stretch = one.stretch
        if stretch.txs:
            console.say(f"LSN {stretch.from_lsn} to {stretch.to_lsn} of incarnation {stretch.incarnation}: {one.file}")
    txs, changes = counted(done.txs, "transaction", "transactions"), counted(done.changes, "change", "changes")
    console.say(f"{txs}, {changes}." if done.txs else "Nothing to export.")
