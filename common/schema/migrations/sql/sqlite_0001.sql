CREATE TABLE rf_sqlite (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID
;;
INSERT INTO rf_sqlite (name, value) VALUES ('database_id', lower(hex(randomblob(16))))
;;
CREATE TABLE rf_table (
    table_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    shape_id INTEGER,
    compared TEXT NOT NULL DEFAULT 'first' CHECK (compared IN ('first', 'again', 'done'))
)
;;
CREATE TABLE rf_shape (
    shape_id INTEGER PRIMARY KEY AUTOINCREMENT,
    table_id INTEGER NOT NULL,
    shape TEXT NOT NULL
)
;;
CREATE TABLE rf_mark (
    id INTEGER PRIMARY KEY
)
;;
CREATE TABLE rf_mark_bound (
    mark INTEGER NOT NULL,
    shape_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (mark, shape_id)
) WITHOUT ROWID
;;
CREATE TABLE rf_seal (
    incarnation TEXT NOT NULL PRIMARY KEY,
    last_lsn INTEGER NOT NULL,
    last_tx_id TEXT
) WITHOUT ROWID
;;
CREATE TABLE rf_seal_turn (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    turn INTEGER NOT NULL
)
;;
INSERT INTO rf_seal_turn (id, turn) VALUES (1, 0)
;;
CREATE TABLE rf_change_log (
    incarnation TEXT NOT NULL,
    lsn INTEGER NOT NULL,
    tx_id TEXT NOT NULL,
    table_name TEXT NOT NULL,
    op TEXT NOT NULL,
    line BLOB NOT NULL,
    PRIMARY KEY (incarnation, lsn)
) WITHOUT ROWID
;;
CREATE TABLE rf_row_version (
    table_id INTEGER NOT NULL,
    "key" TEXT NOT NULL,
    main_epoch INTEGER NOT NULL,
    hlc INTEGER NOT NULL,
    node_id TEXT NOT NULL,
    base_epoch INTEGER NOT NULL,
    base_hlc INTEGER NOT NULL,
    base_node TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    digest BLOB,
    PRIMARY KEY (table_id, "key")
) WITHOUT ROWID
;;
