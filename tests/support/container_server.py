"""One server in a container: killed, stopped, frozen and started again at the same address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.container_engine import ContainerEngine, ContainerSpec
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from docker.models.containers import Container

USER = "rowferry_test"
PASSWORD = "rowferry_test_password"
READY_TIMEOUT_SECONDS = 120.0


class Server:
    """One container that can be killed and started again at the same address with the same data."""

    def __init__(self, engine: ContainerEngine, container: Container, spec: ContainerSpec, shared: bool) -> None:
        self.host = engine.host
        self.spec = spec
        self.shared = shared
        self._container = container
        container.reload()
        bindings = container.attrs["HostConfig"]["PortBindings"]
        self._ports = {port: int(bindings[f"{port}/tcp"][0]["HostPort"]) for port in spec.ports}

    @property
    def name(self) -> str:
        return str(self._container.name)

    @property
    def port(self) -> int:
        """The main port on this machine: AMQP, or PostgreSQL's own."""
        return self._ports[self.spec.ports[0]]

    def _refuse_when_shared(self, deed: str) -> None:
        if self.shared:
            raise RuntimeError(f"{deed} would pull {self.spec.kind} from under other tests: take a private_* fixture")

    @property
    def pid(self) -> int:
        """The container's first process, as this machine numbers it; meaningless where the engine is elsewhere."""
        self._container.reload()
        return int(self._container.attrs["State"]["Pid"])

    @property
    def running(self) -> bool:
        self._container.reload()
        return bool(self._container.status == "running")

    def kill(self) -> None:
        """End the server with SIGKILL, at once and without a goodbye; its data stay."""
        self._refuse_when_shared("kill()")
        self._container.kill(signal="SIGKILL")
        self._container.wait(timeout=30)

    def stop(self, timeout_seconds: int = 30) -> None:
        """Ask the server to end in order (SIGTERM)."""
        self._refuse_when_shared("stop()")
        self._container.stop(timeout=timeout_seconds)

    def start(self, wait: bool = True) -> None:
        """Start it again, by default until it serves; `wait=False` returns while it is still coming up."""
        self._container.start()
        if wait:
            self.wait_ready()

    def restart(self) -> None:
        """SIGKILL, then start: what a power failure looks like from outside."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze all its processes: connections stay open and nobody answers."""
        self._refuse_when_shared("pause()")
        self._container.pause()

    def unpause(self) -> None:
        self._container.unpause()

    def exec(self, *command: str) -> str:
        """Run a command inside; return what it printed, raise when it failed."""
        code, output = self._container.exec_run(list(command))
        text = bytes(output).decode(errors="replace")
        if code != 0:
            raise RuntimeError(f"{' '.join(command)} in {self.name} ended with {code}:\n{text}")
        return text

    def logs(self, lines: int = 200) -> str:
        return bytes(self._container.logs(tail=lines)).decode(errors="replace")

    def remove(self) -> None:
        self._container.remove(force=True, v=True)

    def _is_ready(self) -> bool:
        raise NotImplementedError

    def wait_ready(self, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """Return as soon as the server serves; raise with the end of its log when it ended or takes too long."""

        def ready() -> bool:
            if self._is_ready():
                return True
            if not self.running:
                raise RuntimeError(f"{self.name} ended while starting:\n{self.logs(60)}")
            return False

        try:
            wait_for(ready, timeout_seconds, f"{self.name} to serve at {self.host}:{self.port}")
        except TimeoutError as error:
            error.add_note(self.logs(60))
            raise

    def clean_up(self) -> None:
        """Take away what tests made in it and did not take away themselves."""
        raise NotImplementedError
