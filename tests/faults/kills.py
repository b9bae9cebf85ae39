"""Processes killed by SIGKILL: at any moment from the first line of their start on, or at a named point."""

from __future__ import annotations

import threading
import time

from common.crash_points import VARIABLE, CrashPoint
from consumer.attempts import MOST_ATTEMPTS
from tests.faults.site import Member, Site

FLOW = (
    CrashPoint.SEALING,
    CrashPoint.SEALED,
    CrashPoint.SENT,
    CrashPoint.PUBLISHED,
    CrashPoint.CONFIRMED,
    CrashPoint.CURSOR_MOVED,
    CrashPoint.RECEIVED,
    CrashPoint.SAYING_STORED,
    CrashPoint.PART_STORED,
    CrashPoint.ATTEMPT_BEGUN,
    CrashPoint.ROWS_WRITTEN,
    CrashPoint.BEFORE_COMMIT,
    CrashPoint.AFTER_COMMIT,
    CrashPoint.ACKNOWLEDGED,
    CrashPoint.HEARTBEAT_SENT,
)
"""Points that a node under load passes by itself."""
_LONGEST_LIFE_SECONDS = 4.0
"""On a machine that is busy with other things two starts are longer: who is killed before it works shows nothing."""
_DEATHS_BORNE = MOST_ATTEMPTS - 1
"""After so many deaths in the middle of one tx the next one has to set it aside, whoever did the killing."""


def kill_at_random(site: Site, kills: int, check_every: int = 100) -> list[str]:
    """Kill until there were so many, counting in between and at the end; return what is wrong.

    Nodes live and die apart: each is started again right after its death. One that died in the middle of the same tx
    as often as a node bears is left alone until that tx has come to an end: no tx may be set aside here."""
    wrong: list[str] = []
    longest = max(_LONGEST_LIFE_SECONDS, 2 * site.start_seconds)
    while not wrong and site.counts["kills"] < kills:
        with site.load():
            _kill_until(site, min(kills, site.counts["kills"] + check_every), longest)
        site.rest()
        wrong = site.check()
        site.counts["rests"] += 1
    return wrong


def _kill_until(site: Site, goal: int, longest: float) -> None:
    never = threading.Event()
    lives: dict[str, float] = {}
    while site.counts["kills"] < goal:
        for member in site:
            if member.name not in lives:
                lives[member.name] = _begin_life(site, member, longest)
            process = member.running.process if member.running else None
            assert process is not None
            if process.poll() is None and (time.monotonic() < lives[member.name] or _is_spared(member)):
                continue
            if process.poll() is None:
                member.kill()
                site.counts["kills at random moments"] += 1
            else:
                assert process.returncode == -9, (
                    f"{member.name} ended by itself: {member.running and member.running.tail()}"
                )
                site.counts["kills at named points"] += 1
            site.counts["kills"] += 1
            del lives[member.name]
        never.wait(0.02)
    for member in site:
        # Whoever still has a point to die at would do so while all comes to rest.
        if member.running is not None and member.running.process.poll() is None and not _is_spared(member):
            member.kill()
            site.counts["kills at random moments"] += 1
            site.counts["kills"] += 1


def _begin_life(site: Site, member: Member, longest: float) -> float:
    """Start a process if none runs; return when it is to be killed, unless it dies at a named point before."""
    if member.running is None or member.running.process.poll() is not None:
        if _is_spared(member):
            site.counts["lives spared"] += 1
            member.start()
        elif site.dice.random() < 0.5:
            member.start(**{VARIABLE: f"{site.dice.choice(FLOW)}:{site.dice.choice((1, 1, 2, 5, 20))}"})
            return time.monotonic() + 2 * longest
        else:
            member.start()
    # Shorter lives more often: a node has most to do, and most to do wrong, when it starts.
    return time.monotonic() + site.dice.uniform(0.1, 1) ** 2 * longest


def _is_spared(member: Member) -> bool:
    """Tell whether a tx was begun so often that one more death in it is its last."""
    return member.node.query(f"SELECT 1 FROM rf_attempt WHERE attempts >= {_DEATHS_BORNE} LIMIT 1") != []
