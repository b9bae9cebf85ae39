"""What is written beside the rows, in the same commit: dedup, dead letters, watermarks, peers, audit, attempts."""

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from common.config.model import Config
from common.schema import tables as rf
from common.wire.records import BatchHeader
from consumer import audit, watermark
from consumer.apply.handing_on import HandingOn
from consumer.attempts import end_attempts
from consumer.clocks_ahead import latest_by_source, tell_news
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Failure, settle, write_failures
from consumer.dedup import BROKEN_REASONS, Known, TxKey
from consumer.heard import Heard, note_heard
from consumer.inbox import delete_parts
from consumer.incoming import Outcome, Result
from consumer.statements import insert_many
from consumer.watermark import Mark, SourceKey, Step

_STATES = {
    Outcome.DEAD: LetterState.DEAD,
    Outcome.EARLY: LetterState.EARLY,
    Outcome.FORKED: LetterState.FORKED,
}

APPLIED = ("source_node", "tx_id", "incarnation", "prev_lsn", "to_lsn", "sha256", "applied_us")


class Ledger:
    """Keeps the books of one transaction."""

    def __init__(self, connection: sa.Connection, config: Config, now_us: int) -> None:
        self._connection = connection
        self._config = config
        self._now_us = now_us

    def write(
        self,
        results: Sequence[Result],
        known: Mapping[TxKey, Known],
        marks: Mapping[SourceKey, Mark],
        begun: Sequence[TxKey],
    ) -> None:
        """Write everything that follows from `results`. `begun`: what `rf_attempt` notes these txs by."""
        applied = [result for result in results if result.outcome is Outcome.APPLIED]
        aside = [result for result in results if result.outcome.set_aside]
        self._write_applied(applied)
        write_failures(self._connection, [_failure(result) for result in aside], self._now_us)
        # Who loses over one letter to somebody else has decided nothing over another one of the same tx, or its parts.
        decided = [result for result in results if result.settled is None]
        self._close_letters(decided, known)
        HandingOn(self._connection, self._config, self._now_us).keep(results)
        self._drop_parts(decided, known)
        self._move_marks(applied, aside, marks)
        latest = latest_by_source(results)
        news = tell_news(self._connection, latest, self._config.limits.future_seconds, self._now_us)
        self._note_heard(results, known, {source: result.counts.latest_us for source, result in latest.items()})
        lines = [line for result in results for line in _audit_lines(result)]
        audit.write(self._connection, [*lines, *news], self._now_us)
        end_attempts(self._connection, begun)

    def _write_applied(self, applied: Sequence[Result]) -> None:
        insert_many(self._connection, rf.applied_tx, APPLIED, [self._applied_row(result) for result in applied])

    def _applied_row(self, result: Result) -> tuple[object, ...]:
        header = result.incoming.header
        if header is None:
            raise TypeError("a tx without a header can't have been applied")
        link = header.source_node, header.tx_id, header.incarnation, header.prev_lsn, header.to_lsn
        return *link, result.sha256, self._now_us

    def _close_letters(self, results: Sequence[Result], known: Mapping[TxKey, Known]) -> None:
        if not known:
            return
        for result in results:
            incoming = result.incoming
            done = result.outcome is Outcome.APPLIED or (result.outcome is Outcome.DUPLICATE and incoming.replayed_by)
            if not done:
                continue
            by = incoming.replayed_by or audit.APPLIER
            for key in dict.fromkeys((incoming.key, incoming.letter or incoming.key)):
                letter = known[key].letter if key in known else None
                if letter is None or not letter.state.is_open:
                    continue
                # One that stands under another name was applied under its source's, for which somebody answers.
                note = ("replayed" if key == incoming.key else "vouched for") if incoming.replayed_by else "tried again"
                settle(self._connection, [key], LetterState.REPLAYED, by=by, note=note, now_us=self._now_us)

    def _drop_parts(self, results: Sequence[Result], known: Mapping[TxKey, Known]) -> None:
        done = []
        for result in results:
            key = result.incoming.key
            found = known.get(key)
            applied_before = found is not None and found.applied_sha256 is not None
            held = found is not None and found.letter is not None and not applied_before
            if result.outcome is Outcome.APPLIED or (result.outcome is Outcome.DUPLICATE and not held):
                # Also of one that came in one piece: its source may have begun to send it in parts, in another cut.
                done.append(key)
        delete_parts(self._connection, done)

    def _move_marks(self, applied: Iterable[Result], aside: Iterable[Result], marks: Mapping[SourceKey, Mark]) -> None:
        steps: dict[SourceKey, list[Step]] = {}
        for result in (*applied, *aside):
            header = result.incoming.header
            if header is not None and (step := step_of(result)) is not None:
                steps.setdefault((header.source_node, header.incarnation), []).append(step)
        moved = [marks[key] for key in steps]
        for mark in moved:
            watermark.advance(self._connection, mark, steps[mark.source_node, mark.incarnation])
        watermark.store(self._connection, moved, self._now_us)

    def _note_heard(self, results: Sequence[Result], known: Mapping[TxKey, Known], latest: Mapping[str, int]) -> None:
        """What can't be verified says nothing of anybody; what was here before may come from anybody who kept it."""
        last: dict[str, BatchHeader] = {}
        for result in results:
            header = result.incoming.header
            if header is None or not _is_news(result, known):
                continue
            if header.source_node not in last or header.tx_id > last[header.source_node].tx_id:
                last[header.source_node] = header
        heard = [Heard(one, header.incarnation, latest.get(one, 0), header.tx_id) for one, header in last.items()]
        note_heard(self._connection, self._config, heard, self._now_us)


def step_of(result: Result) -> Step | None:
    """Return the link of the chain of LSNs that a tx has become; None for one that is no link."""
    header = result.incoming.header
    if header is None or result.outcome in (Outcome.DUPLICATE, Outcome.FORKED):
        return None
    sure = result.outcome is Outcome.APPLIED or result.reason not in watermark.UNSURE
    return Step(header.prev_lsn, header.to_lsn, header.tx_id, sure)


def _is_news(result: Result, known: Mapping[TxKey, Known]) -> bool:
    """Tell whether its source was heard with it: it can be believed, and says something that was not known."""
    if result.outcome is Outcome.DUPLICATE or result.reason in BROKEN_REASONS or result.incoming.replayed_by:
        return False
    letter = known[result.incoming.key].letter if result.incoming.key in known else None
    return result.outcome is Outcome.APPLIED or letter is None or letter.sha256 != result.sha256


def _failure(result: Result) -> Failure:
    if result.reason is None or result.error is None:
        raise TypeError("a tx that is set aside has a reason and an error")
    state = _STATES[result.outcome]
    return Failure(result.incoming, state, result.reason, result.error, result.table, result.sha256)


def _audit_lines(result: Result) -> Iterable[audit.Line]:
    incoming = result.incoming
    actor = incoming.replayed_by or audit.APPLIER
    match result.outcome:
        case Outcome.APPLIED:
            action = "replayed" if incoming.replayed_by else "applied"
            yield audit.Line(action, *incoming.key, actor, result.counts.as_dict())
        case Outcome.DUPLICATE:
            if result.error is not None:
                yield audit.Line("ignored-damaged-copy", *incoming.key, actor, {"error": result.error})
        case Outcome.DEAD | Outcome.EARLY | Outcome.FORKED:
            if result.still_waits and not incoming.replayed_by:
                return
            reason = result.reason.value if result.reason else None
            detail = {"state": result.outcome.value, "reason": reason, "error": result.error}
            yield audit.Line("replay-failed" if incoming.replayed_by else "set-aside", *incoming.key, actor, detail)
