"""The statements that write the log's lines, and whole batches, byte for byte as `common.wire.encode` would."""

from common.wire.records import FORMAT

# A join for each line takes a quarter of the time that the lines take.
_TABLE = """
coalesce((%(names)b::text[])[l.shape_id],
         (SELECT n.json_name FROM rf_shape h JOIN rf_table n ON n.table_id = h.table_id WHERE h.shape_id = l.shape_id))
"""
_LINE = """
concat('{{"type":"change","lsn":', s.lsn, ',"tx_id":"', {tx_id}, '","table":', {table}, ',"op":"', l.op,
       '","pk":', l.pk, ',"before":', coalesce(l.before, 'null'), ',"after":', coalesce(l.after, 'null'),
       ',"version":[', s.main_epoch, ',', s.hlc, ',"', %(node)s::text, '"],"base":',
       CASE WHEN s.base_hlc IS NULL THEN 'null'
            ELSE concat('[', s.base_epoch, ',', s.base_hlc, ',"', s.base_node, '"]') END,
       ',"resolves":' || l.resolves,
       ',"captured_at":"', to_char(l.captured_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), E'"}}\\n')
"""
_LINE_OF_A_TX = _LINE.format(tx_id="t.tx_id", table=_TABLE)

MANY = f"""
SELECT t.to_lsn, convert_to(string_agg({_LINE_OF_A_TX}, '' ORDER BY s.lsn), 'UTF8')
FROM unnest(%(to_lsns)s::bigint[], %(from_lsns)s::bigint[], %(tx_ids)s::text[]) AS t(to_lsn, from_lsn, tx_id)
CROSS JOIN LATERAL (
    SELECT * FROM rf_sealed s WHERE s.era = %(era)s AND s.lsn BETWEEN t.from_lsn AND t.to_lsn OFFSET 0) s
CROSS JOIN LATERAL (SELECT * FROM rf_change_log l WHERE l.xid = s.xid AND l.seq = s.seq LIMIT 1) l
GROUP BY t.to_lsn, t.from_lsn HAVING count(*) = t.to_lsn - t.from_lsn + 1
"""
"""The lines of each of many txs, where all are there: the headers were read before, and a purge may come between."""

ONE = f"""
SELECT convert_to({_LINE.format(tx_id="%(tx_id)s::text", table=_TABLE)}, 'UTF8')
FROM rf_sealed s
CROSS JOIN LATERAL (SELECT * FROM rf_change_log l WHERE l.xid = s.xid AND l.seq = s.seq LIMIT 1) l
WHERE s.era = %(era)s AND s.lsn BETWEEN %(from_lsn)s AND %(to_lsn)s ORDER BY s.lsn
"""
"""The lines of a large tx, a row each."""

# Rather more than the batch has: beside what `bytes` counts, names in each line; ids and numbers of its header and end.
_WEIGHT = """
bytes + (to_lsn - from_lsn + 1) * (64 + 2 * octet_length(%(node)s::text)) + octet_length(tables) + 600
"""
_HEADER = f"""
'{{"type":"batch","format":"{FORMAT}","tx_id":"', t.tx_id, '","source_node":"', %(node)s::text,
'","incarnation":"', %(incarnation)s::text, '","exported_at":"', t.exported_at, '","from_lsn":', t.from_lsn,
',"to_lsn":', t.to_lsn, ',"prev_lsn":', t.prev_lsn, ',"changes":', c.changes, ',"part":1,"parts":1,"tables":',
t.tables, E'}}\\n'
"""
_END = """
'{"type":"end","tx_id":"', t.tx_id, '","changes":', c.changes, ',"sha256":"', encode(sha256(b.body), 'hex'), E'"}\\n'
"""

MESSAGES = f"""
WITH found AS (
    SELECT *, row_number() OVER w AS place, (sum(weight) OVER w)::bigint AS total,
           bool_and(weight <= %(small_bytes)s AND NOT grouped) OVER w AS is_small
    FROM (
        SELECT *, {_WEIGHT} AS weight FROM rf_tx
        WHERE incarnation = %(incarnation)s AND to_lsn > %(after)s ORDER BY to_lsn LIMIT %(most)s) t
    WINDOW w AS (ORDER BY to_lsn ROWS UNBOUNDED PRECEDING))
SELECT min(t.from_lsn), max(t.to_lsn), min(t.tx_id), count(*), count(b.body), max(t.total),
       coalesce(max(octet_length(b.body)), 0), coalesce(max(c.shape_id), 0),
       coalesce(string_agg(b.body || convert_to(concat({_END}), 'UTF8'), '' ORDER BY t.to_lsn), '')
FROM found t JOIN rf_era e USING (incarnation)
LEFT JOIN LATERAL (
    SELECT count(*) AS changes, max(shape_id) AS shape_id, string_agg(line, '') AS lines
    FROM (
        SELECT l.shape_id, {_LINE_OF_A_TX} AS line
        FROM rf_sealed s
        CROSS JOIN LATERAL (SELECT * FROM rf_change_log l WHERE l.xid = s.xid AND l.seq = s.seq LIMIT 1) l
        WHERE s.era = e.era AND s.lsn BETWEEN t.from_lsn AND t.to_lsn ORDER BY s.lsn) lines) c ON t.is_small
LEFT JOIN LATERAL (
    SELECT convert_to(concat({_HEADER}, c.lines), 'UTF8') AS body OFFSET 0) b
    ON c.changes = t.to_lsn - t.from_lsn + 1
WHERE t.place = 1 OR (t.is_small AND t.total <= %(limit)s)
GROUP BY (t.total - t.weight) / %(fill_bytes)s::bigint
ORDER BY 1
"""
"""The first txs as the batches of whole messages, up to the first that is not small. Where already the first is not,
one row tells of it, of no batch; none where there is no tx. A message takes the txs that begin within `fill_bytes`,
by their weights, so it has up to `small_bytes` more. The lines of a tx are put together in the order of the
subquery: to sort them once more, tx by tx, takes a seventh of all."""
