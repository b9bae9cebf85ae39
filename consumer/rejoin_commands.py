"""`rejoin`: after a restore, a clone or a rewind."""

import click

from common.console import Console, counted
from common.ops.status_words import A_COPY, NOR_HAVE_OTHERS
from common.runtime.host import ExitCode, current_host
from consumer.rejoining import Rejoined, Rejoining


@click.command(short_help="Bring the node back after a restore, copy or rewind.")
def rejoin() -> None:
    """Bring the node back after its database was restored, copied or rewound; nothing is lost silently.

    Preferably stop `rowferry run` first; if it is left running, it notices, and opens the node again.

    Fetches this node's own earlier changes from where they still are (the shared folder, a hub over HTTP), takes a new
    incarnation, writes again what only this node has, and reports both in numbers. What others wrote comes by itself
    with `rowferry run`. Exit code 4: others have received changes of this node that can't be fetched any more.
    """
    host = current_host()
    with host.node() as node, host.progress(None, "rejoining") as bar:
        done = Rejoining(node, host.actor).run(bar.advance)
    if done.missing_changes or done.unreadable_files:
        host.exit_code = ExitCode.SET_ASIDE
    host.emit(done.as_dict(), lambda console: _tell(console, done))


def _tell(console: Console, done: Rejoined) -> None:
    console.say(f"incarnation {done.from_incarnation} ends, {done.to_incarnation} begins")
    fetched, changes = done.fetched_txs, counted(done.fetched_changes, "change", "changes")
    console.say(f"{counted(fetched, 'own transaction', 'own transactions')} ({changes}) fetched again")
    console.say(_only_here(done))
    if not done.is_told:
        console.warn(
            "it is not known yet how far other nodes have this node's log: their heartbeats say so, once a minute, to"
            " `rowferry run`. Let it run for some minutes; if `rowferry status` then says that this node was restored,"
            " rejoin again"
        )
    if done.missing_changes:
        console.warn(
            # They may be of several logs, and an LSN of one says nothing of another.
            f"{counted(done.missing_changes, 'own change', 'own changes')} can no longer be recovered: others have what"
            f" was written, and this node does not; it needs {A_COPY}. {NOR_HAVE_OTHERS}. `rowferry status` says so"
            " for a week"
        )
    for peer, missing in done.others_missing.items():
        lacked = counted(missing, f"change of {peer} is", f"changes of {peer} are")
        console.warn(f"{lacked} no longer here; `rowferry status` says how to get them")
    for why in done.peers_not_asked:
        console.warn(f"nothing could be fetched from {why}")
    for file in done.unreadable_files:
        console.warn(f"{file} is torn or altered: what it held was left out")
    console.say("What others wrote meanwhile arrives with `rowferry run`; `rowferry status` shows what is missing.")


def _only_here(done: Rejoined) -> str:
    if not done.only_here_txs:
        return "no transaction is on this node alone"
    return (
        f"{counted(done.only_here_txs, 'transaction', 'transactions')} only on this node:"
        f" {counted(done.only_here_rows, 'row is', 'rows are')} written again for all nodes, the other rows were"
        " written later elsewhere"
    )
