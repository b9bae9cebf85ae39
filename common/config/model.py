"""The configuration tree. Each class is a section of `rowferry.toml`; `docs/reference/configuration.md` explains it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from common.config.proxies import check_proxy
from common.config.schema_histories import why_left_out
from common.config.urls import check_broker_url, check_peer_url
from common.ports.key_share import KeyShare
from common.ports.rules import Rules
from common.wire.signing import Signer, Trust, key_id

NodeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Channel = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
PositiveSeconds = Annotated[float, Field(gt=0, le=31_536_000)]
PositiveDays = Annotated[float, Field(gt=0, le=3_650)]
_MIB = 1024 * 1024
ManyBytes = Annotated[int, Field(ge=_MIB, le=2**63 - 1)]
"""At least a MiB, and no more than a broker or a database counts."""
BACKENDS = ("sqlite", "postgresql")
"""The databases that this release knows."""
TLS_FILES = ("tls_ca_file", "tls_cert_file", "tls_key_file")
"""The settings of `[broker]` that name files."""
SERVER_FILES = ("tls_cert_file", "tls_key_file")
"""Those of `[server]`."""
NO_PATH = "must be a path; to go without one, leave the setting out"


def _is_number(kind: object) -> bool:
    """Tell whether a field takes a number, also where it may be left out."""
    return kind in (int, float) or any(map(_is_number, get_args(kind)))


class Section(BaseModel):
    """What all sections share: frozen, unknown keys refused."""

    # What was given may be a secret: the sentence about it shows it masked, a traceback not at all.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth(cls, value: object, info: ValidationInfo) -> object:
        """Python takes true for 1; in a file it is a slip."""
        if isinstance(value, bool) and _is_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("must be a number")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _is_a_name(cls, value: object, info: ValidationInfo) -> object:
        """An empty path is the configuration's own folder, which nobody means."""
        is_path = Path in (kind := cls.model_fields[str(info.field_name)].annotation, *get_args(kind))
        if is_path and isinstance(value, str) and (not value or "\0" in value):
            raise ValueError(NO_PATH)
        return value


def _private_key(text: str) -> str:
    Signer(text)
    return text


def _public_keys(given: object) -> object:
    """One key may stand without a list."""
    return (given,) if isinstance(given, str) else given


def _public_key(text: str) -> str:
    key_id(text)
    return text


PublicKeys = Annotated[
    tuple[Annotated[str, AfterValidator(_public_key)], ...], BeforeValidator(_public_keys), Field(min_length=1)
]


class Policy(StrEnum):
    """Who wins a conflict in a table."""

    LWW = "lww"
    """The later write."""
    MAIN_WINS = "main-wins"
    """The main node's, over every write that was made without having seen it."""
    APPEND_ONLY = "append-only"
    """Of two inserts the later; rows are never updated or deleted, and a guard sees to that."""
    MANUAL = "manual"
    """Whichever somebody chooses: until then the row stays, and the change waits."""


class KeyRule(StrEnum):
    """Who gives the keys of a table that numbers its rows by itself."""

    STRIDE = "stride"
    """Each node, from a share of its own."""
    SHARED = "shared"
    """The application, which takes care that no two nodes give the same one."""
    MAIN_ONLY = "main-only"
    """The main node alone; a branch refuses an insert that leaves its key to the database."""


class NodeSection(Section):
    """Who this node is, and its database."""

    id: NodeId
    role: Literal["main", "branch"] = "branch"
    database: Annotated[str, Field(min_length=1)]
    main: NodeId | None = None
    auto_migrate: bool = True
    forward: bool | None = None
    """Whether other nodes' batches are handed on; None: the main node does."""
    number: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Which share of the keys is this node's."""
    signing_key: Annotated[str, AfterValidator(_private_key)] | None = None
    """Its private key: with it everything that the node says is signed."""
    require_signed: bool = False
    """Refuse what is not signed by a key in `[signers]`, whoever sends it."""

    @field_validator("database")
    @classmethod
    def _is_url(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if not separator:
            raise ValueError('must be an SQLAlchemy URL, like "sqlite:///store.db" or "postgresql://user@host/name"')
        backend = scheme.partition("+")[0]
        if backend not in BACKENDS:
            raise ValueError(f"{backend!r} is not supported; supported are {' and '.join(BACKENDS)}")
        if backend == "sqlite" and rest.partition("?")[0] in ("", "/", "/:memory:"):
            raise ValueError('an in-memory database can\'t be shared; give a file, like "sqlite:///store.db"')
        return value


def _policies(value: dict[str, Policy]) -> dict[str, Policy]:
    return dict(value)


class TablesSection(Section):
    """Which tables travel, and by which rules."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    policy: Annotated[dict[str, Policy], AfterValidator(_policies)] = Field(default_factory=dict)
    keys: dict[str, KeyRule] = Field(default_factory=dict)
    key_nodes: Annotated[int, Field(ge=2, le=1024)] = 64
    """Among how many nodes keys are shared out."""
    key_bits: Annotated[int, Field(ge=31, le=63)] = 53
    """Keys stay below two to the power of this."""
    foreign_keys: Literal["check", "ignore"] = "check"

    def wants(self, table: str) -> bool:
        """Tell whether `table` (its wire name) is among the configured ones."""
        if table in self.exclude:
            return False
        return table in self.include or ("*" in self.include and why_left_out(table) is None)

    def policy_for(self, table: str) -> Policy:
        """Return the policy of `table`; `lww` unless it is named."""
        return self.policy.get(table, Policy.LWW)

    def with_keys(self, rule: KeyRule) -> frozenset[str]:
        """Return the tables whose keys are given so."""
        return frozenset(table for table, one in self.keys.items() if one is rule)

    def main_wins_as(self, role: str) -> frozenset[str]:
        """Return the tables in which a node of this role goes above who has not seen its writes (`NodeFacts`)."""
        if role != "main":
            return frozenset()
        return frozenset(table for table, policy in self.policy.items() if policy is Policy.MAIN_WINS)


class BrokerSection(Section):
    """The message broker. `amqp://` and `amqps://` go to RabbitMQ through pika, any other scheme to kombu."""

    url: Annotated[str, Field(min_length=1)]
    channel: Channel = "default"
    listen: tuple[NodeId, ...] = ()
    prefetch: Annotated[int, Field(ge=1, le=10_000)] = 200
    prefetch_bytes: ManyBytes = 64 * _MIB
    """How much of these is held in memory."""
    max_message_bytes: Annotated[int, Field(ge=64 * 1024, le=512 * _MIB)] = 16 * _MIB
    queue_max_bytes: ManyBytes = 8 * 1024 * _MIB
    queue_expires_seconds: PositiveSeconds = 14 * 86_400
    verify_user: bool = False
    compression: Literal["auto", "none", "gzip", "zstd"] = "auto"
    blocked_timeout_seconds: PositiveSeconds = 30
    heartbeat_seconds: Annotated[int, Field(ge=2, le=600)] = 30
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    peers: tuple[NodeId, ...] = ()

    @field_validator("url")
    @classmethod
    def _has_scheme(cls, value: str) -> str:
        check_broker_url(value)
        return value

    @field_validator(*TLS_FILES)
    @classmethod
    def _is_used(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        if urlsplit(info.data.get("url", "amqps:")).scheme != "amqps":
            raise ValueError("works only with amqps://; change the scheme of broker.url, or remove it")
        if info.field_name == "tls_key_file" and info.data.get("tls_cert_file", value) is None:
            raise ValueError("needs the certificate that it belongs to: set tls_cert_file")
        return value

    @property
    def is_rabbitmq(self) -> bool:
        """Whether pika drives this broker."""
        return urlsplit(self.url).scheme in ("amqp", "amqps")


class DirectorySection(Section):
    """A folder that nodes share."""

    path: Path
    settle: PositiveSeconds = 600
    keep_days: PositiveSeconds = 30
    max_bytes: ManyBytes = 10 * 1024 * _MIB
    """How much of the folder this node's own files may take, where no known peer lacks them."""
    compression: Literal["none", "gzip", "zstd"] = "none"
    poll_seconds: PositiveSeconds = 1.0


class FallbackSection(Section):
    """When files are written beside a broker that is away."""

    after: PositiveSeconds = 60


class PeerSection(Section):
    """An HTTP peer to push to and pull from."""

    url: Annotated[str, Field(min_length=1)]
    token_file: Path | None = None
    trusted_forwarder: bool | None = None
    """Whether it may hand on other nodes' batches; None: the main node may, to branches."""
    tls_ca_file: Path | None = None
    compression: Literal["none", "gzip", "zstd"] = "zstd"
    plain_http: bool = False
    """Show the token to another machine without TLS."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        check_peer_url(value)
        return value


class ServerSection(Section):
    """Where this node answers HTTP, and what it takes there."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8765
    """0: any that is free."""
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    proxies: tuple[str, ...] = ()
    """Addresses and networks whose word on where a request comes from is taken; they do TLS."""
    plain_http: bool = False
    max_body_bytes: ManyBytes = 64 * _MIB
    """Of one push, as it travels."""
    max_stream_bytes: ManyBytes = 1024 * _MIB
    """Of one push, decompressed."""
    slow_seconds: PositiveSeconds = 30
    body_seconds: PositiveSeconds = 3600
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = 500

    @field_validator("tls_key_file")
    @classmethod
    def _has_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert_file") is None:
            raise ValueError("needs the certificate that it belongs to: set tls_cert_file")
        return value

    @field_validator("proxies")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            check_proxy(one)
        return value


class LimitsSection(Section):
    """Sizes and patience."""

    max_batch_bytes: Annotated[int, Field(ge=4096, le=64 * _MIB)] = 4 * _MIB
    message_bytes: Annotated[int, Field(ge=4096, le=16 * _MIB)] = 256 * 1024
    """Under a backlog, small txs share one message up to about this size."""
    group_changes: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Changes applied in one commit at most, unless one tx is larger."""
    early_seconds: PositiveSeconds = 86_400
    """How long a tx waits for the parent rows it points to."""
    seal_interval_seconds: PositiveSeconds = 0.2
    """How long the sealer waits when it found nothing."""
    announce_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60
    """How often this node says that it is there, and how far its log goes; 0: never."""
    gap_seconds: PositiveSeconds = 30
    """How long what is missing of a source's log may be on its way before the source is asked for it."""
    stall_seconds: PositiveSeconds = 300
    """How long work may wait without any of it being done before that is a stall."""
    tombstone_days: PositiveDays = 90
    """How long a deleted row is remembered at least (see `RetentionSection`)."""
    relay_days: PositiveDays = 30
    """How long other nodes' batches are kept for peers that did not take them."""
    relay_max_bytes: ManyBytes = 4 * 1024 * _MIB
    """How much of them."""
    future_seconds: PositiveSeconds = 300
    """How far another node's clock may be ahead of this one's before it is reported."""


class RetentionSection(Section):
    """How long what nobody needs for the work is kept. `limits.tombstone_days` belongs to it."""

    every_hours: Annotated[float, Field(ge=0, le=8_760)] = 1
    """How often `run` purges by itself; 0: never."""
    log_days: PositiveDays = 30
    """The sealed log: others may ask for it so long."""
    log_max_days: Annotated[PositiveDays, Field(validate_default=True)] = 90
    """The log goes at this age, also where a sink, a peer or a client has not taken it; that is reported."""
    dedup_days: PositiveDays = 90
    """Which txs were applied, by name; at or below the watermark, which tells duplicates afterwards."""
    conflict_days: PositiveDays = 365
    """Settled conflicts, and choices that nobody needs any more."""
    dead_letter_days: PositiveDays = 365
    """Dead letters that were replayed or discarded; open ones stay."""
    part_days: PositiveDays = 7
    """Parts of a large transaction whose rest did not come, though what follows it was applied since, as long ago."""
    audit_days: PositiveDays = 365

    @field_validator("log_max_days")
    @classmethod
    def _is_longest(cls, value: float, info: ValidationInfo) -> float:
        least = info.data.get("log_days", 0)
        if value < least:
            raise ValueError(f"must not be smaller than retention.log_days ({least:g})")
        return value


class TracingSection(Section):
    """What this node tells OpenTelemetry."""

    enabled: bool = False
    """Spans for what is published and applied; needs the extra `rowferry[otel]`."""


class Config(Section):
    """The whole of `rowferry.toml`."""

    node: NodeSection
    tables: TablesSection = TablesSection()
    broker: BrokerSection | None = None
    directory: DirectorySection | None = None
    fallback: FallbackSection = FallbackSection()
    limits: LimitsSection = LimitsSection()
    retention: RetentionSection = RetentionSection()
    server: ServerSection = ServerSection()
    tracing: TracingSection = TracingSection()
    peers: dict[NodeId, PeerSection] = Field(default_factory=dict)
    signers: dict[NodeId, PublicKeys] = Field(default_factory=dict)
    """By node, the public keys by which what it says is known; several while one is being replaced."""

    @field_validator("signers")
    @classmethod
    def _are_told_apart(cls, value: dict[str, PublicKeys]) -> dict[str, PublicKeys]:
        names: dict[str, str] = {}
        for name in value:
            other = names.setdefault(name.lower(), name)
            if other != name:
                raise ValueError(f"{other} and {name} are the same node: names are not case-sensitive")
        return value

    @property
    def rules(self) -> Rules:
        """What capture installs beside itself."""
        tables = self.tables
        append_only = frozenset(table for table, policy in tables.policy.items() if policy is Policy.APPEND_ONLY)
        main_only = tables.with_keys(KeyRule.MAIN_ONLY) if self.node.role == "branch" else frozenset()
        if self.node.number is None:
            return Rules(append_only, no_own_keys=main_only)
        share = KeyShare(self.node.number, tables.key_nodes, tables.key_bits)
        return Rules(append_only, tables.with_keys(KeyRule.STRIDE), share, main_only)

    def signer(self) -> Signer | None:
        """Return what signs for this node; None where it has no key."""
        return None if self.node.signing_key is None else Signer(self.node.signing_key)

    def trust(self) -> Trust:
        """Return by which signatures nodes are known here. What this node itself has said may come back to it."""
        signer = self.signer()
        own = {} if signer is None else {self.node.id: (signer.public, *self.signers.get(self.node.id, ()))}
        return Trust({**self.signers, **own}, required=self.node.require_signed)

    @property
    def forwards(self) -> bool:
        """Whether this node hands other nodes' batches on."""
        return self.node.role == "main" if self.node.forward is None else self.node.forward

    @property
    def named_nodes(self) -> frozenset[str]:
        """The other nodes that it names as those it talks to."""
        named = {*self.peers, *self.signers, *({self.node.main} if self.node.main else ())}
        if self.broker is not None:
            named |= {*self.broker.peers, *self.broker.listen}
        return frozenset(named - {self.node.id})

    @model_validator(mode="after")
    def _number_fits(self) -> "Config":
        number, nodes = self.node.number, self.tables.key_nodes
        if number is None and self.tables.with_keys(KeyRule.STRIDE):
            raise ValueError(
                f"node.number is missing: with tables.keys = stride each node needs its own number, 1 to {nodes}"
            )
        if number is not None and number > nodes:
            raise ValueError(f"node.number must be 1 to {nodes} (tables.key_nodes), not {number}")
        return self

    @model_validator(mode="after")
    def _batch_fits_message(self) -> "Config":
        if self.broker and self.limits.max_batch_bytes > self.broker.max_message_bytes:
            raise ValueError("limits.max_batch_bytes must not be larger than broker.max_message_bytes")
        return self
