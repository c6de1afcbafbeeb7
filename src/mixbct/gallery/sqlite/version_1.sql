-- The first version of a gallery's file. What makes each version out of the one before is never to be
-- edited, only added to.
CREATE TABLE contracts (id TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
CREATE TABLE edges (
    from_id TEXT NOT NULL REFERENCES contracts, to_id TEXT NOT NULL REFERENCES contracts,
    json TEXT NOT NULL, PRIMARY KEY (from_id, to_id)) STRICT;
CREATE TABLE query_model (
    one INTEGER PRIMARY KEY CHECK (one = 1), contract_id TEXT NOT NULL REFERENCES contracts,
    folder TEXT) STRICT;
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, label TEXT NOT NULL,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL,
    vector BLOB NOT NULL) STRICT;
CREATE INDEX items_by_contract ON items (contract_id);
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL,
    removed INTEGER NOT NULL) STRICT;
