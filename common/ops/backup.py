"""Backups of a node: a folder with a copy of the database and what it is, and putting one back.

The copy is whole before `backup.json` names it, with its checksum: a folder without that is no backup."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from common.clock import Clock, to_iso
from common.config.model import Config
from common.dialects import open_database
from common.errors import ConfigError, PreflightError, RowferryError, UsageError
from common.ids import new_incarnation
from common.ports.backup import Advance, Backups, Holds
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import revision
from common.schema import tables as rf
from common.transports.files import remove_abandoned, replace_file_durably, storage_outage, sync_folder

MANIFEST = "backup.json"
_FORMAT = "rowferry-backup"
_VERSION = 1
_BLOCK = 1024 * 1024


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What `backup.json` says."""

    format: str = _FORMAT
    version: int = _VERSION
    node: str
    dialect: str
    file: str
    bytes: int
    sha256: str
    incarnation: str
    last_lsn: int
    last_tx_id: str | None
    made_at: str
    revision: str
    rowferry: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back, and in the place of what."""

    manifest: Manifest
    to_incarnation: str
    kept: Path | None
    """The backup of what stood there; None where nothing did, or nobody wanted it."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "node": self.manifest.node,
            "made_at": self.manifest.made_at,
            "last_lsn": self.manifest.last_lsn,
            "from_incarnation": self.manifest.incarnation,
            "to_incarnation": self.to_incarnation,
            "kept": None if self.kept is None else str(self.kept),
        }


def back_up(database: Database, folder: Path, clock: Clock, actor: str, advance: Advance) -> Manifest:
    """Back up a node's database into a new or empty folder.

    Raises UsageError, OutageError (database), RowferryError (the folder can't be written)."""
    manifest = _write(database, folder, clock, advance)
    detail = {"incarnation": manifest.incarnation, "last_lsn": manifest.last_lsn, "sha256": manifest.sha256}
    line = _audit(clock, actor, "backed-up", manifest.node, detail)
    in_transaction(database, lambda connection: connection.execute(line))
    return manifest


def put_back(
    config: Config, folder: Path, clock: Clock, actor: str, advance: Advance, *, keep: bool = True
) -> Restored:
    """Put a backup in the place of the configured database, and begin a new incarnation with it, all at once.

    `keep`: what stands there is backed up first, beside `folder`. Raises PreflightError where the backup is not whole,
    UsageError where it does not belong here, OutageError."""
    manifest = _checked(folder, advance)
    database = open_database(config.node.database)
    try:
        _fits(manifest, config, database)
        backups = database.backups()
        kept = _keep(database, backups, config, folder, clock, advance) if keep else None
        incarnation = new_incarnation()
        backups.put_back(folder / manifest.file, _news(manifest, incarnation, clock, actor), advance)
    except OSError as error:
        raise storage_outage(error, Path(error.filename or folder), "putting back to") from error
    finally:
        database.close()
    return Restored(manifest, incarnation, kept)


def _write(database: Database, folder: Path, clock: Clock, advance: Advance) -> Manifest:
    backups, is_new = database.backups(), not folder.exists()
    try:
        _make_room(folder, backups.file_name)
        try:
            return _copied(database, backups, folder, clock, advance)
        except BaseException:
            _take_away(folder, backups.file_name, is_new=is_new)
            raise
    except OSError as error:
        # As of every export: the node goes on, the command has failed.
        raise RowferryError(str(storage_outage(error, folder, "writing a backup into"))) from error


def _copied(database: Database, backups: Backups, folder: Path, clock: Clock, advance: Advance) -> Manifest:
    made_us = clock.now_us()
    file = folder / backups.file_name
    moment = backups.copy(file, advance)
    file.chmod(0o600)
    manifest = Manifest(
        node=moment.node_id,
        dialect=database.features.name,
        file=file.name,
        bytes=file.stat().st_size,
        sha256=_sha256_of_synced(file),
        incarnation=moment.incarnation,
        last_lsn=moment.last_lsn,
        last_tx_id=moment.last_tx_id,
        made_at=to_iso(made_us),
        revision=moment.revision,
        rowferry=version("rowferry"),
    )
    replace_file_durably(folder / MANIFEST, json.dumps(manifest.as_dict(), indent=2).encode() + b"\n")
    sync_folder(folder.resolve().parent)
    return manifest


def _take_away(folder: Path, file_name: str, *, is_new: bool) -> None:
    """Leave nothing of a backup that failed: what filled a disk would keep it full, for the next one too."""
    with suppress(OSError):
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in list(folder.iterdir()):
            if path.name.startswith(file_name):
                path.unlink()
        if is_new:
            folder.rmdir()


def _make_room(folder: Path, file_name: str) -> None:
    """Make the folder, for this account alone: all of the node's data will be in it. What a backup that was cut off
    has left there goes."""
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
    remove_abandoned(folder)
    there = {path.name for path in folder.iterdir()}
    left = {name for name in there if name.startswith(file_name)}
    if there - left:
        raise UsageError(f"{folder} is not empty: each backup needs its own folder, so name another one")
    for name in left:
        (folder / name).unlink()


def _checked(folder: Path, advance: Advance) -> Manifest:
    """Read a backup through before anything is done with it."""
    path = folder / MANIFEST
    if not folder.exists():
        raise UsageError(f"{folder}: there is no such folder")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        if (manifest.format, manifest.version) != (_FORMAT, _VERSION) or Path(manifest.file).name != manifest.file:
            raise PreflightError(f"{path} is not of a backup that this release knows: use the release that made it")
        sha256 = _sha256(folder / manifest.file, advance)
    except msgspec.DecodeError as error:
        raise PreflightError(f"{path} is torn or altered ({error}): use another backup") from error
    except FileNotFoundError as error:
        text = "is not there: the folder holds no backup, or one that was cut off"
        raise PreflightError(f"{error.filename} {text}; use another one") from error
    except OSError as error:
        raise RowferryError(str(storage_outage(error, folder, "reading the backup in"))) from error
    if sha256 != manifest.sha256:
        raise PreflightError(
            f"{folder / manifest.file} is torn or altered: its checksum is different; use another backup"
        )
    return manifest


def _fits(manifest: Manifest, config: Config, database: Database) -> None:
    if manifest.node != config.node.id:
        raise UsageError(
            f"the backup is of node {manifest.node!r}, and the configuration of {config.node.id!r}: each node is"
            " restored from its own"
        )
    if manifest.dialect != database.features.name:
        raise UsageError(
            f"the backup is of a {manifest.dialect} database, and node.database is {database.features.name}"
        )
    if manifest.revision > revision.newest():
        raise UsageError(
            f"the backup is at revision {manifest.revision}, this release works with {revision.newest()}: use the"
            f" release that made it, {manifest.rowferry}, or a newer one"
        )


def _keep(
    database: Database, backups: Backups, config: Config, folder: Path, clock: Clock, advance: Advance
) -> Path | None:
    """Back up what stands there now, beside the backup that is put back. Return where."""
    found = backups.holds()
    if found is Holds.NOTHING:
        return None
    way_out = "--discard-present overwrites it"
    if found is Holds.UNREADABLE:
        raise UsageError(f"node.database: what is there is damaged, or not a database, and can't be kept; {way_out}")
    if found is Holds.OTHER_TABLES:
        raise UsageError(f"node.database: it has tables, but is not a node: is it the right one? {way_out}")
    there = backups.node_id()
    if there != config.node.id:
        raise ConfigError(f"node.database: it belongs to node {there!r}; correct node.id or node.database")
    stamp = datetime.fromtimestamp(clock.now_us() / 1_000_000, UTC).strftime("%Y%m%dT%H%M%S")
    kept = folder.resolve().parent / f"{folder.resolve().name}.before-restore-{stamp}"
    _write(database, kept, clock, advance)
    return kept


def _news(manifest: Manifest, incarnation: str, clock: Clock, actor: str) -> Sequence[sa.Executable]:
    """Return what is said in the database that is put back: it begins anew, and `rejoin` has something to settle."""
    values = {
        "incarnation": incarnation,
        # Of which file or server it is, it learns when it is opened.
        "server_identity": None,
        "rewound_us": clock.now_us(),
        "head_incarnation": manifest.incarnation,
        "head_lsn": manifest.last_lsn,
        "head_tx_id": manifest.last_tx_id,
    }
    detail = {"made_at": manifest.made_at, "from": manifest.incarnation, "to": incarnation}
    return (
        sa.update(rf.node).where(rf.node.c.is_self).values(values),
        _audit(clock, actor, "restored", manifest.node, detail),
    )


def _audit(clock: Clock, actor: str, action: str, node_id: str, detail: dict[str, Any]) -> sa.Executable:
    line = {"at_us": clock.now_us(), "actor": actor, "action": action, "source_node": node_id}
    return sa.insert(rf.audit).values(line | {"detail": json.dumps(detail)})


def _sha256(path: Path, advance: Advance) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _sha256_of_synced(path: Path) -> str:
    """Return the checksum of what is on the disk for good."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
    return _sha256(path, lambda _: None)
