"""The supervisor: restarts after outages and crashes, stops in time under stress, drains in `run_once`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest

from common.errors import ConfigError, ContentionError, OutageError, ReopenNodeError, StoppingError
from common.periodic import Periodic
from common.retry import CRASH, OUTAGE, Backoff, Growth
from common.runtime import supervisor
from common.runtime.signals import stop_on_signals
from common.runtime.supervisor import Patience, Supervisor
from common.transports.rabbitmq import channel_thread, confirming
from producer import relay
from tests.support.waiting import wait_for

QUICK = Patience(
    outage=Growth(0.001, 0.01), crash=Growth(0.001, 0.01), idle_seconds=0.01, stop_seconds=5.0, once_seconds=0.5
)


@dataclass
class Scripted:
    """A service that does in each step what its script says, then nothing."""

    name: str = "scripted"
    script: list[BaseException | bool] = field(default_factory=list)
    steps: int = 0
    closed: int = 0
    set_aside: int = 0
    may_be_on_its_way: bool = False
    took_what_stood: bool = False
    longest_idle: float = 0.0
    threads: set[str] = field(default_factory=set)
    woken: threading.Event = field(default_factory=threading.Event)

    def step(self, idle_seconds: float) -> bool:
        self.threads.add(threading.current_thread().name)
        self.steps += 1
        self.longest_idle = max(self.longest_idle, idle_seconds)
        if self.script:
            now = self.script.pop(0)
            if isinstance(now, BaseException):
                raise now
            return now
        self.woken.wait(idle_seconds)
        self.woken.clear()
        return False

    def wake(self) -> None:
        self.woken.set()

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1

    def count_again(self) -> None:
        assert not self.closed


class Running:
    """A supervisor in a thread of its own."""

    def __init__(self, *services: Scripted, patience: Patience = QUICK) -> None:
        self.stop = threading.Event()
        self.supervisor = Supervisor(services, self.stop, patience)
        self.outcomes: list[object] = []
        self.thread = threading.Thread(target=lambda: self.outcomes.append(self.supervisor.run()))
        self.thread.start()

    def end(self) -> object:
        self.stop.set()
        self.thread.join(60)
        return self.outcomes[0]


def test_a_service_goes_on_after_outages_and_crashes() -> None:
    service = Scripted(script=[OutageError("away"), True, ValueError("bug"), ContentionError("busy"), True])
    running = Running(service)
    wait_for(lambda: service.steps > 8, 60, "steps after the script")
    outcome = running.end()
    assert not service.script
    assert service.closed == 1
    assert len(service.threads) == 1, "a service belongs to one thread"
    assert getattr(outcome, "crashes", None) == 1


def test_one_failing_service_disturbs_no_other() -> None:
    bad = Scripted("bad", script=[ConfigError("not so") for _ in range(1000)])
    good = Scripted("good")
    running = Running(bad, good)
    wait_for(lambda: good.steps > 20 and bad.steps > 5, 60, "both to go on")
    running.end()
    assert bad.closed == good.closed == 1


def test_what_was_raised_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    service = Scripted(script=[OutageError("the broker is away"), ConfigError("queue: mend it"), KeyError("bug")])
    running = Running(service)
    wait_for(lambda: not service.script, 60, "the script's end")
    running.end()
    events = [(record.levelname, record.getMessage(), bool(record.exc_info)) for record in caplog.records]
    assert ("WARNING", "service.outage", False) in events
    assert ("ERROR", "service.failed", False) in events
    assert ("ERROR", "service.crashed", True) in events


def test_stops_in_time_under_stress() -> None:
    services = [Scripted(f"busy-{number}", script=[True] * 10_000_000) for number in range(4)]
    running = Running(*services)
    wait_for(lambda: all(service.steps > 100 for service in services), 60, "work under way")
    began = time.monotonic()
    running.end()
    assert time.monotonic() - began < 5
    assert all(service.closed == 1 for service in services)


def test_a_stop_amid_long_work_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    """`run` does not warn of it, and `run --once` does not call the database unreachable: it was told to stop."""
    stop = threading.Event()
    service = Stopping(stop)
    outcome = Supervisor([service], stop, QUICK).run_once()
    assert (outcome.drained, service.closed) == (False, 1)

    stop.clear()
    Supervisor([Stopping(stop)], stop, QUICK).run()
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


class Stopping(Scripted):
    """A service that is asked to stop in the middle of its work."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def step(self, idle_seconds: float) -> bool:
        self._stop.set()
        raise StoppingError("the node stops")


def test_a_stop_ends_a_long_backoff() -> None:
    service = Scripted(script=[OutageError("away")] * 50)
    running = Running(service, patience=Patience(outage=Growth(600, 600), stop_seconds=5))
    wait_for(lambda: service.steps == 1, 60, "the outage")
    began = time.monotonic()
    running.end()
    assert time.monotonic() - began < 5
    assert service.closed == 1


def test_a_hanging_service_is_named_and_left() -> None:
    release = threading.Event()

    class Hanging(Scripted):
        def step(self, idle_seconds: float) -> bool:
            self.steps += 1
            release.wait()
            return False

    hanging, good = Hanging("hanging"), Scripted("good")
    running = Running(hanging, good, patience=Patience(stop_seconds=0.3))
    wait_for(lambda: hanging.steps == 1, 60, "the hanging step")
    outcome = running.end()
    release.set()
    wait_for(lambda: hanging.closed == 1, 60, "the late end")
    assert getattr(outcome, "late", None) == ("hanging",)
    assert good.closed == 1


def test_reopening_stops_all_and_says_so() -> None:
    asking, other = Scripted("asking", script=[True, ReopenNodeError("another server")]), Scripted("other")
    stop = threading.Event()
    outcome = Supervisor([asking, other], stop, QUICK).run()
    assert outcome.reopen
    assert not stop.is_set()
    assert asking.closed == other.closed == 1


def test_once_drains_everything_and_counts() -> None:
    first = Scripted("first", script=[True, False, OutageError("a moment"), True])
    second = Scripted("second", script=[False, True, True, ContentionError("busy"), True], set_aside=2)
    outcome = Supervisor([first, second], threading.Event(), QUICK).run_once()
    assert not first.script
    assert not second.script
    assert (outcome.drained, outcome.set_aside) == (True, 2)
    assert first.closed == second.closed == 1


def test_once_waits_for_what_may_be_on_its_way_alone() -> None:
    class Looking(Periodic):
        name = "looking"
        idles: ClassVar[set[float]] = set()

        def step(self, idle_seconds: float) -> bool:
            self.idles.add(idle_seconds)
            return super().step(idle_seconds)

        def look(self) -> bool:
            self.look_again_in(60)
            return False

    queue, folder = Scripted(may_be_on_its_way=True), Scripted()
    Supervisor([queue, folder, Looking()], threading.Event(), QUICK).run_once()
    assert queue.longest_idle >= 10 * folder.longest_idle > 0
    assert Looking.idles == {0.0}


def test_once_gives_up_on_a_lasting_outage() -> None:
    service, other = Scripted(script=[OutageError("away")] * 100_000), Scripted("other")
    with pytest.raises(OutageError, match="away"):
        Supervisor([service, other], threading.Event(), QUICK).run_once()
    assert service.closed == other.closed == 1


def test_once_gives_up_on_an_outage_between_whose_errors_a_step_goes_well() -> None:
    """A message is handed over by one step, and comes back unroutable in the next."""
    script = [OutageError("no queue is bound"), True] * 100_000
    service = Scripted(script=script)
    with pytest.raises(OutageError, match="bound"):
        Supervisor([service], threading.Event(), QUICK).run_once()
    assert len(script) - len(service.script) < 1_000


def test_once_drains_the_others_before_it_tells_of_an_outage() -> None:
    """A peer that is away must not keep a node from taking what the broker has for it."""
    away = Scripted("away", script=[OutageError("the peer is away")] * 100_000)
    away_too = Scripted("away-too", script=[OutageError("the folder is away")] * 100_000)
    busy = Scripted("busy", script=[True, ContentionError("held"), True, True, True])
    began = time.monotonic()
    with pytest.raises(OutageError, match="the peer is away; the folder is away"):
        Supervisor([away, away_too, busy], threading.Event(), QUICK).run_once()
    assert not busy.script
    assert busy.closed == away.closed == away_too.closed == 1
    # The second one is not waited for as long as the first was: with the database gone all of them fail.
    assert len(away_too.script) == 100_000 - 1
    assert time.monotonic() - began < 60


def test_once_ends_though_one_service_never_runs_out_of_work() -> None:
    class Fed(Scripted):
        once_steps = 2

    filling, sending = Fed("sealer", script=[True] * 100_000), Scripted("relay", script=[True] * 5)
    outcome = Supervisor([filling, sending], threading.Event(), QUICK).run_once()
    assert outcome.drained
    assert filling.steps == 2
    assert not sending.script


def test_once_ends_though_others_send_for_ever() -> None:
    """What stood there at the start is taken, and for a while what comes after it."""
    fed = Scripted("fed", script=[True] * 1_000_000, took_what_stood=True)
    behind = Scripted("behind", script=[True] * 1_000_000)
    left = Scripted("left", script=[True] * 50)

    def step(idle_seconds: float) -> bool:
        behind.took_what_stood = behind.steps > 200
        return Scripted.step(behind, idle_seconds)

    behind.step = step  # type: ignore[method-assign]
    outcome = Supervisor([fed, behind, left], threading.Event(), replace(QUICK, late_seconds=0.05)).run_once()
    assert outcome.drained
    assert not left.script
    assert outcome.more_comes
    assert behind.steps > 200
    assert fed.steps > 1


def test_what_looks_last_looks_once_and_what_it_brings_is_drained_too() -> None:
    class Last(Scripted):
        looks = 0

        def last_look(self) -> None:
            assert not other.script, "nothing is left to do when it looks"
            self.looks += 1
            self.script = [True] * 3
            other.script = [False, False, True]

    other = Scripted("other", script=[True] * 5)
    last = Last("last")
    outcome = Supervisor([other, last], threading.Event(), QUICK).run_once()
    assert outcome.drained
    assert last.looks == 1
    assert (other.script, last.script) == ([], [])


def test_nothing_looks_last_where_something_is_away() -> None:
    class Last(Scripted):
        def last_look(self) -> None:
            raise AssertionError("the peer is away")

    away = Scripted("away", script=[OutageError("the peer is away")] * 100_000)
    with pytest.raises(OutageError, match="away"):
        Supervisor([away, Last("last")], threading.Event(), QUICK).run_once()


def test_an_outage_of_a_last_look_ends_the_run() -> None:
    class Last(Scripted):
        def last_look(self) -> None:
            raise OutageError("the database is away")

    with pytest.raises(OutageError, match="away"):
        Supervisor([Last("last")], threading.Event(), QUICK).run_once()


def test_once_goes_on_taking_while_something_else_takes_long() -> None:
    """Who has nothing to do for a moment is asked again: what comes of the others' work must not stay."""
    quiet = Scripted("quiet", script=[True, False] * 60, took_what_stood=True)
    long = Scripted("long", script=[True] * 100)

    def step(idle_seconds: float) -> bool:
        time.sleep(0.005)
        return Scripted.step(long, idle_seconds)

    long.step = step  # type: ignore[method-assign]
    outcome = Supervisor([quiet, long], threading.Event(), replace(QUICK, late_seconds=0.1)).run_once()
    assert not quiet.script
    assert outcome.drained
    assert not outcome.more_comes


def test_waits_grow_though_every_other_step_goes_well() -> None:
    patience = replace(QUICK, outage=Growth(0.01, 0.4), crash=Growth(0.01, 0.4))
    for error in (OutageError("refused"), ValueError("bug")):
        service = Scripted(script=[error, True] * 8)
        began = time.monotonic()
        running = Running(service, patience=patience)
        wait_for(lambda done=service: not done.script, 30, "eight errors, and a step between each two")
        running.end()
        # The shortest that doubled waits may be in all; eight that begin anew are 0.08 at the most.
        assert time.monotonic() - began > 0.7


def test_waits_begin_anew_after_a_while_without_errors() -> None:
    backoff = Backoff(Growth(first_seconds=0.01, cap_seconds=0.05))
    for _ in range(5):
        backoff.next_seconds()
    backoff.went_well()
    assert backoff.failures == 5
    wait_for(lambda: backoff.quiet_seconds > 0.05, 60, "the longest wait to be over without an error")
    backoff.went_well()
    assert backoff.failures == 0


def test_once_lets_other_errors_through() -> None:
    service = Scripted(script=[ConfigError("mend it")])
    with pytest.raises(ConfigError, match="mend it"):
        Supervisor([service], threading.Event(), QUICK).run_once()
    assert service.closed == 1


def test_waits_grow_to_their_cap_and_begin_anew() -> None:
    backoff = Backoff(Growth(first_seconds=1.0, cap_seconds=16.0))
    waits = [backoff.next_seconds() for _ in range(200)]
    assert 0.5 <= waits[0] <= 1.0
    assert 2.0 <= waits[2] <= 4.0
    assert all(8.0 <= wait <= 16.0 for wait in waits[10:])
    assert len(set(waits[10:])) > 50, "jitter"
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next_seconds() <= 1.0
    assert OUTAGE.cap_seconds <= CRASH.cap_seconds <= 60


def test_the_first_signal_stops_and_the_handlers_come_back() -> None:
    stop = threading.Event()
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(60)
    assert signal.getsignal(signal.SIGTERM) is before


_CHILD = """
import threading
from common.runtime import supervisor
from common.runtime.signals import stop_on_signals
stop = threading.Event()
with stop_on_signals(stop):
    print("ready", flush=True)
    stop.wait()
    print("stopping", flush=True)
    threading.Event().wait()
"""


def test_a_terminal_that_closes_stops_it_unless_it_shall_outlive_it() -> None:
    """`nohup` and `&` in some shells ignore SIGHUP for what they start."""
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, stops in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):
            signal.signal(signal.SIGHUP, handler)
            stop = threading.Event()
            with stop_on_signals(stop):
                os.kill(os.getpid(), signal.SIGHUP)
                assert stop.wait(60 if stops else 0.1) == stops
            assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_second_signal_leaves_at_once(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", _CHILD], stdout=subprocess.PIPE, text=True) as child:
        read: Callable[[], str] = child.stdout.readline if child.stdout else lambda: ""
        assert read() == "ready\n"
        child.send_signal(number)
        assert read() == "stopping\n"
        child.send_signal(number)
        assert child.wait(60) == 128 + number


def test_what_is_waited_for_at_a_stop_fits_in_the_time_there_is() -> None:
    """A publisher waits for a blocked broker, then closes by force; the process has ten seconds, all in all."""
    sending = max(confirming._LAST_WAIT_SECONDS + confirming._LOOK_SECONDS, relay._LAST_FLUSH_SECONDS)
    assert sending + channel_thread._CLOSE_SECONDS < supervisor.STOP_SECONDS
    assert channel_thread._CLOSE_SECONDS < channel_thread._JOIN_SECONDS
    assert supervisor.STOP_SECONDS + supervisor._LOOK_SECONDS <= 5
