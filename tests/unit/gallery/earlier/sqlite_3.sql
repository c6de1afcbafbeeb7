BEGIN TRANSACTION;
CREATE TABLE caches (
    contract_id TEXT NOT NULL REFERENCES contracts, side TEXT NOT NULL, rows INTEGER NOT NULL,
    sha256 TEXT NOT NULL, revision INTEGER NOT NULL, token TEXT NOT NULL,
    PRIMARY KEY (contract_id, side)) STRICT;
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL) STRICT;
INSERT INTO "changes" VALUES(1,'b245c016133f902d');
INSERT INTO "changes" VALUES(2,'aa115b527c702279');
INSERT INTO "changes" VALUES(3,'80ff9b51d14ee713');
INSERT INTO "changes" VALUES(4,'dc60aa717db2e7be');
INSERT INTO "changes" VALUES(5,'8648015b2f63d1f9');
INSERT INTO "changes" VALUES(6,'2d867feafca3743f');
INSERT INTO "changes" VALUES(7,'7bdb435636ae4a5a');
CREATE TABLE contracts (id TEXT PRIMARY KEY, json TEXT NOT NULL, rows INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "contracts" VALUES('c51d43834b288906','{"name":"old","weights":"old","preprocessing":null,"dim":4,"metric":"cosine"}',3);
INSERT INTO "contracts" VALUES('c73028089556a707','{"name":"new","weights":"new","preprocessing":null,"dim":4,"metric":"cosine"}',2);
CREATE TABLE edges (
    id INTEGER PRIMARY KEY AUTOINCREMENT, from_id TEXT NOT NULL REFERENCES contracts,
    to_id TEXT NOT NULL REFERENCES contracts, revision INTEGER NOT NULL, ended INTEGER,
    digest INTEGER NOT NULL, json TEXT NOT NULL) STRICT;
INSERT INTO "edges" VALUES(1,'c73028089556a707','c51d43834b288906',4,6,1941311872,'{"schema_version":1,"from_contract":{"name":"new","weights":"new","preprocessing":null,"dim":4,"metric":"cosine"},"to_contract":{"name":"old","weights":"old","preprocessing":null,"dim":4,"metric":"cosine"},"result_digest":"0000000000000000000000000000000000000000000000000000000000000000","threshold":0.5,"far":0.001,"bridge":{"schema_version":1,"file":"bridge","kind":"test","source":{"name":"new","weights":"new","preprocessing":null,"dim":4,"metric":"cosine"},"target":{"name":"old","weights":"old","preprocessing":null,"dim":4,"metric":"cosine"},"query":{"source_dim":4,"target_dim":3,"matrix":"a54CQASQI8ANEdY+WVkRv6bB576BxVy+dEcBwK5/bb6bfl2/BqxUQJs0Zz4GjLS+","offset":null,"digest":"6656fe61ce2da3d9a861194e395efafcf1b8b3816599ddd15e2a09bb20fa64a7"},"gallery":{"source_dim":4,"target_dim":3,"matrix":"6ASQvhYFK78sD4e/ERfIvozB9j5mR3S+rS91P+6YTL7/u8Y8dd3FPwmMCz+sVgG/","offset":null,"digest":"548b5a1f8f4c425f2b6d91ec7591cf3f92f35f535662284ae9cc615dea6f7499"}},"created":"2026-01-01T00:00:04+00:00"}');
INSERT INTO "edges" VALUES(2,'c73028089556a707','c73028089556a707',4,NULL,867687053,'{"schema_version":1,"from_contract":{"name":"new","weights":"new","preprocessing":null,"dim":4,"metric":"cosine"},"to_contract":{"name":"new","weights":"new","preprocessing":null,"dim":4,"metric":"cosine"},"result_digest":"0000000000000000000000000000000000000000000000000000000000000000","threshold":0.3,"far":0.001,"bridge":{"schema_version":1,"file":"bridge","kind":"test","source":{"name":"new","weights":"new","preprocessing":null,"dim":4,"metric":"cosine"},"target":{"name":"new","weights":"new","preprocessing":null,"dim":4,"metric":"cosine"},"query":{"source_dim":4,"target_dim":3,"matrix":"a54CQASQI8ANEdY+WVkRv6bB576BxVy+dEcBwK5/bb6bfl2/BqxUQJs0Zz4GjLS+","offset":null,"digest":"6656fe61ce2da3d9a861194e395efafcf1b8b3816599ddd15e2a09bb20fa64a7"},"gallery":{"source_dim":4,"target_dim":3,"matrix":"6ASQvhYFK78sD4e/ERfIvozB9j5mR3S+rS91P+6YTL7/u8Y8dd3FPwmMCz+sVgG/","offset":null,"digest":"548b5a1f8f4c425f2b6d91ec7591cf3f92f35f535662284ae9cc615dea6f7499"}},"created":"2026-01-01T00:00:04+00:00"}');
INSERT INTO "edges" VALUES(3,'c73028089556a707','c51d43834b288906',6,NULL,805533177,'{"schema_version":1,"from_contract":{"name":"new","weights":"new","preprocessing":null,"dim":4,"metric":"cosine"},"to_contract":{"name":"old","weights":"old","preprocessing":null,"dim":4,"metric":"cosine"},"result_digest":"0000000000000000000000000000000000000000000000000000000000000000","threshold":0.4,"far":0.001,"bridge":{"schema_version":1,"file":"bridge","kind":"test","source":{"name":"new","weights":"new","preprocessing":null,"dim":4,"metric":"cosine"},"target":{"name":"old","weights":"old","preprocessing":null,"dim":4,"metric":"cosine"},"query":{"source_dim":4,"target_dim":3,"matrix":"ydsmvxfpMr7o9NQ/6L0oP04Z0r8lgKq7Upsfv90yGD4Z2c2/DJN3PrIHcT4drsk/","offset":null,"digest":"0b869403cff30e27f10e43e2bc0965c353a5d728fe579c51cb1a60bfa6d1f887"},"gallery":{"source_dim":4,"target_dim":3,"matrix":"TB+iPjCzAj9zHr+/tywQQOAz9b/YB40/MOmovg1yYb9LAii/JwksvyWowj50ZuG9","offset":null,"digest":"3781230d66980a74aabb3d0ad6c65e0fb2c20bc5ac88ff08218ea402afbfa8d7"}},"created":"2026-01-01T00:00:06+00:00"}');
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, label TEXT,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL, revision INTEGER NOT NULL,
    digest INTEGER NOT NULL, vector BLOB NOT NULL) STRICT;
INSERT INTO "items" VALUES(1,'k0','l','c51d43834b288906','2026-01-01T00:00:01+00:00',2,23400858,X'D9625B3E7565023F34C5513EDFD14EBF');
INSERT INTO "items" VALUES(8,'k1','again','c51d43834b288906','2026-01-01T00:00:02+00:00',3,2521798322,X'F190983DDCED52BED7AB26BE7E4876BF');
INSERT INTO "items" VALUES(9,'k2',NULL,'c51d43834b288906','2026-01-01T00:00:02+00:00',3,160148715,X'4506493F629AFF3E9A6511BEB0DDAC3E');
INSERT INTO "items" VALUES(11,'n','n','c73028089556a707','2026-01-01T00:00:05+00:00',5,1086999025,X'A104433F35A9963D35BDBDBEE9B706BF');
INSERT INTO "items" VALUES(12,'k3',NULL,'c73028089556a707','2026-01-01T00:00:05+00:00',5,437834392,X'ACEAFCBE52D750BFA5A81CBE159A843E');
CREATE TABLE past (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, label TEXT,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL, revision INTEGER NOT NULL,
    ended INTEGER NOT NULL, until TEXT NOT NULL, digest INTEGER NOT NULL,
    vector BLOB NOT NULL) STRICT;
INSERT INTO "past" VALUES(2,'k1',NULL,'c51d43834b288906','2026-01-01T00:00:01+00:00',2,3,'2026-01-01T00:00:02+00:00',1946224241,X'07B6343FD931B23EA75AD6BE25FCE73E');
INSERT INTO "past" VALUES(3,'k2','x','c51d43834b288906','2026-01-01T00:00:01+00:00',2,3,'2026-01-01T00:00:02+00:00',3698521112,X'DB88013F8903D13EC893213D0A40423F');
INSERT INTO "past" VALUES(4,'k3',NULL,'c51d43834b288906','2026-01-01T00:00:01+00:00',2,5,'2026-01-01T00:00:05+00:00',608939988,X'010D2FBF15E41ABEA031E5BE9C570E3F');
INSERT INTO "past" VALUES(5,'k4',NULL,'c51d43834b288906','2026-01-01T00:00:01+00:00',2,7,'2026-01-01T00:00:07+00:00',583006317,X'9D103A3D4C3DABBE68E964BF639796BE');
CREATE TABLE switches (
    number INTEGER PRIMARY KEY, revision INTEGER NOT NULL,
    contract_id TEXT NOT NULL REFERENCES contracts, folder TEXT, time TEXT NOT NULL,
    before INTEGER, restores INTEGER) STRICT;
INSERT INTO "switches" VALUES(1,1,'c51d43834b288906',NULL,'2026-01-01T00:00:00+00:00',NULL,NULL);
INSERT INTO "switches" VALUES(2,4,'c73028089556a707',NULL,'2026-01-01T00:00:04+00:00',1,NULL);
INSERT INTO "switches" VALUES(3,6,'c73028089556a707',NULL,'2026-01-01T00:00:06+00:00',2,NULL);
CREATE UNIQUE INDEX one_edge ON edges (from_id, to_id) WHERE ended IS NULL;
CREATE INDEX items_by_contract ON items (contract_id);
CREATE INDEX past_by_key ON past (key);
CREATE INDEX past_by_end ON past (ended, contract_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('edges',3);
INSERT INTO "sqlite_sequence" VALUES('changes',7);
INSERT INTO "sqlite_sequence" VALUES('items',12);
COMMIT;
PRAGMA application_id = 1836606051;
PRAGMA user_version = 3;
