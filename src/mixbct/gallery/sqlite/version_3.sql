-- Labels may be absent, there is history, and index files by side. What was removed before is not known, so the
-- indexes are built anew, once.
ALTER TABLE contracts DROP COLUMN cached_rows;
ALTER TABLE contracts DROP COLUMN cached_state;
ALTER TABLE contracts DROP COLUMN cached_sha256;
CREATE TABLE caches (
    contract_id TEXT NOT NULL REFERENCES contracts, side TEXT NOT NULL, rows INTEGER NOT NULL,
    sha256 TEXT NOT NULL, revision INTEGER NOT NULL, token TEXT NOT NULL,
    PRIMARY KEY (contract_id, side)) STRICT;
ALTER TABLE changes DROP COLUMN removed;
DELETE FROM changes WHERE revision < (SELECT max(revision) FROM changes);
CREATE TABLE switches (
    number INTEGER PRIMARY KEY, revision INTEGER NOT NULL,
    contract_id TEXT NOT NULL REFERENCES contracts, folder TEXT, time TEXT NOT NULL,
    before INTEGER, restores INTEGER) STRICT;
INSERT INTO switches SELECT 1, ifnull((SELECT max(revision) FROM changes), 0), contract_id, folder,
    strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now'), NULL, NULL FROM query_model;
DROP TABLE query_model;
ALTER TABLE edges RENAME TO edges_2;
CREATE TABLE edges (
    id INTEGER PRIMARY KEY AUTOINCREMENT, from_id TEXT NOT NULL REFERENCES contracts,
    to_id TEXT NOT NULL REFERENCES contracts, revision INTEGER NOT NULL, ended INTEGER,
    digest INTEGER NOT NULL, json TEXT NOT NULL) STRICT;
INSERT INTO edges (from_id, to_id, revision, digest, json)
    SELECT from_id, to_id, 0, digest, json FROM edges_2;
DROP TABLE edges_2;
CREATE UNIQUE INDEX one_edge ON edges (from_id, to_id) WHERE ended IS NULL;
ALTER TABLE items RENAME TO items_2;
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, label TEXT,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL, revision INTEGER NOT NULL,
    digest INTEGER NOT NULL, vector BLOB NOT NULL) STRICT;
INSERT INTO items SELECT id, key, label, contract_id, time, 0, digest, vector FROM items_2;
DELETE FROM sqlite_sequence WHERE name = 'items';
UPDATE sqlite_sequence SET name = 'items' WHERE name = 'items_2';
DROP TABLE items_2;
CREATE INDEX items_by_contract ON items (contract_id);
CREATE TABLE past (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, label TEXT,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL, revision INTEGER NOT NULL,
    ended INTEGER NOT NULL, until TEXT NOT NULL, digest INTEGER NOT NULL,
    vector BLOB NOT NULL) STRICT;
CREATE INDEX past_by_key ON past (key);
CREATE INDEX past_by_end ON past (ended, contract_id);
