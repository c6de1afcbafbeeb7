-- Checksums, counts, and index files that are told of.
ALTER TABLE items ADD COLUMN digest INTEGER NOT NULL DEFAULT 0;
UPDATE items SET digest = digest_of(key, label, contract_id, vector);
ALTER TABLE edges ADD COLUMN digest INTEGER NOT NULL DEFAULT 0;
UPDATE edges SET digest = digest_of(from_id, to_id, json, x'');
ALTER TABLE contracts ADD COLUMN rows INTEGER NOT NULL DEFAULT 0;
UPDATE contracts SET rows = (SELECT count(*) FROM items WHERE contract_id = contracts.id);
ALTER TABLE contracts ADD COLUMN cached_rows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contracts ADD COLUMN cached_state TEXT NOT NULL DEFAULT '';
ALTER TABLE contracts ADD COLUMN cached_sha256 TEXT NOT NULL DEFAULT '';
