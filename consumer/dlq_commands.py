"""`dlq`: what was set aside, why, and what to do with it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from common.console import Console
from common.errors import UsageError
from common.ops.export_files import refuse_wrapping
from common.runtime.host import ExitCode, Host, current_host
from common.runtime.node import Node
from consumer.dead_letters.desk import desk_of
from consumer.dead_letters.documents import letter_documents, result_document
from consumer.dead_letters.editing import read_edited
from consumer.dead_letters.grouping import by_reason
from consumer.dead_letters.meaning_one import refuse_several
from consumer.dead_letters.operations import DeadLetters, Replay, left_waiting
from consumer.dead_letters.renaming import Renames
from consumer.dead_letters.show import rows_document
from consumer.dead_letters.show import show as show_letter
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Selection
from consumer.dead_letters.who_has import what_it_means, who_has
from consumer.dlq_choosing import SOURCE, must_choose, selecting, selection_of, unknown
from consumer.dlq_telling import (
    NOTHING,
    tell_discarded,
    tell_groups,
    tell_letter,
    tell_letters,
    tell_replay,
    tell_settled,
)
from consumer.incoming import Result

_STDOUT = "-"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(short_help="Batches that could not be applied.")
def dlq() -> None:
    """Batches that could not be applied: list, show, replay, discard, export."""


@dlq.command("list", short_help="List dead letters, the open ones unless told otherwise.")
@selecting()
@click.option("--by", type=click.Choice(["reason"]), help="Count them by reason, and say what helps with each.")
def list_(by: str | None, **chosen: Any) -> None:
    """List dead letters: only open ones, unless --all or --state is given."""
    host = current_host()
    with _desk(host) as (node, desk):
        letters = desk.find(selection_of(node, chosen))
        if chosen["everything"] and chosen["state"] is None:
            letters = [one for state in LetterState for one in desk.find(selection_of(node, chosen | {"state": state}))]
    if by is None:
        host.emit(letter_documents(letters), lambda console: tell_letters(console, letters))
    else:
        groups = by_reason(letters)
        host.emit(groups, lambda console: tell_groups(console, groups))


@dlq.command(short_help="Show one: why it failed, what blocks it, what it would do.")
@click.argument("tx_id")
@click.option("--source", help="The node it is from, if two have the same id.")
def show(tx_id: str, source: str | None) -> None:
    """Show one dead letter: why it failed, what blocks it now, which rows it would change."""
    host = current_host()
    with _desk(host) as (node, desk):
        letters = desk.find(Selection(tx_ids=(tx_id,), source_node=source))
        if not letters:
            raise UsageError(unknown(tx_id))
        refuse_several(letters, SOURCE)
        document = show_letter(node, letters[0])
    host.emit(document, lambda console: tell_letter(console, document))


@dlq.command()
@selecting()
@click.option("--dry-run", is_flag=True, help="Try it, show which rows would change, and roll back.")
@click.option("--from-queue", is_flag=True, help="First restore letters that only the broker's dead queue still has.")
@click.option("--trust-source", is_flag=True, help="Also apply batches whose sender was not proven to be their source.")
@click.option("--in-pieces", is_flag=True, help="Apply the part of each that can be applied, and leave the rest open.")
@click.option("--edited", type=_FILE, help="Apply the dead letters in FILE, written by dlq export and edited by you.")
@click.option(
    "--rename",
    "renamed",
    multiple=True,
    metavar="OLD=NEW",
    help="Apply what they hold for OLD (a table or TABLE.COLUMN) to NEW, its name here; repeatable.",
)
@click.option(
    "--leave-out",
    "left_out",
    multiple=True,
    metavar="NAME",
    help="Leave out a table or TABLE.COLUMN that is gone here; repeatable.",
)
def replay(
    dry_run: bool,
    from_queue: bool,
    trust_source: bool,
    in_pieces: bool,
    edited: Path | None,
    renamed: tuple[str, ...],
    left_out: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Apply dead letters again. Only rows with a lower version change.

    With --edited, a row that you changed in the file becomes a new write of this node, which reaches every other node;
    a row that you removed from the file stays as it is here, on every node.

    With --rename and --leave-out, rows keep the versions they came with: the result is the same as if they had come
    under these names. Do it on every node that has such dead letters.
    """
    host = current_host()
    if in_pieces and dry_run:
        raise UsageError("--in-pieces has no dry run: dlq show says what would happen to each row")
    if edited is not None:
        if from_queue or trust_source or in_pieces or renamed or left_out or any(chosen.values()):
            raise UsageError("--edited takes its dead letters from the file: only --dry-run can be added")
        _replay_edited(host, edited, dry_run=dry_run)
        return
    if renamed or left_out:
        if from_queue or trust_source or in_pieces:
            raise UsageError("--rename and --leave-out take only --dry-run and the options that choose dead letters")
        _replay_renamed(host, Renames.read(renamed, left_out), chosen, dry_run=dry_run)
        return
    with _desk(host) as (node, desk):
        restored = desk.restore_from_queue() if from_queue else 0
        selection = must_choose(node, desk, chosen, everything=from_queue)
        letters = desk.find(selection)
        with host.progress(len(letters), "replaying") as bar:
            results = desk.replay(selection, Replay(host.actor, dry_run, trust_source, in_pieces), bar.advance)
        settled = [] if results else [letter for letter in desk.find(selection) if not letter.state.is_open]
        documents = _documents(node, results, dry_run=dry_run)
    if left_waiting(results) and not dry_run:
        host.exit_code = ExitCode.SET_ASIDE
    document = {"dry_run": dry_run, "restored": restored, "results": documents}
    host.emit(document, lambda console: tell_replay(console, documents, settled, dry_run=dry_run))


def _documents(node: Node, results: list[Result], *, dry_run: bool) -> list[dict[str, Any]]:
    """What became of each; of a dry run also what each would do to its rows."""
    documents = [result_document(one) for one in results]
    if not dry_run:
        return documents
    return [one | rows_document(node, result.incoming) for one, result in zip(documents, results, strict=True)]


def _replay_edited(host: Host, file: Path, *, dry_run: bool) -> None:
    batches = read_edited(file.read_bytes(), str(file))
    with _desk(host) as (_, desk), host.progress(len(batches), "replaying") as bar:
        found = desk.replay_edited(batches, Replay(host.actor, dry_run), bar.advance)
    if left_waiting([one.result for one in found]) and not dry_run:
        host.exit_code = ExitCode.SET_ASIDE
    documents = [result_document(one.result) | {"edited": [row.as_dict() for row in one.rows]} for one in found]
    document = {"dry_run": dry_run, "restored": 0, "results": documents}
    host.emit(document, lambda console: tell_replay(console, documents, [], dry_run=dry_run))


def _replay_renamed(host: Host, renames: Renames, chosen: dict[str, Any], *, dry_run: bool) -> None:
    with _desk(host) as (node, desk):
        selection = must_choose(node, desk, chosen)
        with host.progress(len(desk.find(selection)), "replaying") as bar:
            results = desk.replay_renamed(selection, renames, Replay(host.actor, dry_run), bar.advance)
        documents = _documents(node, results, dry_run=dry_run)
    if left_waiting(results) and not dry_run:
        host.exit_code = ExitCode.SET_ASIDE
    document = {"dry_run": dry_run, "restored": 0, "results": documents}
    host.emit(document, lambda console: tell_replay(console, documents, [], dry_run=dry_run))


@dlq.command()
@selecting("--with-reason")
@click.option("--reason", "because", metavar="TEXT", help="Why; recorded in the letter and in the audit. Required.")
def discard(because: str | None, **chosen: Any) -> None:
    """Discard dead letters for good. Their rows stay as they are."""
    host = current_host()
    if because is None:
        raise UsageError("discarding needs a reason: --reason TEXT")
    with _desk(host) as (node, desk):
        selection = must_choose(node, desk, chosen)
        letters = desk.discard(selection, because, host.actor)
        named = desk.find(selection) if selection.tx_ids and not letters else []
        settled = [letter for letter in named if not letter.state.is_open]
        having, limits = who_has(node, letters), what_it_means(node)
    document = {"discarded": letter_documents(letters)}

    def tell(console: Console) -> None:
        if letters:
            tell_discarded(console, letters, having, limits)
        else:
            tell_settled(console, settled)

    host.emit(document, tell)


@dlq.command(short_help="Write the bytes of dead letters to a file.")
@selecting()
@click.option("--out", required=True, metavar="FILE", help="File to write; it must not exist. - for stdout.")
def export(out: str, **chosen: Any) -> None:
    """Write the bytes of dead letters to a file, as they came: to look at, to import elsewhere, or to edit.

    Apply an edited file with `dlq replay --edited FILE`.
    """
    host = current_host()
    if out == _STDOUT and host.console.json:
        raise UsageError("--out - and --json both write to stdout: give one of them")
    refuse_wrapping(Path(out), wraps=False)
    with _desk(host) as (node, desk):
        letters = desk.find(must_choose(node, desk, chosen))
        with _stdout() if out == _STDOUT else _fresh_file(Path(out)) as write:
            for letter in letters:
                for batch in desk.batches(letter):
                    write(batch)
        desk.note_export(letters, out, host.actor)
    if out == _STDOUT:
        return
    document = {"file": out, "exported": len(letters)}
    host.emit(document, lambda console: console.say(f"{len(letters)} written to {out}" if letters else NOTHING))


@contextmanager
def _desk(host: Host) -> Iterator[tuple[Node, DeadLetters]]:
    with host.node() as node, desk_of(node) as desk:
        yield node, desk
    if desk.copies_stay is not None:
        host.console.warn(f"Done; the broker's copies stay until `rowferry run` reaches it: {desk.copies_stay}")
        host.exit_code = ExitCode.UNREACHABLE


@contextmanager
def _stdout() -> Iterator[Callable[[bytes], int]]:
    yield sys.stdout.buffer.write
    sys.stdout.buffer.flush()


@contextmanager
def _fresh_file(path: Path) -> Iterator[Callable[[bytes], int]]:
    try:
        with path.open("xb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise UsageError(f"{path} already exists") from error
