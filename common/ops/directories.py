"""The folder that the nodes share: `migrate` makes it, `run` never does, for it may be a share that is not mounted."""

from pathlib import Path

from common.config.model import Config
from common.transports.files import make_folder, storage_outage


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
