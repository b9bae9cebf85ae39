"""How files and folders of a shared directory are called, and what the directory promises."""

import re
from dataclasses import dataclass
from functools import cached_property

from common.ids import NODE_ID
from common.ports.sink import TransportFeatures
from common.wire.compress import Encoding, encoding_of
from common.wire.records import MAX_LSN

ACKS_NAME = "acks.json"
_ENDINGS: dict[Encoding | None, str] = {None: ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}
_PATTERN = re.compile(
    r"(?P<origin>[A-Za-z0-9_-]{1,64})\.(?P<incarnation>[A-Za-z0-9_-]{1,64})"
    r"\.(?P<from_lsn>[0-9]{20})-(?P<to_lsn>[0-9]{20})\.jsonl(?:\.gz|\.zst)?\Z"
)

FEATURES = TransportFeatures(
    name="directory",
    durable=True,
    ordered=True,
    confirms=True,
    redelivers=True,
    notices_unroutable=False,
    authenticated=False,
    max_message_bytes=None,
    notes=(
        "Confirmed means: file and folder are synced. What a sync is worth on a network share or a synced folder is "
        "up to that share.",
        "Whoever may write to the folder may write as any node.",
        "Files wait until every known peer has passed them, or for `keep_days`. Known is who was heard of, is named in "
        "the configuration, or has a folder there; not who was retired.",
        "A share without locks or hard links (FAT, some network shares) is served too; then two processes of one node "
        "must not write at the same time.",
    ),
)


@dataclass(frozen=True)
class BatchFile:
    """A file that holds batches, as its name tells."""

    writer: str
    """The folder: the node that wrote the file, itself or as a forwarder."""
    name: str
    origin: str
    incarnation: str
    from_lsn: int
    to_lsn: int

    def __hash__(self) -> int:
        # A text's own is kept, that of all fields is not; and all lists of a node hold the same objects.
        return hash(self.name)

    @property
    def encoding(self) -> Encoding | None:
        return encoding_of(self.name)

    @cached_property
    def order(self) -> tuple[str, str, int, int, str]:
        """What files are read by: each incarnation from its oldest LSN on."""
        return (self.origin, self.incarnation, self.from_lsn, self.to_lsn, self.writer)

    def __str__(self) -> str:
        return f"{self.writer}/{self.name}"


def is_place_in_folder(text: str) -> bool:
    """Tell whether this is how a file of ours is called within the shared folder: `str` of a `BatchFile`."""
    writer, slash, name = text.partition("/")
    return bool(slash) and is_writer_folder(writer) and parse_name(writer, name) is not None


def file_name(origin: str, incarnation: str, from_lsn: int, to_lsn: int, encoding: Encoding | None) -> str:
    """Return the name of the file for these LSNs."""
    return f"{origin}.{incarnation}.{from_lsn:020d}-{to_lsn:020d}{_ENDINGS[encoding]}"


def parse_name(writer: str, name: str) -> BatchFile | None:
    """Return what a file's name tells, or None when it is not one of ours."""
    found = _PATTERN.match(name)
    if not found:
        return None
    from_lsn, to_lsn = int(found["from_lsn"]), int(found["to_lsn"])
    if not 0 < from_lsn <= to_lsn <= MAX_LSN:
        return None
    return BatchFile(writer, name, found["origin"], found["incarnation"], from_lsn, to_lsn)


def is_writer_folder(name: str) -> bool:
    """Tell whether a folder's name is a node id."""
    return NODE_ID.match(name) is not None


def same_node(one: str, other: str) -> bool:
    """Tell whether two ids name one node: they are unique ignoring case, and so are folders on some shares."""
    return one.casefold() == other.casefold()
