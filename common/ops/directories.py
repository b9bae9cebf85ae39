"""The folder that the nodes share: `migrate` makes it, `run` never does, for it may be a share that is not mounted."""

from pathlib import Path

import sqlalchemy as sa

from common.clock import to_iso
from common.config.model import Config
from common.ops.stalls import read_seen
from common.schema import tables as rf
from common.transports.directory.scan import members
from common.transports.files import make_folder, storage_outage

FOLDER = "folder"
"""What `rf_watch` calls the node's own folder: its bytes, its files, when the oldest was written, and (`still_us`) when
another node was last seen to have a folder beside it."""


def missing_root(config: Config) -> Path | None:
    """Return the configured folder where nothing stands in its place."""
    if config.directory is None or config.directory.path.exists():
        return None
    return config.directory.path


def make_root(folder: Path) -> None:
    """Make the shared folder, and those above it that are missing, durably. Raises OutageError."""
    try:
        make_folder(folder, create_root=True)
    except OSError as error:
        raise storage_outage(error, folder, "making the shared folder") from error


def alone(connection: sa.Connection, config: Config) -> str:
    """Say that all other nodes' folders are gone: where a share is not mounted the empty folder below it stands there,
    and what is written into it reaches nobody. Nothing where that is not so, or the folder can't be seen."""
    seen = read_seen(connection).get(FOLDER)
    if config.directory is None or seen is None or seen.still_us is None:
        return ""
    # Who only reads there was never heard of; but whoever was retired is known.
    retired = list(connection.scalars(sa.select(rf.node.c.retired_us).where(rf.node.c.is_self.is_(False))))
    try:
        if members(config.directory.path, config.node.id) or (retired and None not in retired):
            return ""
    except OSError:
        return ""
    return (
        f"no other node has a folder in {config.directory.path} any more (at {to_iso(seen.still_us)} some had): see "
        "whether the share is mounted there; once it is, what was written beside it is written again"
    )
