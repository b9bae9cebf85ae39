"""The Docker engine that the tests' servers run in, reached through testcontainers."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from docker.models.containers import Container
    from testcontainers.core.docker_client import DockerClient

REPOSITORY = Path(__file__).resolve().parents[2]
# The same label and value as in infra/scripts/test_services.sh, which removes what carries it.
CHECKOUT_LABEL = "rowferry.test.checkout"
# A copy of the tree, as tests.mutants makes one, shares the servers of the tree that it is a copy of.
CHECKOUT = os.environ.get("ROWFERRY_TEST_CHECKOUT") or hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:12]
DEFINITION_LABEL = "rowferry.test.definition"

# Erlang makes a table as large as the limit, which some engines set to a thousand million.  Ours may not lie above that
# of an engine in a sandbox without CAP_SYS_RESOURCE, which has the same limit as we have.
_OPEN_FILES = min(16384, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
_REMEDY = "run 'make services' (docs/reference/testing.md says what it does on which machine)"


def _services_required() -> bool:
    return bool(os.environ.get("CI")) or os.environ.get("ROWFERRY_REQUIRE_SERVICES") == "1"


def unavailable(reason: str, cause: object) -> NoReturn:
    """Where services are promised, their absence is a failure; on a laptop it is a skip that says what to do."""
    message = f"{reason}: {_REMEDY} ({cause})"
    if _services_required():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@dataclass(frozen=True)
class ContainerSpec:
    """Everything that makes one container; two equal specs may share one."""

    kind: str
    image: str
    ports: tuple[int, ...]
    environment: tuple[tuple[str, str], ...]
    command: tuple[str, ...] = ()
    # Copied into the container before it starts, which works with an engine on another machine too.
    files: tuple[tuple[Path, str], ...] = ()
    shm_size: str = "64m"
    # Folders in memory, each with its options (`size=4g`): gone when the container ends.
    tmpfs: tuple[tuple[str, str], ...] = ()

    def definition(self, image_id: str) -> str:
        contents = [(target, path.read_text()) for path, target in self.files]
        parts = (self.kind, image_id, self.ports, self.environment, self.command, contents, self.shm_size, self.tmpfs)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def free_port() -> int:
    """A port that stays ours while its server is down.

    It lies below the range that the kernel gives to outgoing connections: else a client that keeps trying to reach a
    killed server could be given the server's own port, take the place, or even connect to itself.
    """
    for port in random.sample(range(20000, 32000), 200):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 20000 and 32000 on 127.0.0.1")


@dataclass
class ContainerEngine:
    """The Docker engine, reached through testcontainers."""

    client: DockerClient
    host: str

    @classmethod
    def connect(cls) -> ContainerEngine:
        from testcontainers.core.docker_client import DockerClient

        client = DockerClient()
        try:
            client.client.ping()
            host = client.host()
        except BaseException:
            client.client.close()
            raise
        # "localhost" may mean ::1 first, and the ports are published on 127.0.0.1 only.
        return cls(client, "127.0.0.1" if host == "localhost" else host)

    def close(self) -> None:
        self.client.client.close()

    def _image_id(self, image: str) -> str:
        import docker.errors

        try:
            return str(self.client.client.images.get(image).id)
        except docker.errors.ImageNotFound:
            pass
        try:
            return str(self.client.client.images.pull(image).id)
        except docker.errors.APIError as error:
            unavailable(f"the image {image} is neither on this machine nor to be pulled", error.explanation or error)

    def create(self, spec: ContainerSpec, name: str | None = None) -> Container:
        """Make and start one container through testcontainers' own class."""
        import docker.errors
        from docker.types import Ulimit
        from testcontainers.core.container import DockerContainer

        definition = spec.definition(self._image_id(spec.image))
        for attempt in range(5):
            wanted = DockerContainer(spec.image, name=name, command=list(spec.command) or None)
            try:
                wanted.with_envs(**dict(spec.environment))
                for port in spec.ports:
                    address = (self.host, free_port()) if self.host.startswith("127.") else free_port()
                    wanted.ports[f"{port}/tcp"] = address  # type: ignore[assignment]
                for source, target in spec.files:
                    wanted.with_copy_into_container(source, target)
                for folder, options in spec.tmpfs:
                    wanted.with_tmpfs_mount(folder, options)
                wanted.with_kwargs(
                    # RabbitMQ's data belong to the node's name, which holds the host name.
                    hostname="rowferry-test",
                    labels={CHECKOUT_LABEL: CHECKOUT, DEFINITION_LABEL: definition},
                    shm_size=spec.shm_size,
                    ulimits=[Ulimit(name="nofile", soft=_OPEN_FILES, hard=_OPEN_FILES)],
                )
                try:
                    wanted.start()
                    return self.client.client.containers.get(wanted.get_container_id())
                except docker.errors.APIError as error:
                    # Another worker took the port between our look and the engine's: look again.
                    taken = "port is already allocated" in str(error) or "address already in use" in str(error)
                    wrapped = wanted.get_wrapped_container()
                    if wrapped is not None:
                        wrapped.remove(force=True, v=True)
                    if not taken or attempt == 4:
                        raise
            finally:
                wanted.get_docker_client().client.close()
        raise AssertionError("unreachable: the loop returns or raises")

    def adopt(self, spec: ContainerSpec, name: str) -> Container | None:
        """The container of an earlier worker or run, started again if need be; None where there is no usable one."""
        import docker.errors

        try:
            container = self.client.client.containers.get(name)
        except docker.errors.NotFound:
            return None
        if container.labels.get(DEFINITION_LABEL) == spec.definition(self._image_id(spec.image)):
            try:
                if container.status != "running":
                    container.start()
                return container
            except docker.errors.APIError:
                # Its port has gone to somebody else since; nothing in it is worth keeping.
                pass
        container.remove(force=True, v=True)
        return None
