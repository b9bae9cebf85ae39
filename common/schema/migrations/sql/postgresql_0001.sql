-- What only PostgreSQL needs: the change log, what sealing remembers, versions of rows, and what capture was made for.
-- docs/reference/capture-postgresql.md explains the tables.
CREATE TABLE rf_table (
    table_id integer PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    json_name text NOT NULL
)
;;
COMMENT ON TABLE rf_table IS 'Tables that were ever captured or applied to, by their name on the wire.'
;;
CREATE TABLE rf_shape (
    shape_id integer PRIMARY KEY,
    table_id integer NOT NULL,
    meta text COLLATE "C" NOT NULL,
    UNIQUE (table_id, meta)
)
;;
COMMENT ON TABLE rf_shape IS 'Key and columns with their logical types: a log row is encoded under the shape it was captured with.'
;;
CREATE TABLE rf_capture (
    table_id integer PRIMARY KEY,
    shape_id integer NOT NULL,
    relation oid NOT NULL,
    last_column integer NOT NULL,
    fingerprint text NOT NULL
)
;;
COMMENT ON TABLE rf_capture IS 'The tables that are captured now, and a digest of the SQL that does it.'
;;
CREATE TABLE rf_paused_row (
    table_id integer NOT NULL,
    key text COLLATE "C" NOT NULL,
    shape_id integer NOT NULL,
    digest bigint[] NOT NULL,
    PRIMARY KEY (table_id, key)
)
;;
COMMENT ON TABLE rf_paused_row IS 'The rows of a paused table as they were when it was paused, or as they were applied since: a number for each column of the shape.'
;;
CREATE TABLE rf_change_log (
    seq bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    captured_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    shape_id integer NOT NULL,
    op "char" NOT NULL,
    old_tid tid,
    new_tid tid,
    pk text COLLATE "C" NOT NULL,
    before text COLLATE "C",
    after text COLLATE "C"
)
;;
COMMENT ON TABLE rf_change_log IS 'Written by the triggers and by nobody else: one row a change, in the transaction of the change.'
;;
COMMENT ON COLUMN rf_change_log.new_tid IS 'Where the new row version lies; the next change of the row has it as old_tid.'
;;
CREATE INDEX rf_change_log_xid ON rf_change_log (xid, seq)
;;
CREATE TABLE rf_era (
    era integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incarnation text COLLATE "C" NOT NULL UNIQUE
)
;;
COMMENT ON TABLE rf_era IS 'A short number for each incarnation of this node.'
;;
CREATE TABLE rf_seal (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    snapshot text NOT NULL,
    server_identity text NOT NULL DEFAULT '',
    incarnation text COLLATE "C" NOT NULL DEFAULT '',
    era integer,
    last_lsn bigint NOT NULL DEFAULT 0,
    last_tx_id text COLLATE "C"
)
;;
COMMENT ON TABLE rf_seal IS 'One row: what sealing has seen. Its lock is what the sealer and the appliers take turns by.'
;;
INSERT INTO rf_seal (snapshot) SELECT pg_current_snapshot()::text
;;
CREATE TABLE rf_seal_pending (
    last_seq bigint PRIMARY KEY,
    xid xid8 NOT NULL,
    changes bigint NOT NULL,
    captured_us bigint NOT NULL,
    bytes bigint NOT NULL,
    shapes integer[] NOT NULL
)
;;
COMMENT ON TABLE rf_seal_pending IS 'Transactions that the stored snapshot shows as committed and that are not sealed yet: one step had too many.'
;;
CREATE TABLE rf_sealed_tx (
    era integer NOT NULL,
    to_lsn bigint NOT NULL,
    xid xid8 NOT NULL,
    PRIMARY KEY (era, to_lsn)
)
;;
COMMENT ON TABLE rf_sealed_tx IS 'The transaction id of each sealed tx: where its rows stand in rf_change_log.'
;;
CREATE TABLE rf_sealed (
    era integer NOT NULL,
    lsn bigint NOT NULL,
    seq bigint NOT NULL,
    hlc bigint NOT NULL,
    base_hlc bigint,
    main_epoch integer NOT NULL,
    base_epoch integer,
    base_node text COLLATE "C",
    PRIMARY KEY (era, lsn)
)
;;
COMMENT ON TABLE rf_sealed IS 'LSN, version and base of each sealed change, beside the log so that its rows are never rewritten.'
;;
CREATE TABLE rf_row_version (
    table_id integer NOT NULL,
    key text COLLATE "C" NOT NULL,
    hlc bigint NOT NULL,
    base_hlc bigint NOT NULL,
    main_epoch integer NOT NULL,
    base_epoch integer NOT NULL,
    deleted boolean NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    base_node text COLLATE "C" NOT NULL,
    PRIMARY KEY (table_id, key)
)
;;
COMMENT ON TABLE rf_row_version IS 'The version of each row that was ever sealed or applied here; a deleted row leaves its tombstone.'
