-- The tables of every database (gallery/tables.py), each contract's vectors in one of their own. Rows
-- of one revision have one time, and those of before there were any have those of their times.
DROP TABLE caches;
DROP INDEX past_by_key;
DROP INDEX past_by_end;
ALTER TABLE contracts RENAME TO contracts_3;
ALTER TABLE items RENAME TO items_3;
ALTER TABLE past RENAME TO past_3;
ALTER TABLE edges RENAME TO edges_3;
ALTER TABLE switches RENAME TO switches_3;
ALTER TABLE changes RENAME TO changes_3;
TABLES;
CREATE TABLE caches (
    contract INTEGER NOT NULL, side TEXT NOT NULL, rows INTEGER NOT NULL, sha256 TEXT NOT NULL,
    revision INTEGER NOT NULL, token TEXT NOT NULL, PRIMARY KEY (contract, side)) STRICT;
INSERT INTO contracts SELECT row_number() OVER (ORDER BY id), id, json, rows FROM contracts_3;
INSERT INTO items SELECT i.id, key, label, number, digest FROM items_3 i
    JOIN contracts c ON c.id = contract_id ORDER BY i.id;
INSERT INTO past SELECT p.id, key, label, number, digest, ended, vector FROM past_3 p
    JOIN contracts c ON c.id = contract_id ORDER BY p.id;
INSERT INTO edges SELECT s.number, t.number, revision, ended, e.json, digest FROM edges_3 e
    JOIN contracts s ON s.id = from_id JOIN contracts t ON t.id = to_id
    WHERE ended IS NULL OR ended > revision;
INSERT INTO switches SELECT s.number, revision, c.number, folder, time, before, restores
    FROM switches_3 s JOIN contracts c ON c.id = contract_id;
INSERT INTO gallery SELECT 4, ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'items_3'), 0),
    'exact';
INSERT INTO changes
    WITH began AS (SELECT revision, time, id FROM items_3 UNION ALL
        SELECT revision, time, id FROM past_3),
    seen AS (SELECT iif(revision, revision, 1 - dense_rank() OVER (
            PARTITION BY revision ORDER BY time DESC)) AS revision, time, id FROM began UNION ALL
        SELECT ended, until, NULL FROM past_3 UNION ALL
        SELECT revision, time, NULL FROM switches_3 UNION ALL
        SELECT revision, NULL, NULL FROM changes_3)
    SELECT s.revision, coalesce(min(time), (SELECT max(time) FROM switches_3)),
        ifnull(min(id), 1 + ifnull(max(max(id)) OVER (
            ORDER BY s.revision ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)),
        ifnull(c.token, '') FROM seen s LEFT JOIN changes_3 c USING (revision)
    GROUP BY s.revision;
ROWS;
DROP TABLE items_3;
DROP TABLE past_3;
DROP TABLE edges_3;
DROP TABLE switches_3;
DROP TABLE changes_3;
DROP TABLE contracts_3;
