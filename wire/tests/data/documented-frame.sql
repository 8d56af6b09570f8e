-- Makes documented-frame.hex, the frame that docs/wire-format.md explains: one transaction as the
-- plugin of a real server emits it.
--
--   psql -XqAt -f documented-frame.sql | grep . | fold -w 64 > documented-frame.hex
--
-- as a superuser, in an empty database of a server that has the plugin and wal_level = logical.

CREATE SCHEMA shop;
CREATE TABLE shop.item (id int4 PRIMARY KEY, name text NOT NULL, price numeric(10, 2), tags text[]);
SELECT FROM pg_create_logical_replication_slot('documented_frame', 'rsrepl');
BEGIN;
INSERT INTO shop.item VALUES (1, 'tea', 2.50, '{green,NULL}'), (2, 'Süßholz', NULL, NULL);
UPDATE shop.item SET id = 3 WHERE id = 2;
DELETE FROM shop.item WHERE id = 1;
COMMIT;
SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('documented_frame', NULL, NULL, 'format_version', '3');
SELECT FROM pg_drop_replication_slot('documented_frame');
