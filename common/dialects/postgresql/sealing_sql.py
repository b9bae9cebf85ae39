"""The statements of sealing. Each runs within the sealer's one transaction, under the lock of `rf_seal`."""

from common.clock import YEAR_2200_US, to_iso
from common.dialects.postgresql.chains import TRUNCATED
from common.dialects.postgresql.unsealed_sql import ENDED_ROWS
from common.versions import UNTOLD_US

LOCK = """
SELECT snapshot, server_identity, incarnation, era, last_lsn, last_tx_id FROM rf_seal FOR UPDATE
"""

HAS_ANOTHER = "SELECT EXISTS (SELECT FROM rf_node WHERE is_self AND incarnation <> %s)"
"""Whether the node has begun another incarnation. A statement of its own: what waited for the lock would not see it."""

PEEK = """
SELECT snapshot, pg_current_snapshot()::text, server_identity, incarnation, last_lsn,
       EXISTS (SELECT FROM rf_seal_pending), ({identity}) FROM rf_seal
"""

SNAPSHOT = "SELECT pg_current_snapshot()::text"

ANY_ENDED = """
SELECT EXISTS (
    SELECT FROM unnest(%(lows)s::xid8[], %(highs)s::xid8[]) AS ended(low, high)
    CROSS JOIN LATERAL (SELECT FROM rf_change_log l WHERE l.xid >= ended.low AND l.xid < ended.high LIMIT 1) l)
"""

WEAKEST_US = 1
"""`captured_at` of what must not beat what others write, in microseconds since the epoch."""


def _us(instant: str) -> str:
    return f"(extract(epoch FROM {instant}) * 1000000)::bigint"


_TOLD_US = f"CASE WHEN captured_at < '{to_iso(YEAR_2200_US)}' THEN {_us('captured_at')} ELSE {UNTOLD_US} END"
"""As `common.versions.next_hlc` has it."""

_ENDED_TXS = """
SELECT max(l.seq) AS last_seq, l.xid, count(*)::int AS changes, min(l.captured_at) AS captured_at,
       sum(octet_length(l.pk) + coalesce(octet_length(l.before), 4) + coalesce(octet_length(l.after), 4) + 240)
           AS bytes,
       min(l.shape_id) AS first_shape, max(l.shape_id) AS last_shape
FROM {log} GROUP BY l.xid
"""

PENDING_BIN = 125
"""Changes. So much is set aside as one row, and sealed together."""

_INTO_BINS = f"""
SELECT max(last_seq) AS last_seq, sum(changes) AS changes, {_us("min(captured_at)")} AS captured_us,
       array_agg(last_seq) AS last_seqs, array_agg(xid) AS xids, array_agg(changes) AS each_changes,
       array_agg({_us("captured_at")}) AS each_captured_us, array_agg(bytes) AS each_bytes,
       array_agg(first_shape) AS first_shapes, array_agg(last_shape) AS last_shapes, max(total) AS total
FROM (SELECT *, sum(changes) OVER (ORDER BY last_seq ROWS UNBOUNDED PRECEDING) AS total FROM {{txs}}) t
GROUP BY (total - 1) / %(bin)s, changes > %(bin)s
"""
"""Transactions that follow each other, about `bin` changes of them a row; one that has more is alone."""

_BIN = """
last_seq, changes, captured_us, last_seqs, xids, each_changes, each_captured_us, each_bytes, first_shapes, last_shapes
"""
_OF_BINS = """
SELECT tx.last_seq, tx.xid, tx.changes, tx.captured_us, tx.bytes,
       CASE WHEN tx.first_shape = tx.last_shape THEN ARRAY[tx.first_shape]
            ELSE (SELECT array_agg(DISTINCT l.shape_id) FROM rf_change_log l WHERE l.xid = tx.xid) END AS shapes{beside}
FROM {bins} CROSS JOIN LATERAL unnest(
    last_seqs, xids, each_changes, each_captured_us, each_bytes, first_shapes, last_shapes
) AS tx(last_seq, xid, changes, captured_us, bytes, first_shape, last_shape)
ORDER BY tx.last_seq
"""

ENDED = f"""
WITH ended_tx AS ({_ENDED_TXS.format(log=ENDED_ROWS + "WHERE (SELECT snapshot FROM rf_seal) = %(before)s")}),
bins AS MATERIALIZED ({_INTO_BINS.format(txs="ended_tx")}),
step AS MATERIALIZED (
    SELECT CASE WHEN max(total) <= %(at_once)s THEN %(at_once)s ELSE %(most)s END AS most FROM bins),
placed AS MATERIALIZED (SELECT *, total <= greatest(changes, (SELECT most FROM step)) AS is_in FROM bins),
set_aside AS (
    INSERT INTO rf_seal_pending ({_BIN}) SELECT {_BIN} FROM placed WHERE NOT is_in RETURNING 1)
{_OF_BINS.format(bins="(SELECT * FROM placed WHERE is_in) b", beside=", EXISTS (SELECT FROM set_aside)")}
"""
"""The transactions that ended in the ranges, in the order of their last log row: a transaction that built on another
wrote its row after the other had committed. All where that is no more than `at_once`; else about the first `most`
changes, and the rest is set aside. None where another sealer has taken them meanwhile: `before` is no longer what is
remembered."""

_UNSEALED = "rf_change_log l WHERE NOT EXISTS (SELECT FROM rf_sealed s WHERE s.seq = l.seq)"
FILL_PENDING = f"""
WITH unsealed AS ({_ENDED_TXS.format(log=_UNSEALED)})
INSERT INTO rf_seal_pending ({_BIN}) SELECT {_BIN} FROM ({_INTO_BINS.format(txs="unsealed")}) b
"""

TAKE_PENDING = f"""
WITH first AS (
    SELECT last_seq,
           sum(changes) OVER (ORDER BY last_seq ROWS UNBOUNDED PRECEDING) <= greatest(changes, %(most)s) AS is_in
    FROM (SELECT last_seq, changes FROM rf_seal_pending ORDER BY last_seq LIMIT %(most)s) p),
taken AS (
    DELETE FROM rf_seal_pending p USING first f WHERE p.last_seq = f.last_seq AND f.is_in RETURNING p.*)
{_OF_BINS.format(bins="taken", beside="")}
"""
"""The first of those set aside that together stay within the bound; what is larger goes alone."""

_ENTRIES = """
WITH tx AS (SELECT * FROM unnest(%(xids)s::xid8[]) WITH ORDINALITY AS t(xid, place)),
entry AS (
    SELECT row_number() OVER (ORDER BY tx.place, l.seq) + %(last_lsn)s AS lsn, tx.place, tx.xid, l.seq, l.op,
           (%(table_ids)b::int[])[l.shape_id] AS table_id, l.pk AS key, l.captured_at, l.old_tid, l.new_tid
    FROM tx CROSS JOIN LATERAL (SELECT * FROM rf_change_log l WHERE l.xid = tx.xid OFFSET 0) l),
"""

_NOT_FOLLOWING = f"""
lag(place) OVER w = place AND lag(new_tid) OVER w IS DISTINCT FROM old_tid AND old_tid IS DISTINCT FROM '{TRUNCATED}'
"""

SEAL = f"""{_ENTRIES}
numbered AS (
    SELECT table_id, key, lsn, xid, seq, op, row_number() OVER w AS n, lead(lsn) OVER w IS NULL AS is_last,
           {_TOLD_US} AS captured_us,
           {_NOT_FOLLOWING} OR op = 'I' AND lag(op) OVER w = 'D' AND lag(place) OVER w = place AS may_be_tangled
    FROM entry WINDOW w AS (PARTITION BY table_id, key ORDER BY lsn)),
clocked AS (
    SELECT e.table_id, e.key, e.lsn, e.xid, e.seq, e.op, e.is_last, e.may_be_tangled,
           first_value(v.node_id) OVER w AS known_node, first_value(v.hlc) OVER w AS known_hlc,
           first_value(v.place) OVER w AS known_place,
           coalesce(first_value(v.main_epoch) OVER w, 0) + sum(r.raised) OVER w AS main_epoch, r.raised,
           e.n + greatest(coalesce(first_value(v.hlc) OVER w, 0), max(e.captured_us - e.n) OVER w) AS hlc
    FROM numbered e CROSS JOIN LATERAL (
        SELECT (e.captured_us > {WEAKEST_US} AND e.table_id = ANY(%(main_wins)b::int[]))::int AS raised) r
    LEFT JOIN LATERAL (
        SELECT *, v.ctid AS place FROM rf_row_version v
        WHERE e.n = 1 AND v.table_id = e.table_id AND v.key = e.key LIMIT 1) v ON true
    WINDOW w AS (PARTITION BY e.table_id, e.key ORDER BY e.lsn ROWS UNBOUNDED PRECEDING)),
based AS (
    SELECT *, lag(hlc) OVER (PARTITION BY table_id, key ORDER BY lsn) AS previous_hlc FROM clocked),
versioned AS (
    SELECT table_id, key, lsn, xid, seq, op, is_last, may_be_tangled, known_place, hlc, main_epoch,
           main_epoch - raised AS base_epoch,
           coalesce(previous_hlc, known_hlc, CASE WHEN op <> 'I' THEN 0 END) AS base_hlc,
           CASE WHEN previous_hlc IS NOT NULL THEN %(node)s::text
                WHEN known_hlc IS NOT NULL THEN known_node
                WHEN op <> 'I' THEN '' END AS base_node
    FROM based),
sealed AS (
    INSERT INTO rf_sealed (era, lsn, xid, seq, hlc, base_hlc, main_epoch, base_epoch, base_node)
    SELECT %(era)s, lsn, xid, seq, hlc, base_hlc, main_epoch,
           CASE WHEN base_hlc IS NOT NULL THEN base_epoch END, base_node
    FROM versioned),
met_first AS (
    INSERT INTO rf_row_version (table_id, key, hlc, base_hlc, main_epoch, base_epoch, deleted, node_id, base_node)
    SELECT table_id, key, hlc, coalesce(base_hlc, 0), main_epoch, base_epoch, op = 'D', %(node)s::text,
           coalesce(base_node, '')
    FROM versioned WHERE is_last AND known_place IS NULL),
met_again AS (
    UPDATE rf_row_version v
    SET hlc = n.hlc, base_hlc = coalesce(n.base_hlc, 0), main_epoch = n.main_epoch, base_epoch = n.base_epoch,
        deleted = n.op = 'D', node_id = %(node)s::text, base_node = coalesce(n.base_node, '')
    FROM versioned n WHERE n.is_last AND n.known_place IS NOT NULL AND v.ctid = n.known_place)
SELECT count(*), bool_or(may_be_tangled) FROM versioned
"""
"""LSN, version and base of every change of the txs. A row written again gets a clock value above its last:
hlc(n) = max(captured(n), hlc(n-1) + 1), which is n + max over all up to n of (captured - n). In the tables named by
`main_wins` each change goes an epoch above the one it replaces, but what has the weakest time: nobody is known to have
written it. Nobody else writes versions under this lock, so none is looked up twice."""

TANGLED = f"""{_ENTRIES}
numbered AS (
    SELECT *, {_NOT_FOLLOWING}
           OR op = 'I' AND new_tid = first_value(old_tid) OVER (PARTITION BY table_id, key, place ORDER BY lsn)
           AS unchained
    FROM entry WINDOW w AS (PARTITION BY table_id, key ORDER BY lsn)),
marked AS (SELECT *, bool_or(unchained) OVER (PARTITION BY table_id, key) AS tangled FROM numbered)
SELECT json_agg(json_build_array(table_id, key, place, lsn, seq, op, old_tid, new_tid) ORDER BY lsn) FROM marked
WHERE tangled
"""
"""The rows whose changes don't follow each other as they were logged. Asked for only where `SEAL` says there may be
some: a row deleted and inserted again in one transaction is enough for that."""

ADD_TXS = """
INSERT INTO rf_tx (incarnation, to_lsn, from_lsn, prev_lsn, tx_id, exported_at, grouped, tables, bytes, captured_us)
SELECT %(incarnation)s, to_lsn, from_lsn, from_lsn - 1, tx_id, %(exported_at)s, false, (%(tables)b::text[])[described],
       bytes, captured_us
FROM unnest(%(to_lsns)s::bigint[], %(from_lsns)s::bigint[], %(tx_ids)s::text[], %(described)s::int[],
            %(bytes)s::bigint[], %(captured)s::bigint[])
    AS t(to_lsn, from_lsn, tx_id, described, bytes, captured_us)
"""
"""`described`: the place of a tx's description among `tables`, from 1; most txs have the same. Binary, since a text
would be read as an array anew for each row."""

REMEMBER = """
UPDATE rf_seal SET snapshot = %(snapshot)s, server_identity = %(identity)s, incarnation = %(incarnation)s,
                   era = %(era)s, last_lsn = %(last_lsn)s, last_tx_id = %(last_tx_id)s
RETURNING pg_current_xact_id()::text::bigint
"""

NEW_ERA = """
INSERT INTO rf_era (incarnation) VALUES (%(incarnation)s)
ON CONFLICT (incarnation) DO UPDATE SET incarnation = excluded.incarnation RETURNING era
"""

LAST_OF_ERA = """
SELECT to_lsn, tx_id FROM rf_tx WHERE incarnation = %(incarnation)s ORDER BY to_lsn DESC LIMIT 1
"""

SHAPES = """
SELECT s.shape_id, table_id, t.name, s.meta FROM rf_shape s JOIN rf_table t USING (table_id)
WHERE s.shape_id = ANY(%(shapes)s)
"""
