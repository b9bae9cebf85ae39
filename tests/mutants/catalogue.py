"""Safeguards switched off, one at a time: what is changed in the code, and which tests must see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SAFEGUARDS = (
    "confirm",
    "mandatory",
    "dedup row",
    "fsync",
    "ack after commit",
    "check for unsealed local rows",
    "lock on parents",
    "fork check",
    "heartbeat",
    "attempt record",
    "sealer's lock",
    "own stretch of a touch log",
    "writes that comparing has yet to find",
    "triggers of a table that is written",
    "what a change was made on",
    "signatures",
    "a snapshot's moment",
    "what only the taker of a snapshot has",
    "whom a comparison believes",
    "what a comparison calls different",
    "bounds",
    "tokens",
    "kinds of values",
    "secrets in sight",
)


class LostTextError(Exception):
    """The code that a mutant changes reads differently now: the mutant has to be written anew."""


@dataclass(frozen=True)
class Mutant:
    """One safeguard switched off in one place."""

    name: str
    safeguard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """What pytest is to run; at least one test of it must fail."""

    def apply(self, root: Path) -> None:
        """Change the file below `root`. Raises LostTextError unless the text stands there exactly once."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        found = text.count(self.old)
        if found != 1:
            raise LostTextError(f"{self.name}: {self.file} has the text {found} times:\n{self.old}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


MUTANTS = (
    Mutant(
        "confirms-not-waited-for",
        "confirm",
        "common/transports/rabbitmq/confirming.py",
        "            self._in_flight.add(closes, size)\n",
        "            self._in_flight.add(closes, size)\n            self._in_flight.confirm(2**62, multiple=True)\n",
        (
            "tests/unit/test_rabbitmq_confirming.py",
            "tests/integration/test_rabbitmq_publisher.py::test_what_was_confirmed_survives_a_killed_broker",
        ),
    ),
    Mutant(
        "cursor-before-confirm",
        "confirm",
        "producer/relay.py",
        "                passage.read_lsn = envelope.closes_lsn\n",
        "                passage.read_lsn = passage.confirmed_lsn = envelope.closes_lsn\n",
        ("tests/unit/test_producer_relay.py",),
    ),
    Mutant(
        "not-mandatory",
        "mandatory",
        "common/transports/rabbitmq/confirming.py",
        "mandatory=True",
        "mandatory=False",
        ("tests/integration/test_rabbitmq_publisher.py::test_unroutable_is_seen_and_nothing_after_it_counts",),
    ),
    Mutant(
        "no-dedup-row",
        "dedup row",
        "consumer/apply/ledger.py",
        "        self._write_applied(applied)\n",
        "",
        (
            "tests/integration/test_apply_intake.py::test_the_same_bytes_again_change_nothing",
            "tests/integration/test_apply_killed.py::test_killed_while_applying_and_delivered_again",
        ),
    ),
    Mutant(
        "dedup-not-asked",
        "dedup row",
        "consumer/dedup.py",
        "        return Standing.DUPLICATE if known.applied_sha256 == facts.sha256 else Standing.ALTERED\n"
        "    if known.letter is not None:\n",
        "        return Standing.NEW\n    if known.letter is not None:\n",
        (
            "tests/unit/test_consumer_decisions.py",
            "tests/integration/test_apply_intake.py::test_the_same_bytes_again_change_nothing",
        ),
    ),
    Mutant(
        "new-file-not-synced",
        "fsync",
        "common/transports/files.py",
        "        os.fsync(self._fd)\n        reach(CrashPoint.FILE_SYNCED)\n        fresh",
        "        reach(CrashPoint.FILE_SYNCED)\n        fresh",
        ("tests/unit/test_power_failure.py",),
    ),
    Mutant(
        "replaced-file-not-synced",
        "fsync",
        "common/transports/files.py",
        "        os.fsync(self._fd)\n        reach(CrashPoint.FILE_SYNCED)\n        os.replace",
        "        reach(CrashPoint.FILE_SYNCED)\n        os.replace",
        ("tests/unit/test_power_failure.py",),
    ),
    Mutant(
        "folder-not-synced",
        "fsync",
        "common/transports/files.py",
        "    try:\n        os.fsync(fd)\n",
        "    try:\n        pass\n",
        ("tests/unit/test_power_failure.py",),
    ),
    Mutant(
        "ack-before-commit",
        "ack after commit",
        "consumer/intake.py",
        "        if one.plain is not None and self._lane.apply(one.plain):\n",
        "        source.ack(one.deliveries)\n        if one.plain is not None and self._lane.apply(one.plain):\n",
        ("tests/integration/test_apply_intake.py::test_nothing_is_acknowledged_before_its_commit",),
    ),
    Mutant(
        "unsealed-rows-not-checked",
        "check for unsealed local rows",
        "consumer/apply/rows.py",
        "        if session.unsealed(use.shape, [row.key for row in rows]):\n",
        "        if False:\n",
        (
            "tests/integration/test_apply_conflicts.py::test_own_unsealed_writes_are_sealed_before_a_batch_claims_their_rows",
        ),
    ),
    Mutant(
        "unsealed-rows-not-checked-on-the-short-way",
        "check for unsealed local rows",
        "common/dialects/postgresql/plain.py",
        "any(map(self._is_unsealed, self._claimed))",
        "False",
        ("tests/integration/test_plain_way.py::test_own_writes_that_are_not_sealed_are_not_overwritten_unseen",),
    ),
    Mutant(
        "versions-not-compared-on-the-short-way",
        "what a change was made on",
        "common/dialects/postgresql/plain.py",
        "not is_paused and others == 0\n",
        "not is_paused\n",
        ("tests/integration/test_plain_way.py::test_what_takes_a_decision_goes_the_long_way",),
    ),
    Mutant(
        "first-versions-written-over-others-on-the-short-way",
        "what a change was made on",
        "common/dialects/postgresql/plain.py",
        "(_INSERT, ready.first_versions)):\n",
        "(_UPSERT, ready.first_versions)):\n",
        ("tests/integration/test_plain_way.py::test_what_takes_a_decision_goes_the_long_way",),
    ),
    Mutant(
        "parents-not-locked",
        "lock on parents",
        "common/dialects/postgresql/references.py",
        " FOR KEY SHARE) p ON true",
        ") p ON true",
        (
            "tests/integration/test_postgresql_applying.py::test_a_parent_that_was_checked_can_not_be_deleted_before_the_commit",
        ),
    ),
    Mutant(
        "forks-taken-for-duplicates",
        "fork check",
        "consumer/dedup.py",
        "    if mark.last_tx_id is not None and facts.tx_id > mark.last_tx_id:\n        return Standing.FORKED\n",
        "",
        (
            "tests/unit/test_consumer_decisions.py",
            "tests/integration/test_apply_oddities.py::test_a_rewound_node_is_noticed_within_one_message",
            "tests/integration/test_apply_oddities.py::test_a_tx_that_begins_below_the_watermark_and_ends_above_is_of_a_rewound_node",
        ),
    ),
    Mutant(
        "forks-across-the-watermark",
        "fork check",
        "consumer/dedup.py",
        "        return Standing.FORKED\n    if mark.last_tx_id",
        "        return Standing.NEW\n    if mark.last_tx_id",
        (
            "tests/unit/test_consumer_decisions.py",
            "tests/integration/test_apply_oddities.py::test_a_rewound_node_is_noticed_within_one_message",
            "tests/integration/test_apply_oddities.py::test_a_tx_that_begins_below_the_watermark_and_ends_above_is_of_a_rewound_node",
        ),
    ),
    Mutant(
        "postgresql-seals-under-an-ended-incarnation",
        "fork check",
        "common/dialects/postgresql/sealing.py",
        "        if has_another.fetchone() == (True,):\n",
        "        if has_another.fetchone() is None:\n",
        ("tests/integration/test_rejoin.py::test_what_a_running_node_writes_and_would_seal_meanwhile_is_not_lost",),
    ),
    Mutant(
        "sqlite-seals-under-an-ended-incarnation",
        "fork check",
        "common/dialects/sqlite/sealing.py",
        "                self._check_incarnation(connection)\n",
        "",
        ("tests/integration/test_rejoin.py::test_what_a_running_node_writes_and_would_seal_meanwhile_is_not_lost",),
    ),
    Mutant(
        "no-heartbeat-sent",
        "heartbeat",
        "producer/announcing.py",
        "            self._send(heartbeat)\n",
        "            del heartbeat\n",
        ("tests/integration/test_heartbeats.py::test_a_node_says_what_it_has",),
    ),
    Mutant(
        "heartbeat-not-heard",
        "heartbeat",
        "consumer/control.py",
        "                return self._hear(control, line)\n",
        "                return True\n",
        (
            "tests/integration/test_heartbeats.py::test_it_is_kept_with_the_peer",
            "tests/integration/test_heartbeats.py::test_the_last_batch_before_a_silence_is_missed",
        ),
    ),
    Mutant(
        "old-heartbeats-heard-again",
        "heartbeat",
        "consumer/heartbeats.py",
        "    elif known.heartbeat_us is not None and not _is_news(connection, heartbeat, known, now_us):\n",
        "    elif known.heartbeat_us is not None and heartbeat.source_node == heartbeat.incarnation:\n",
        ("tests/integration/test_heartbeats.py::test_an_old_one_that_is_said_again_changes_nothing",),
    ),
    Mutant(
        "messages-unwrap-to-anything",
        "bounds",
        "consumer/arrivals.py",
        "    return replace(limits, max_stream_bytes=limits.max_message_bytes)\n",
        "    return limits\n",
        (
            "tests/integration/test_apply_refused.py"
            "::test_a_message_that_unwraps_to_more_than_memory_holds_is_set_aside",
        ),
    ),
    Mutant(
        "every-line-of-garbage-is-looked-at",
        "bounds",
        "common/wire/decode.py",
        "        if self.has_fault and not _may_open(line):\n",
        "        if self.has_fault and not line:\n",
        ("tests/unit/test_wire.py::test_many_lines_that_say_nothing_are_one_stretch_and_cost_next_to_nothing",),
    ),
    Mutant(
        "garbage-line-by-line",
        "bounds",
        "common/wire/decode.py",
        "        if reader.has_fault and (skipped := lines.skip()):\n",
        '        if reader.has_fault and (skipped := b""):\n',
        ("tests/unit/test_wire.py::test_lines_that_say_nothing_are_not_even_counted_one_by_one",),
    ),
    Mutant(
        "any-number-of-letters-of-a-message",
        "bounds",
        "consumer/arrivals.py",
        "                if broken > _MOST_BROKEN:\n",
        "                if broken < 0:\n",
        ("tests/integration/test_apply_refused.py::test_one_message_makes_a_bounded_number_of_dead_letters",),
    ),
    Mutant(
        "made-up-names-keep-others-out",
        "bounds",
        "consumer/requests.py",
        "    return request.from_node in named or connection.execute(heard).first() is not None\n",
        "    return False and connection.execute(heard).first() is not None\n",
        ("tests/integration/test_gaps.py::test_who_is_known_takes_the_place_of_a_made_up_name",),
    ),
    Mutant(
        "refusals-fill-the-log",
        "bounds",
        "common/seldom.py",
        "                return None\n            self._told[key] = _Told(now)\n",
        "                pass\n            self._told[key] = _Told(now)\n",
        ("tests/unit/test_seldom.py", "tests/integration/test_gaps.py::test_what_is_refused_fills_no_log"),
    ),
    Mutant(
        "token-shown-to-proxies",
        "tokens",
        "common/transports/http/client.py",
        '    return urlsplit(url).scheme == "https" and not is_loopback_url(url)\n',
        "    return not is_loopback_url(url)\n",
        ("tests/integration/test_http_hostile_peer.py::test_a_proxy_of_the_environment_does_not_see_the_token",),
    ),
    Mutant(
        "files-go-on-after-revoking",
        "tokens",
        "common/web/page/access.py",
        "            door_of(request).find(request, by_person=False)\n        except LoginNeededError as error:\n"
        "            raise BrokenOffError",
        "            pass\n        except LoginNeededError as error:\n            raise BrokenOffError",
        ("tests/integration/test_page_audit.py::test_a_file_breaks_off_when_its_token_is_revoked",),
    ),
    Mutant(
        "bodies-outlive-their-token",
        "tokens",
        "consumer/serve_heartbeat.py",
        "        await check_still(request)\n",
        "",
        ("tests/integration/test_http_push.py::test_a_token_revoked_while_its_body_is_on_the_way_writes_nothing",),
    ),
    Mutant(
        "pushes-outlive-their-token",
        "tokens",
        "consumer/push_queue.py",
        "            self._check()\n",
        "            pass\n",
        ("tests/integration/test_http_push.py::test_what_waits_in_the_queue_is_not_applied_once_its_token_is_revoked",),
    ),
    Mutant(
        "attempts-not-noted",
        "attempt record",
        "consumer/attempts.py",
        "            upsert(connection, rf.attempt, [_row(key, count, now_us) for key, count in counts.items()])\n"
        "            return counts\n",
        "            del now_us\n            return counts\n",
        ("tests/integration/test_apply_killed.py::test_a_tx_that_kills_the_process_is_set_aside_alone",),
    ),
    Mutant(
        "postgresql-sealers-do-not-wait",
        "sealer's lock",
        "common/dialects/postgresql/sealing_sql.py",
        "last_tx_id FROM rf_seal FOR UPDATE\n",
        "last_tx_id FROM rf_seal\n",
        (
            "tests/integration/test_postgresql_sealing.py::test_many_writers_and_two_sealers",
            "tests/integration/test_postgresql_applying.py::test_sealer_and_appliers_take_turns",
        ),
    ),
    Mutant(
        "sqlite-sealers-do-not-look-again",
        "sealer's lock",
        "common/dialects/sqlite/sealing.py",
        "fetchone()[0] != prepared.turn:",
        "fetchone()[0] < 0:",
        ("tests/unit/test_sqlite_sealing.py",),
    ),
    Mutant(
        "sqlite-takes-away-what-was-written-since",
        "own stretch of a touch log",
        "common/dialects/sqlite/storing.py",
        "            if stretch.last > stretch.after:\n",
        "            for stretch in [stretch._replace(after=0)]:\n",
        ("tests/property/test_sqlite_sealing_amid_writes.py",),
    ),
    Mutant(
        "sqlite-marks-keep-numbers-of-before",
        "own stretch of a touch log",
        "common/dialects/sqlite/storing.py",
        "    _forget_bounds(connection, shortened)\n",
        "",
        ("tests/property/test_sqlite_sealing_amid_writes.py",),
    ),
    Mutant(
        "sqlite-batches-overwrite-what-is-still-to-be-found",
        "writes that comparing has yet to find",
        "common/dialects/sqlite/applying.py",
        "                self._missed.update((table.name, key_text(key)) for key in found)\n",
        "",
        ("tests/unit/test_sqlite_missed.py",),
    ),
    Mutant(
        "sqlite-batches-cover-a-table-made-anew",
        "triggers of a table that is written",
        "common/dialects/sqlite/applying.py",
        "                raise UncapturedError(table.name)\n",
        "                pass\n",
        ("tests/integration/test_tables_made_anew.py",),
    ),
    Mutant(
        "postgresql-batches-cover-a-table-made-anew",
        "triggers of a table that is written",
        "common/dialects/postgresql/applying.py",
        "        if found is None or found[0]:\n            raise UncapturedError(table.name)\n",
        "        assert found is not None\n",
        ("tests/integration/test_tables_made_anew.py",),
    ),
    Mutant(
        "postgresql-batches-cover-a-table-made-anew-on-the-short-way",
        "triggers of a table that is written",
        "common/dialects/postgresql/plain.py",
        "        if uncaptured or (any_unsealed and any(map(self._is_unsealed, self._claimed))):\n",
        "        if any_unsealed and any(map(self._is_unsealed, self._claimed)):\n",
        ("tests/integration/test_tables_made_anew.py",),
    ),
    Mutant(
        "signatures-not-looked-at",
        "signatures",
        "consumer/arrivals.py",
        "        fault = part_fault(item, self._trust)\n",
        "        fault = None\n",
        ("tests/integration/test_signatures.py", "tests/e2e/test_forged.py"),
    ),
    Mutant(
        "signatures-not-looked-at-on-the-short-way",
        "signatures",
        "consumer/plain/reading.py",
        "        if not self._reading.is_believed(tx):\n",
        "        if False:\n",
        ("tests/integration/test_signatures.py::test_the_short_way_looks_at_signatures_too",),
    ),
    Mutant(
        "signatures-of-letters-not-looked-at-again",
        "signatures",
        "consumer/dead_letters/loading.py",
        "None if answered_for else trust)",
        "None)",
        ("tests/integration/test_signatures.py",),
    ),
    Mutant(
        "snapshot-with-unsealed-rows-on-sqlite",
        "a snapshot's moment",
        "common/dialects/sqlite/frozen.py",
        "            before = dict(self._before.get(table_id, {}))\n",
        "            before = {}\n",
        ("tests/integration/test_snapshot_converges.py::test_what_is_not_sealed_is_taken_back",),
    ),
    Mutant(
        "snapshot-with-unsealed-rows-on-postgresql",
        "a snapshot's moment",
        "common/dialects/postgresql/frozen.py",
        "            before = self._before(table, table_id)\n",
        "            before = {}\n",
        ("tests/integration/test_snapshot_converges.py::test_what_is_not_sealed_is_taken_back",),
    ),
    Mutant(
        "snapshot-of-tables-that-nobody-holds",
        "a snapshot's moment",
        "common/dialects/postgresql/frozen.py",
        '                    raw.execute(f"LOCK TABLE {relation(table)} IN ACCESS SHARE MODE".encode())\n',
        "                    pass\n",
        ("tests/integration/test_snapshot_held.py",),
    ),
    Mutant(
        "snapshot-over-own-changes",
        "what only the taker of a snapshot has",
        "consumer/snapshots/fitting.py",
        "    if missing:\n",
        "    if False:\n",
        ("tests/integration/test_snapshot.py::test_whoever_has_rows_is_no_new_node",),
    ),
    Mutant(
        "snapshot-behind-what-was-applied",
        "what only the taker of a snapshot has",
        "consumer/snapshots/fitting.py",
        "        _check_others(connection, found)\n",
        "        pass\n",
        ("tests/integration/test_snapshot_held.py",),
    ),
    Mutant(
        "snapshot-over-what-was-written-unseen",
        "what only the taker of a snapshot has",
        "consumer/snapshots/fitting.py",
        "    refuse_unseen(node)\n",
        "",
        ("tests/integration/test_snapshot_held.py",),
    ),
    Mutant(
        "rows-taken-for-any-author",
        "whom a comparison believes",
        "consumer/verifying/taking.py",
        "        if not self._may_forward:\n",
        "        if False:\n",
        ("tests/integration/test_verify_hostile.py::test_rows_that_nobody_may_send_are_refused_one_by_one",),
    ),
    Mutant(
        "rows-of-who-signs-taken-from-others",
        "whom a comparison believes",
        "consumer/verifying/taking.py",
        "        if self._trust.asks(author):\n",
        "        if False:\n",
        ("tests/integration/test_verify_hostile.py::test_rows_of_a_node_that_signs_come_from_it_alone",),
    ),
    Mutant(
        "rows-that-nobody-asked-for",
        "whom a comparison believes",
        "consumer/verifying/collecting.py",
        "        if not wanted[line.table].has(key):\n",
        "        if False:\n",
        ("tests/integration/test_verify_hostile.py::test_rows_that_can_not_be_are_no_answer",),
    ),
    Mutant(
        "what-is-on-its-way-is-repaired",
        "what a comparison calls different",
        "consumer/verifying/differences.py",
        "        return State.IN_FLIGHT\n",
        "        return State.DIFFERENT\n",
        ("tests/integration/test_verify_causes.py::test_what_has_not_come_yet_is_on_its_way",),
    ),
    Mutant(
        "what-waits-is-repaired",
        "what a comparison calls different",
        "consumer/verifying/differences.py",
        "        return State.EXPLAINED\n",
        "        return State.DIFFERENT\n",
        ("tests/integration/test_verify_causes.py::test_a_conflict_that_waits_explains_it",),
    ),
    Mutant(
        "kinds-not-looked-at-on-the-short-way",
        "kinds of values",
        "consumer/plain/forms.py",
        "        kinds = {name: kind_of(logical) for name, logical in use.meta.columns.items()}\n",
        "        kinds = dict.fromkeys(use.meta.columns, Any)\n",
        ("tests/integration/test_kinds_of_values.py",),
    ),
    Mutant(
        "kinds-not-looked-at-on-the-long-way",
        "kinds of values",
        "consumer/verify.py",
        "        if not fits(logical, value):\n",
        "        if False:\n",
        ("tests/integration/test_kinds_of_values.py",),
    ),
    Mutant(
        "a-configuration-with-a-password-is-everybodys",
        "secrets in sight",
        "common/config/load.py",
        "    refuse_secrets_in_sight(path, mode, tree)\n",
        "",
        ("tests/unit/test_config_secrets.py",),
    ),
)
