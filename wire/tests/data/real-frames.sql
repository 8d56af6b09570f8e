-- Makes real-frames.hex: frames of the plugin of a real server, one a line, with every message, every
-- replica identity and values of many types. Seeds of the fuzz corpus, and a test that all can be read.
--
--   psql -XqAt -f real-frames.sql | grep . > real-frames.hex
--
-- as a superuser, in an empty database of a server that has the plugin and wal_level = logical.

SET client_min_messages = warning;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int4, b text);
CREATE DOMAIN positive AS int4 CHECK (VALUE > 0);
CREATE TABLE scalars (id int8 PRIMARY KEY, b bool, i2 int2, i4 int4, f4 float4, f8 float8, n numeric, t text, v varchar(20), c char(5), nm name,
  by bytea, d date, ti time, tt timetz, ts timestamp, tz timestamptz, iv interval, u uuid, j json, jb jsonb, m mood, ip inet, ci cidr, mac macaddr,
  bi bit(5), vb varbit, o oid, mo money, lsn pg_lsn, x xml, p point, r int4range, mr int4multirange, dom positive, comp pair, q "char", ts_v tsvector, ts_q tsquery);
CREATE TABLE arrays (id int4 PRIMARY KEY, b bool[], i int4[], f float8[], n numeric[], t text[], ts timestamptz[], u uuid[], jb jsonb[], m mood[], ip inet[], dom positive[], comp pair[], r tsrange[]);
CREATE TABLE toasted (id int4 PRIMARY KEY, big text, small text);
ALTER TABLE toasted ALTER big SET STORAGE external;
CREATE TABLE whole (a int4, b text);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE nothing (a int4, b text);
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE by_index (a int4, b text NOT NULL, g int4 GENERATED ALWAYS AS (a * 2) STORED);
CREATE UNIQUE INDEX by_index_b ON by_index (b);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b;
CREATE TABLE parts (id int4 PRIMARY KEY, t text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE no_columns ();

SELECT FROM pg_create_logical_replication_slot('real_frames', 'rsrepl');
INSERT INTO scalars VALUES (1, true, -2, 3, 1.5, 'NaN', 12345.678900, 'Grüße', 'v', 'c', 'name', '\xdeadbeef', '0044-03-15 BC', '24:00', '12:00+05:30', 'infinity',
  '2024-02-29 12:34:56.789', '1 year -2 days 03:04:05.6', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1}', '{"a": [1, null]}', 'happy', '10.0.0.1/8', '::/0',
  '08:00:2b:01:02:03', '10101', '111', 42, 12.34, '16/B374D848', '<a/>', '(1,2)', '[1,5)', '{[1,2),[5,)}', 7, ROW(1, 'x y'), 'q', 'a:1A b', 'a & b');
INSERT INTO scalars (id, n, f4, d, tz) VALUES (2, 'NaN', '-Infinity', 'infinity', '-infinity'), (3, '-Infinity', '-0', '5874897-12-31', '294276-01-01'), (4, 1e300, 1e-40, '0001-01-01', '0001-01-01 BC');
INSERT INTO arrays VALUES (1, '{t,NULL}', '[0:1][3:4]={{1,2},{3,4}}', '{1.5,NaN}', '{1.50,NaN,Infinity}', '{a,"b c",NULL,"NULL",""}', '{infinity,2000-01-01}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}',
  '{"{\"a\": 1}"}', '{sad,happy}', '{10.0.0.1,::1/64}', '{1,2}', '{"(1,x)"}', '{"[2000-01-01,2001-01-01)"}'), (2, '{}', NULL, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
INSERT INTO toasted VALUES (1, repeat('x', 3000), 'a');
UPDATE toasted SET small = 'b';
UPDATE toasted SET id = 2;
UPDATE toasted SET big = 'short';
INSERT INTO whole VALUES (1, 'a'), (1, 'a'), (2, NULL);
UPDATE whole SET b = 'c' WHERE a = 2;
DELETE FROM whole WHERE a = 1;
INSERT INTO nothing VALUES (1, 'a');
UPDATE nothing SET b = 'b';
DELETE FROM nothing;
INSERT INTO by_index VALUES (1, 'k'), (2, 'l');
UPDATE by_index SET b = 'z' WHERE a = 1;
UPDATE by_index SET a = 9;
DELETE FROM by_index WHERE b = 'l';
INSERT INTO parts VALUES (1, 'part');
INSERT INTO no_columns DEFAULT VALUES;
ALTER TABLE whole ADD c int4 DEFAULT 5;
ALTER TABLE whole DROP b;
INSERT INTO whole VALUES (7, 8);
BEGIN;
INSERT INTO whole VALUES (1, 1);
SAVEPOINT s;
INSERT INTO whole VALUES (2, 2);
ROLLBACK TO s;
SELECT FROM pg_logical_emit_message(true, 'in', 'inside');
TRUNCATE by_index, parts RESTART IDENTITY CASCADE;
COMMIT;
SELECT FROM pg_logical_emit_message(false, 'out', '\x00ff'::bytea);
SELECT FROM pg_replication_origin_create('elsewhere');
SELECT FROM pg_replication_origin_session_setup('elsewhere');
BEGIN;
SELECT FROM pg_replication_origin_xact_setup('0/1', '2000-01-01');
INSERT INTO whole VALUES (3, 3);
COMMIT;
SELECT FROM pg_replication_origin_session_reset();
SELECT FROM pg_replication_origin_drop('elsewhere');
SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('real_frames', NULL, NULL, 'format_version', '3', 'messages', 'on');
SELECT FROM pg_drop_replication_slot('real_frames');
