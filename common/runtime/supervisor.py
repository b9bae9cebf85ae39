"""Runs services: a thread each, restarted for years, stopped within seconds; or step by step until all is drained.

Each service is stepped and closed by one thread. A service that failed is stepped again after a wait: it gives up
what it had open when a step raises, and opens it anew in the next.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from common.enough import LATE_SECONDS, Enough
from common.errors import ContentionError, OutageError, ReopenNodeError, RowferryError, StoppingError
from common.periodic import Periodic
from common.ports.part import Service
from common.retry import CRASH, OUTAGE, Backoff, Growth

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
STOP_SECONDS = 4.0
"""How long services may take to stop, all together; the whole process has ten seconds, on a busy machine too.

What is cut off in its middle is rolled back, and done again at the next start."""
ONCE_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_SHORT_IDLE_SECONDS = 0.02
_LAST_IDLE_SECONDS = 0.5


@runtime_checkable
class Receiving(Protocol):
    """A service that takes in what others send."""

    @property
    def may_be_on_its_way(self) -> bool:
        """Whether more may come that can't be seen yet: `run --once` gives it longer to wait then."""
        ...

    @property
    def took_what_stood(self) -> bool:
        """Whether it took all that stood there when it began; others may send for ever: `run --once` goes on for a
        while, then it is enough."""
        ...

    @property
    def set_aside(self) -> int:
        """How many batches it set aside itself: with any, `run --once` ends with exit code 4."""
        ...

    def count_again(self) -> None:
        """Count anew what was left waiting, when all is drained: what came later may have settled it.

        Raises OutageError."""
        ...


@runtime_checkable
class Filled(Protocol):
    """A service whose work the application makes, which may go on for ever: `run --once` takes what is there."""

    @property
    def once_steps(self) -> int:
        """So many steps of it are a run."""
        ...


@runtime_checkable
class LooksLast(Protocol):
    """A service that looks now and then, and not before `run --once` ends: it looks when all else is done."""

    def last_look(self) -> None:
        """Look now. What that brings is drained too. Raises OutageError, ContentionError."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the supervisor waits and for what."""

    outage: Growth = OUTAGE
    crash: Growth = CRASH
    idle_seconds: float = IDLE_SECONDS
    stop_seconds: float = STOP_SECONDS
    once_seconds: float = ONCE_PATIENCE_SECONDS
    late_seconds: float = LATE_SECONDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    reopen: bool = False
    """The node has to be opened anew, and the run goes on."""
    drained: bool = False
    """A whole round of `run_once` found no work, but for what others went on sending."""
    more_comes: bool = False
    """Others went on sending when `run_once` had taken what was there."""
    set_aside: int = 0
    crashes: int = 0
    late: tuple[str, ...] = ()
    """Services that didn't stop in time; their threads end with the process."""


class Supervisor:
    """Runs the services of one opened node. `stop` is the host's event: whoever sets it ends the run."""

    def __init__(self, services: Sequence[Service], stop: threading.Event, patience: Patience | None = None) -> None:
        self._services = tuple(services)
        self._stop = stop
        self._patience = patience or Patience()
        self._reopen = threading.Event()

    def run(self) -> Outcome:
        """Run until `stop` is set. Outages and crashes of a service are logged and waited out, one by one."""
        runners = [_Runner(service, self._stop, self._reopen, self._patience) for service in self._services]
        for runner in runners:
            runner.start()
        # Two events end this, and a thread can wait for one; the shorter wait is for the rare one.
        while not self._stop.wait(_LOOK_SECONDS) and not self._reopen.is_set():
            pass
        late = self._end(runners)
        crashes = sum(runner.crashes for runner in runners)
        reopen = self._reopen.is_set() and not self._stop.is_set()
        return Outcome(reopen=reopen, set_aside=self._set_aside(), crashes=crashes, late=late)

    def run_once(self) -> Outcome:
        """Step all services in turn until a whole round finds no work, then close them.

        Raises OutageError when one didn't end in time, once the others are drained, and every other error at once."""
        reopen = drained = False
        outages: list[OutageError] = []
        steppers = [_Once(service, self._stop, self._patience, outages) for service in self._services]
        with ExitStack() as closing:
            for service in reversed(self._services):
                closing.callback(service.close)
            try:
                drained = self._drain(steppers)
                if not outages:
                    self._count_again()
            except ReopenNodeError as error:
                log.warning("run.reopens", extra={"error": str(error)})
                reopen = True
        if outages and not reopen:
            raise OutageError("; ".join(dict.fromkeys(map(str, outages)))) from outages[0]
        more_comes = any(stepper.has_enough for stepper in steppers)
        return Outcome(reopen=reopen, drained=drained, more_comes=more_comes, set_aside=self._set_aside())

    def _drain(self, services: "Sequence[_Once]") -> bool:
        """Step until a quiet round after the last looks; False when `stop` came first."""
        last = [service for service in services if service.looks_last]
        decides = False
        while not self._stop.is_set():
            worked = sum(service.step(decides) for service in services)
            if worked or not decides:
                decides = not worked
                continue
            if not last or any(service.is_given_up for service in services):
                # What is away is asked nothing more: each question would wait for it once again.
                return True
            for service in last:
                service.last_look()
            last, decides = [], False
        return False

    def _end(self, runners: "Sequence[_Runner]") -> tuple[str, ...]:
        log.info("run.stopping", extra={"services": [service.name for service in self._services]})
        deadline = time.monotonic() + self._patience.stop_seconds
        for service in self._services:
            service.wake()
        late = tuple(runner.service.name for runner in runners if not runner.ended(deadline))
        if late:
            log.error("run.stopped_late", extra={"services": late, "after_seconds": self._patience.stop_seconds})
        return late

    def _count_again(self) -> None:
        for service in self._services:
            if isinstance(service, Receiving):
                service.count_again()

    def _set_aside(self) -> int:
        return sum(service.set_aside for service in self._services if isinstance(service, Receiving))


class _Once:
    """One service of `run_once`. An outage lasts from its first error, though some step in between may go well: what
    is published is taken by one step, and comes back in another."""

    def __init__(self, service: Service, stop: threading.Event, patience: Patience, outages: list[OutageError]) -> None:
        """`outages`: those of all services that were given up."""
        self._outages = outages
        self.is_given_up = False
        """Whether it failed for too long."""
        self._service = service
        self._stop = stop
        self._patience = patience
        self._backoff = Backoff(patience.outage)
        self._failing_since = 0.0
        self._steps_left = service.once_steps if isinstance(service, Filled) else None
        self._enough = Enough(patience.late_seconds)
        self.has_enough = False
        """Whether it is stepped no more, though its work goes on."""
        self._worked = False

    def step(self, decides: bool) -> bool:
        """Step, again while that fails, unless it was given up. `decides`: this round may be the last."""
        if self._steps_left is not None:
            if not self._steps_left:
                return False
            self._steps_left -= 1
        if self.has_enough or self._looks_enough():
            self.has_enough = True
            return False
        self._worked = self._patiently(lambda: self._service.step(_idle(self._service, decides)))
        return self._worked

    @property
    def looks_last(self) -> bool:
        """Whether there is a last look."""
        return isinstance(self._service, LooksLast)

    def last_look(self) -> None:
        """Let it look, again while that fails, unless it was given up."""
        if isinstance(self._service, LooksLast):
            self._patiently(self._service.last_look)

    def _patiently(self, work: Callable[[], bool | None]) -> bool:
        contended = False
        while not self.is_given_up:
            try:
                worked = bool(work())
            except StoppingError:
                return True
            except (OutageError, ContentionError) as error:
                contended = isinstance(error, ContentionError)
                if not self._has_waited(error):
                    self._give_up(error)
            else:
                if contended:
                    # Somebody held the rows, and has let go.
                    self._backoff.reset()
                return worked
        return False

    def _looks_enough(self) -> bool:
        service = self._service
        took = self._worked and isinstance(service, Receiving) and service.took_what_stood
        return self._enough.is_reached(took_what_stood=took)

    def _give_up(self, error: OutageError | ContentionError) -> None:
        self.is_given_up = True
        self._outages.append(OutageError(str(error)))
        log.warning("run.goes_on_without", extra={"service": self._service.name, "error": str(error)})

    def _has_waited(self, error: OutageError | ContentionError) -> bool:
        """Wait before another attempt; False where it lasts too long. Where something else is gone already nothing
        is waited for: it may be the database, and all would wait in turn."""
        if self._outages and isinstance(error, OutageError):
            return False
        now = time.monotonic()
        if not self._backoff.failures or self._backoff.quiet_seconds > self._patience.once_seconds / 2:
            self._failing_since = now
            self._backoff.reset()
        seconds = self._backoff.next_seconds()
        if self._stop.is_set() or now + seconds > self._failing_since + self._patience.once_seconds:
            return False
        _log_outage(self._service, error, seconds)
        self._stop.wait(seconds)
        return True


class _Runner:
    """One service in its thread."""

    def __init__(self, service: Service, stop: threading.Event, reopen: threading.Event, patience: Patience) -> None:
        self.service = service
        self.crashes = 0
        self._stop = stop
        self._reopen = reopen
        self._patience = patience
        self._outage = Backoff(patience.outage)
        self._crash = Backoff(patience.crash)
        # A daemon: one that hangs in a driver must not keep the process from ending.
        self._thread = threading.Thread(target=self._main, name=f"rowferry-{service.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ended(self, deadline: float) -> bool:
        """Wait for the end of the thread until `deadline` (monotonic)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            while not (self._stop.is_set() or self._reopen.is_set()):
                self._wait(self._attempt())
        finally:
            self._close()

    def _attempt(self) -> float:
        """Step once; return how long to wait before the next step."""
        try:
            self.service.step(self._patience.idle_seconds)
        except ReopenNodeError as error:
            log.warning("service.asks_to_reopen", extra={"service": self.service.name, "error": str(error)})
            self._reopen.set()
            return 0.0
        except StoppingError as error:
            log.info("service.stopped_amid_work", extra={"service": self.service.name, "error": str(error)})
            return 0.0
        except (OutageError, ContentionError) as error:
            seconds = self._outage.next_seconds()
            _log_outage(self.service, error, seconds)
            return seconds
        except RowferryError as error:
            seconds = self._failed()
            # Raised on purpose: the message says what to do, a traceback would not.
            log.error("service.failed", extra=self._fields(seconds) | {"error": str(error)})
            return seconds
        except Exception:
            # The top of the loop: whatever it was, it is seen, and the service is tried again.
            seconds = self._failed()
            log.exception("service.crashed", extra=self._fields(seconds))
            return seconds
        self._outage.went_well()
        self._crash.went_well()
        return 0.0

    def _failed(self) -> float:
        self.crashes += 1
        return self._crash.next_seconds()

    def _fields(self, seconds: float) -> dict[str, object]:
        return {
            "service": self.service.name,
            "failures": self._crash.failures,
            "again_in_seconds": round(seconds, 1),
        }

    def _wait(self, seconds: float) -> None:
        if seconds:
            self._stop.wait(seconds)

    def _close(self) -> None:
        try:
            self.service.close()
        except Exception:
            # The end of the thread: what a close leaves open ends with the process.
            log.exception("service.close_failed", extra={"service": self.service.name})


def _idle(service: Service, decides: bool) -> float:
    """Return how long a step of `run_once` may wait: longer in the round that decides that all is drained."""
    if isinstance(service, Periodic):
        return 0.0
    is_late = decides and isinstance(service, Receiving) and service.may_be_on_its_way
    return _LAST_IDLE_SECONDS if is_late else _SHORT_IDLE_SECONDS


def _log_outage(service: Service, error: Exception, seconds: float) -> None:
    fields = {"service": service.name, "error": str(error), "again_in_seconds": round(seconds, 1)}
    log.warning("service.outage", extra=fields)
