-- What publications make of changes: scenarios for pgrx-tests/pgoutput.rs (the same messages as pgoutput) and
-- for tests/e2e/publications.rs (the same rows as a native subscription).
--
-- Each scenario has a schema of its own, of its name, which is the search_path.
--   == NAME        a scenario
--   @ both         tables, and the rows that are there before the slots, on the source and on the targets
--   @ target       instead of `both` on the targets
--   @ source       the rest of what the source has before the slots: publications, named after the scenario
--   @ work         what is replicated; a paragraph is one string of statements, and so one transaction, unless
--                  it says otherwise

== publish_insert
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
@ source
CREATE PUBLICATION publish_insert FOR TABLE t WITH (publish = 'insert');
@ work
INSERT INTO t VALUES (4, 'd'), (5, NULL);

UPDATE t SET v = 'x' WHERE id IN (1, 4); DELETE FROM t WHERE id = 2;

UPDATE t SET id = id + 10 WHERE id = 5;

TRUNCATE t; INSERT INTO t VALUES (20, 'y');

== publish_update
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
@ source
CREATE PUBLICATION publish_update FOR TABLE t WITH (publish = 'update');
@ work
INSERT INTO t VALUES (4, 'd'); UPDATE t SET v = v || '!'; DELETE FROM t WHERE id = 2;

UPDATE t SET id = id + 10;

TRUNCATE t;

== publish_delete
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
@ source
CREATE PUBLICATION publish_delete FOR TABLE t WITH (publish = 'delete');
@ work
INSERT INTO t VALUES (4, 'd'); UPDATE t SET v = 'x' WHERE id = 1; DELETE FROM t WHERE id IN (2, 4);

TRUNCATE t;

== publish_truncate
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t);
INSERT INTO t VALUES (1, 'a'), (2, 'b'); INSERT INTO u VALUES (1, 1);
@ source
CREATE PUBLICATION publish_truncate FOR TABLE t, u WITH (publish = 'truncate');
@ work
INSERT INTO t VALUES (4, 'd'); UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 2;

TRUNCATE t CASCADE; INSERT INTO t VALUES (5, 'e');

== publish_insert_update
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
@ source
CREATE PUBLICATION publish_insert_update FOR TABLE t WITH (publish = 'insert, update');
@ work
INSERT INTO t VALUES (4, 'd'); UPDATE t SET v = 'x' WHERE id IN (1, 4); DELETE FROM t WHERE id = 2;

UPDATE t SET id = id + 10; TRUNCATE t; INSERT INTO t VALUES (30, 'z');

== publish_insert_delete
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
@ source
CREATE PUBLICATION publish_insert_delete FOR TABLE t WITH (publish = 'insert, delete');
@ work
INSERT INTO t VALUES (4, 'd'); UPDATE t SET v = 'x' WHERE id IN (1, 4); DELETE FROM t WHERE id IN (2, 4);

UPDATE t SET id = 33 WHERE id = 3; DELETE FROM t WHERE id = 33; INSERT INTO t VALUES (4, 'again');

== publish_all_but_insert
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
@ source
CREATE PUBLICATION publish_all_but_insert FOR TABLE t WITH (publish = 'update, delete, truncate');
@ work
INSERT INTO t VALUES (4, 'd'); UPDATE t SET v = v || '!' WHERE id IN (1, 4); DELETE FROM t WHERE id IN (2, 4);

UPDATE t SET id = id + 10;

== publish_nothing
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a');
@ source
CREATE PUBLICATION publish_nothing FOR TABLE t WITH (publish = '');
@ work
INSERT INTO t VALUES (4, 'd'); UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 1; TRUNCATE t;

== two_publications
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a'), (2, 'b');
@ source
CREATE PUBLICATION two_publications FOR TABLE t WITH (publish = 'insert');
CREATE PUBLICATION two_publications_2 FOR TABLE t WITH (publish = 'delete, truncate');
@ work
INSERT INTO t VALUES (3, 'c'); UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 2;

TRUNCATE t; INSERT INTO t VALUES (1, 'first');

== filter_full
@ both
CREATE TABLE t (id int PRIMARY KEY, v int, w text);
ALTER TABLE t REPLICA IDENTITY FULL;
@ source
CREATE PUBLICATION filter_full FOR TABLE t WHERE (v > 10);
@ work
INSERT INTO t VALUES (1, 5, 'out'), (2, 15, 'in'), (3, NULL, 'null'), (4, 20, 'in');

UPDATE t SET w = 'in to in' WHERE id = 2;

UPDATE t SET v = 3, w = 'in to out' WHERE id = 4;

UPDATE t SET v = 30, w = 'out to in' WHERE id = 1;

UPDATE t SET w = 'out to out' WHERE id IN (3, 4);

UPDATE t SET v = 40, w = 'null to in' WHERE id = 3; UPDATE t SET v = NULL, w = 'in to null' WHERE id = 2;

UPDATE t SET id = id + 100; DELETE FROM t WHERE id IN (101, 104);

BEGIN; UPDATE t SET v = 1; UPDATE t SET v = 50; UPDATE t SET v = 60, id = id + 1000; COMMIT;

== filter_full_keyless
@ both
CREATE TABLE t (v int, w text);
ALTER TABLE t REPLICA IDENTITY FULL;
@ source
CREATE PUBLICATION filter_full_keyless FOR TABLE t WHERE (v > 10 AND w <> 'no');
@ work
INSERT INTO t VALUES (5, 'out'), (15, 'in'), (15, 'in'), (16, 'no'), (NULL, 'null');

UPDATE t SET w = 'yes' WHERE v = 16; UPDATE t SET v = v - 10 WHERE w = 'in'; UPDATE t SET v = 11 WHERE v IS NULL;

UPDATE t SET w = NULL WHERE v = 11; UPDATE t SET v = 70 WHERE v = 5; DELETE FROM t WHERE v = 16;

== filter_default
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
@ source
CREATE PUBLICATION filter_default FOR TABLE t WHERE (id > 10);
@ work
INSERT INTO t VALUES (1, 'out'), (2, 'out'), (11, 'in'), (12, 'in'), (13, 'in');

UPDATE t SET v = v || '!';

UPDATE t SET id = 21 WHERE id = 11; UPDATE t SET id = 3 WHERE id = 12; UPDATE t SET id = 31 WHERE id = 1;

UPDATE t SET id = 4 WHERE id = 2; DELETE FROM t WHERE id IN (3, 13);

== filter_index
@ both
CREATE TABLE t (id int PRIMARY KEY, k int NOT NULL, v text);
CREATE UNIQUE INDEX by_k ON t (k);
ALTER TABLE t REPLICA IDENTITY USING INDEX by_k;
@ source
CREATE PUBLICATION filter_index FOR TABLE t WHERE (k % 2 = 0);
@ work
INSERT INTO t SELECT i, i, 'v' FROM generate_series(1, 10) AS i;

UPDATE t SET v = 'w', id = id + 100; UPDATE t SET k = k + 20 WHERE k < 4; UPDATE t SET k = k + 21 WHERE k IN (5, 6);

DELETE FROM t WHERE k BETWEEN 7 AND 26;

== filter_insert_only
@ both
CREATE TABLE t (id int PRIMARY KEY, v int);
@ source
CREATE PUBLICATION filter_insert_only FOR TABLE t WHERE (v IS DISTINCT FROM 7) WITH (publish = 'insert');
@ work
INSERT INTO t VALUES (1, 6), (2, 7), (3, NULL); UPDATE t SET v = 8; DELETE FROM t;

== filter_or
@ both
CREATE TABLE t (id int PRIMARY KEY, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
@ source
CREATE PUBLICATION filter_or FOR TABLE t WHERE (v < 10);
CREATE PUBLICATION filter_or_2 FOR TABLE t WHERE (v > 90);
@ work
INSERT INTO t VALUES (1, 5), (2, 50), (3, 95), (4, NULL);

UPDATE t SET v = 100 - v; UPDATE t SET v = v + 45; DELETE FROM t WHERE v > 90;

== filter_by_operation
@ both
CREATE TABLE t (id int PRIMARY KEY, v int);
@ source
CREATE PUBLICATION filter_by_operation FOR TABLE t WHERE (v > 10) WITH (publish = 'insert');
CREATE PUBLICATION filter_by_operation_2 FOR TABLE t WHERE (id < 100) WITH (publish = 'insert, update');
CREATE PUBLICATION filter_by_operation_3 FOR TABLE t WITH (publish = 'delete');
@ work
INSERT INTO t VALUES (1, 5), (101, 5), (102, 15), (3, 15);

UPDATE t SET v = v + 1; UPDATE t SET id = 201 WHERE id = 1; UPDATE t SET id = 4 WHERE id = 101;

DELETE FROM t WHERE id IN (3, 102);

== filter_and_none
@ both
CREATE TABLE t (id int PRIMARY KEY, v int);
@ source
CREATE PUBLICATION filter_and_none FOR TABLE t WHERE (id > 10);
CREATE PUBLICATION filter_and_none_2 FOR TABLE t WITH (publish = 'insert');
@ work
INSERT INTO t VALUES (1, 1), (11, 11); UPDATE t SET v = 0; UPDATE t SET id = 12 WHERE id = 11; DELETE FROM t WHERE id = 12;

UPDATE t SET id = 2;

== filter_and_schema
@ both
CREATE TABLE t (id int PRIMARY KEY, v int);
@ source
CREATE PUBLICATION filter_and_schema FOR TABLE t WHERE (id > 10);
CREATE PUBLICATION filter_and_schema_2 FOR TABLES IN SCHEMA filter_and_schema;
@ work
INSERT INTO t VALUES (1, 1), (11, 11); UPDATE t SET v = 0; UPDATE t SET id = 2 WHERE id = 11; DELETE FROM t WHERE id = 1;

== filter_toast
@ both
CREATE TABLE t (id int PRIMARY KEY, n int, big text, other text);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL; ALTER TABLE t ALTER other SET STORAGE EXTERNAL;
ALTER TABLE t REPLICA IDENTITY FULL;
@ source
CREATE PUBLICATION filter_toast FOR TABLE t WHERE (n > 0 AND big LIKE 'yes%');
@ work
INSERT INTO t VALUES (1, 1, repeat('yes', 3000), repeat('o', 4000)), (2, 0, repeat('yes', 3000), repeat('o', 4000)),
                     (3, 1, repeat('no', 3000), NULL), (4, 0, NULL, repeat('o', 4000));

UPDATE t SET other = 'in to in' WHERE id = 1;

UPDATE t SET n = 1 WHERE id = 2;

UPDATE t SET n = 0 WHERE id = 1;

UPDATE t SET big = repeat('yes', 4000) WHERE id IN (3, 4); UPDATE t SET n = n + 1;

UPDATE t SET big = repeat('no', 4000) WHERE id = 2; DELETE FROM t WHERE id = 3;

== filter_toast_key
@ both
CREATE TABLE t (k text PRIMARY KEY, n int, filler text);
ALTER TABLE t ALTER k SET STORAGE EXTERNAL; ALTER TABLE t ALTER filler SET STORAGE PLAIN;
@ source
ALTER TABLE t SET (toast_tuple_target = 128);
CREATE PUBLICATION filter_toast_key FOR TABLE t WHERE (k < 'm');
@ work
INSERT INTO t SELECT repeat(l, 800), 1, repeat('f', 2000) FROM unnest('{a,b,x,y}'::text[]) AS l;

UPDATE t SET n = 2;

UPDATE t SET k = repeat('c', 900) WHERE k LIKE 'x%'; UPDATE t SET k = repeat('z', 900) WHERE k LIKE 'a%';

DELETE FROM t WHERE k LIKE 'b%';

== filter_expressions
@ both
CREATE TABLE t (id int PRIMARY KEY, s text, n numeric, d date, a int[], j jsonb, b bool);
ALTER TABLE t REPLICA IDENTITY FULL;
@ source
CREATE PUBLICATION filter_expressions FOR TABLE t
    WHERE (CASE WHEN s IN ('x', 'y') THEN n BETWEEN 1 AND 2 ELSE upper(s) LIKE 'A%' END
           OR d > '2000-01-01' OR a @> '{7}' OR j ->> 'k' = '1' OR b IS TRUE);
@ work
INSERT INTO t VALUES (1, 'x', 1.5), (2, 'y', 3), (3, 'abc', NULL), (4, 'bcd', NULL); INSERT INTO t (id, d) VALUES (5, '2001-01-01');
INSERT INTO t (id, a) VALUES (6, '{1,7}'); INSERT INTO t (id, j) VALUES (7, '{"k": "1"}'), (8, '{"k": 2}'); INSERT INTO t (id, b) VALUES (9, true);

UPDATE t SET n = coalesce(n, 0) + 0.6, s = translate(s, 'xa', 'zb'), b = NOT b, a = a || 8, d = d - 1000;

== filter_constant
@ both
CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);
@ source
CREATE PUBLICATION filter_constant FOR TABLE t WHERE (true), u WHERE (NULL);
@ work
INSERT INTO t VALUES (1), (2); INSERT INTO u VALUES (1); UPDATE t SET id = id + 10; UPDATE u SET id = 2; DELETE FROM t WHERE id = 11;

== filter_default_value
@ both
CREATE TABLE t (id int PRIMARY KEY, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
@ target
CREATE TABLE t (id int PRIMARY KEY, v int, added int DEFAULT 7);
ALTER TABLE t REPLICA IDENTITY FULL;
@ source
CREATE PUBLICATION filter_default_value FOR TABLE t;
@ work
INSERT INTO t VALUES (1, 1), (2, 2);

ALTER TABLE t ADD added int DEFAULT 7; ALTER PUBLICATION filter_default_value SET TABLE t WHERE (added = 7);

UPDATE t SET v = 5; UPDATE t SET added = 8 WHERE id = 1; DELETE FROM t WHERE id = 2;

== columns
@ both
CREATE TABLE t (id int PRIMARY KEY, a text, b text DEFAULT 'own');
@ source
CREATE PUBLICATION columns FOR TABLE t (id, a);
@ work
INSERT INTO t VALUES (1, 'a', 'b'), (2, NULL, 'b'); UPDATE t SET b = 'bb'; UPDATE t SET a = 'aa', id = 11 WHERE id = 1;

DELETE FROM t WHERE id = 2; TRUNCATE t; INSERT INTO t VALUES (3, 'a', NULL);

== columns_fewer
@ both
CREATE TABLE t (dropped int, a text, id int PRIMARY KEY, b text, c numeric);
ALTER TABLE t DROP dropped;
@ target
CREATE TABLE t (c numeric, id int PRIMARY KEY);
@ source
CREATE PUBLICATION columns_fewer FOR TABLE t (c, id);
@ work
INSERT INTO t VALUES ('a', 1, repeat('b', 5000), 1.5), ('a', 2, NULL, NULL); UPDATE t SET a = 'aa', c = 2; DELETE FROM t WHERE id = 1;

== columns_and_filter
@ both
CREATE TABLE t (id int PRIMARY KEY, a text, secret int);
@ source
CREATE PUBLICATION columns_and_filter FOR TABLE t (id, a) WHERE (secret < 10) WITH (publish = 'insert');
CREATE PUBLICATION columns_and_filter_2 FOR TABLE t (a, id) WHERE (id > 2) WITH (publish = 'update, delete');
@ work
INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 20), (3, 'c', NULL), (4, 'd', 4); UPDATE t SET a = 'x', secret = 0;

UPDATE t SET id = id + 10; DELETE FROM t WHERE id = 14;

== columns_every
@ both
CREATE TABLE t (id int PRIMARY KEY, a text);
@ target
CREATE TABLE t (id int PRIMARY KEY, a text, b int);
@ source
CREATE PUBLICATION columns_every FOR TABLE t (a, id);
CREATE PUBLICATION columns_every_2 FOR TABLE t;
@ work
INSERT INTO t VALUES (1, 'a'); UPDATE t SET a = 'b';

ALTER PUBLICATION columns_every DROP TABLE t; ALTER TABLE t ADD b int;

UPDATE t SET b = 1; INSERT INTO t VALUES (2, 'b', 2);

== schema
@ both
CREATE TABLE t (id int PRIMARY KEY, v text);
@ target
CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE came (id int);
@ source
CREATE SCHEMA schema_elsewhere; CREATE TABLE schema_elsewhere.came (id int);
CREATE PUBLICATION schema FOR TABLES IN SCHEMA schema;
@ work
INSERT INTO t VALUES (1, 'a'); CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1);

INSERT INTO schema_elsewhere.came VALUES (1); ALTER TABLE schema_elsewhere.came SET SCHEMA schema; INSERT INTO came VALUES (2);

ALTER TABLE came SET SCHEMA schema_elsewhere; INSERT INTO schema_elsewhere.came VALUES (3); INSERT INTO u VALUES (2);

== leaves
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (100);
@ source
CREATE PUBLICATION leaves FOR TABLE p;
@ work
INSERT INTO p VALUES (1, 'a'), (11, 'b'), (2, 'c'); UPDATE p SET v = 'x' WHERE id = 1; UPDATE p SET id = id + 20 WHERE id < 12;

DELETE FROM p WHERE id = 31; TRUNCATE p1; INSERT INTO p VALUES (3, 'd');

TRUNCATE p; INSERT INTO p1 VALUES (4, 'e'); INSERT INTO p2 VALUES (40, 'f');

== root_into_plain
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (100);
@ target
CREATE TABLE p (id int PRIMARY KEY, v text);
@ source
CREATE PUBLICATION root_into_plain FOR TABLE p WITH (publish_via_partition_root);
@ work
INSERT INTO p VALUES (1, 'a'), (11, 'b'), (2, 'c'); UPDATE p SET v = 'x' WHERE id = 1; UPDATE p SET id = id + 20 WHERE id < 12;

DELETE FROM p WHERE id = 31; INSERT INTO p1 VALUES (3, 'd'); UPDATE p2 SET v = 'y'; UPDATE p1 SET id = 4 WHERE id = 3;

== root_into_others
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY LIST (id);
CREATE TABLE odd PARTITION OF p FOR VALUES IN (1, 3, 5, 7);
CREATE TABLE even PARTITION OF p FOR VALUES IN (2, 4, 6) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF even FOR VALUES FROM (0) TO (4);
CREATE TABLE high PARTITION OF even FOR VALUES FROM (4) TO (10);
@ target
CREATE TABLE p (v text, id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE below PARTITION OF p FOR VALUES FROM (0) TO (4);
CREATE TABLE above PARTITION OF p FOR VALUES FROM (4) TO (10);
@ source
CREATE PUBLICATION root_into_others FOR TABLE p WITH (publish_via_partition_root);
@ work
INSERT INTO p SELECT i, 'v' || i FROM generate_series(1, 6) AS i;

UPDATE p SET id = 7 WHERE id = 2; UPDATE p SET id = 2 WHERE id = 3; UPDATE p SET v = 'w' WHERE id > 4; DELETE FROM p WHERE id = 4;

BEGIN; UPDATE p SET id = 4 WHERE id = 5; UPDATE p SET id = 3 WHERE id = 4; COMMIT;

== root_orders
@ both
CREATE TABLE p (id int, big text, v text, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
ALTER TABLE p ALTER big SET STORAGE EXTERNAL;
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (junk int, n int, v text, gone text, big text, id int NOT NULL);
ALTER TABLE p2 DROP junk, DROP gone; ALTER TABLE p2 ALTER big SET STORAGE EXTERNAL;
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (100);
@ target
CREATE TABLE p (id int PRIMARY KEY, big text, v text, n int);
@ source
CREATE PUBLICATION root_orders FOR TABLE p WITH (publish_via_partition_root);
@ work
INSERT INTO p VALUES (1, repeat('b', 4000), 'a', 1), (11, repeat('B', 4000), 'b', NULL), (12, NULL, NULL, 12);

UPDATE p SET n = 5; UPDATE p SET v = 'moved', id = id + 20 WHERE id IN (1, 11);

DELETE FROM p WHERE id = 12; UPDATE p SET big = 'small' WHERE id = 31;

ALTER TABLE p DROP n; INSERT INTO p VALUES (2, NULL, 'two'), (22, 'x', 'twentytwo'); UPDATE p SET v = v || '!';

== root_truncate
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (id);
CREATE TABLE p21 PARTITION OF p2 FOR VALUES FROM (10) TO (20);
CREATE TABLE q (LIKE p INCLUDING ALL) PARTITION BY RANGE (id);
CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10);
CREATE TABLE plain (id int PRIMARY KEY);
@ source
CREATE PUBLICATION root_truncate FOR TABLE p, q, plain WITH (publish_via_partition_root);
@ work
INSERT INTO p VALUES (1, 'a'), (11, 'b'); INSERT INTO q VALUES (1, 'q'); INSERT INTO plain VALUES (1);

TRUNCATE q, plain RESTART IDENTITY; INSERT INTO q VALUES (2, 'q');

TRUNCATE p1, p2, plain; INSERT INTO p VALUES (2, 'c');

TRUNCATE p; INSERT INTO p VALUES (3, 'd'), (13, 'e');

== root_attach_detach
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (v text, id int NOT NULL);
@ target
CREATE TABLE p (id int PRIMARY KEY, v text);
@ source
CREATE PUBLICATION root_attach_detach FOR TABLE p WITH (publish_via_partition_root);
@ work
INSERT INTO p VALUES (1, 'a'); INSERT INTO p2 VALUES ('unseen', 50);

DELETE FROM p2; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (100); INSERT INTO p VALUES (11, 'b'), (12, 'c');

ALTER TABLE p DETACH PARTITION p1; INSERT INTO p1 VALUES (2, 'unseen'); UPDATE p1 SET v = 'unseen'; UPDATE p SET v = 'd' WHERE id = 11;

ALTER TABLE p DETACH PARTITION p2; DELETE FROM p2 WHERE id = 12; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (200);

UPDATE p SET id = 150 WHERE id = 11; CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (200) TO (300); INSERT INTO p VALUES (201, 'e');

== leaves_attach_detach
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (v text, id int PRIMARY KEY);
@ source
CREATE PUBLICATION leaves_attach_detach FOR TABLE p;
@ work
INSERT INTO p VALUES (1, 'a'); INSERT INTO p2 VALUES ('unseen', 10);

DELETE FROM p2; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (100); INSERT INTO p VALUES (11, 'b');

ALTER TABLE p DETACH PARTITION p1; INSERT INTO p1 VALUES (2, 'unseen'); UPDATE p SET v = 'c';

== root_middle
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE m (v text, id int NOT NULL, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (5);
CREATE TABLE m2 (id int NOT NULL, v text); ALTER TABLE m ATTACH PARTITION m2 FOR VALUES FROM (5) TO (10);
ALTER TABLE p ATTACH PARTITION m FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (100);
@ target
CREATE TABLE m (v text, id int PRIMARY KEY); CREATE TABLE m2 (id int PRIMARY KEY, v text);
@ source
CREATE PUBLICATION root_middle FOR TABLE m WITH (publish_via_partition_root);
CREATE PUBLICATION root_middle_2 FOR TABLE m2 WITH (publish = 'insert');
@ work
INSERT INTO p VALUES (1, 'a'), (6, 'b'), (11, 'unseen'); UPDATE p SET id = 2 WHERE id = 6; UPDATE p SET id = 7 WHERE id = 11;

UPDATE p SET id = 20 WHERE id = 1; TRUNCATE m; INSERT INTO m VALUES ('c', 3); TRUNCATE p; INSERT INTO p VALUES (4, 'd');

== root_of_two
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE m (v text, id int NOT NULL, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (5);
ALTER TABLE p ATTACH PARTITION m FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (100);
@ target
CREATE TABLE p (id int PRIMARY KEY, v text);
@ source
CREATE PUBLICATION root_of_two FOR TABLE m WHERE (id <> 2) WITH (publish_via_partition_root);
CREATE PUBLICATION root_of_two_2 FOR TABLE p WHERE (id <> 3) WITH (publish_via_partition_root, publish = 'insert, update');
CREATE PUBLICATION root_of_two_3 FOR TABLE m1, p2 WITH (publish = 'delete');
@ work
INSERT INTO p VALUES (1, 'a'), (2, 'b'), (3, 'c'), (12, 'd'); UPDATE p SET v = v || '!'; DELETE FROM p WHERE id IN (1, 12);

== root_filter
@ both
CREATE TABLE p (id int, v int, w text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 (w text, v int, id int NOT NULL); ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (100);
ALTER TABLE p REPLICA IDENTITY FULL; ALTER TABLE p1 REPLICA IDENTITY FULL; ALTER TABLE p2 REPLICA IDENTITY FULL;
@ target
CREATE TABLE p (id int PRIMARY KEY, v int, w text);
@ source
CREATE PUBLICATION root_filter FOR TABLE p WHERE (v > 10) WITH (publish_via_partition_root);
@ work
INSERT INTO p VALUES (1, 5, 'out'), (2, 15, 'in'), (11, 5, 'out'), (12, 15, 'in'), (13, NULL, 'null');

UPDATE p SET v = 20 - v; UPDATE p SET v = v + 10, w = repeat('w', 5000); UPDATE p SET w = 'x' WHERE v > 10; UPDATE p SET id = id + 20 WHERE id < 3;

UPDATE p SET id = id - 10 WHERE id = 11; UPDATE p SET v = 0 WHERE id = 12; DELETE FROM p WHERE id > 11;

== root_columns
@ both
CREATE TABLE p (id int, a text, b text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 (b text, a text, id int NOT NULL); ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (100);
@ target
CREATE TABLE p (b text, id int PRIMARY KEY);
@ source
CREATE PUBLICATION root_columns FOR TABLE p (id, b) WITH (publish_via_partition_root);
@ work
INSERT INTO p VALUES (1, 'a1', 'b1'), (11, 'a2', 'b2'); UPDATE p SET a = 'x', id = 21 - id; DELETE FROM p WHERE id = 10;

== root_schema
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 (v text, id int NOT NULL); ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10);
CREATE TABLE plain (id int);
@ target
CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE p1 (v text, id int PRIMARY KEY); CREATE TABLE plain (id int);
@ source
CREATE PUBLICATION root_schema FOR TABLES IN SCHEMA root_schema WITH (publish_via_partition_root);
@ work
INSERT INTO p VALUES (1, 'a'), (2, 'b'); UPDATE p SET id = 3 WHERE id = 1; INSERT INTO plain VALUES (1);

ALTER TABLE p DETACH PARTITION p1; INSERT INTO p1 VALUES ('c', 4);

ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (20); DELETE FROM p WHERE id = 2; INSERT INTO p1 VALUES ('d', 14);

== root_identities
@ both
CREATE TABLE p (id int, k int NOT NULL, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (100);
ALTER TABLE p1 REPLICA IDENTITY FULL;
@ target
CREATE TABLE p (id int PRIMARY KEY, k int, v text);
@ source
CREATE PUBLICATION root_identities FOR TABLE p WITH (publish_via_partition_root);
@ work
INSERT INTO p VALUES (1, 1, 'a'), (2, 2, 'b'), (11, 11, 'c'), (12, 12, 'd'); UPDATE p SET v = v || '!', k = k + 1;

UPDATE p SET id = id + 1 WHERE id IN (2, 12); DELETE FROM p WHERE id IN (1, 11);

== alter_tables
@ both
CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY);
@ source
CREATE PUBLICATION alter_tables FOR TABLE a;
@ work
INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO c VALUES (1);

ALTER PUBLICATION alter_tables ADD TABLE b;

INSERT INTO a VALUES (2); INSERT INTO b VALUES (2);

ALTER PUBLICATION alter_tables SET TABLE b, c;

INSERT INTO a VALUES (3); INSERT INTO b VALUES (3); INSERT INTO c VALUES (3);

BEGIN; INSERT INTO b VALUES (4); ALTER PUBLICATION alter_tables DROP TABLE b; INSERT INTO b VALUES (5); INSERT INTO c VALUES (5); COMMIT;

BEGIN; SAVEPOINT s; ALTER PUBLICATION alter_tables DROP TABLE c; INSERT INTO c VALUES (6); ROLLBACK TO s; INSERT INTO c VALUES (7); COMMIT;

BEGIN; ALTER PUBLICATION alter_tables DROP TABLE c; INSERT INTO c VALUES (8); ROLLBACK; INSERT INTO c VALUES (9);

== alter_publish
@ both
CREATE TABLE t (id int PRIMARY KEY, v int);
@ source
CREATE PUBLICATION alter_publish FOR TABLE t;
@ work
INSERT INTO t VALUES (1, 1), (2, 2);

ALTER PUBLICATION alter_publish SET (publish = 'insert');

INSERT INTO t VALUES (3, 3); UPDATE t SET v = 10; DELETE FROM t WHERE id = 1;

BEGIN; ALTER PUBLICATION alter_publish SET (publish = 'insert, update'); UPDATE t SET v = 20 WHERE id = 2; COMMIT;

ALTER PUBLICATION alter_publish SET (publish = 'delete'); DELETE FROM t WHERE id = 3;

== alter_filter
@ both
CREATE TABLE t (id int PRIMARY KEY, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
@ source
CREATE PUBLICATION alter_filter FOR TABLE t WHERE (v < 10);
@ work
INSERT INTO t SELECT i, i FROM generate_series(1, 20) AS i;

ALTER PUBLICATION alter_filter SET TABLE t WHERE (v > 10); UPDATE t SET v = v + 1;

BEGIN; UPDATE t SET v = 0 WHERE id = 20; ALTER PUBLICATION alter_filter SET TABLE t; UPDATE t SET v = 1 WHERE id = 19; DELETE FROM t WHERE id = 18; COMMIT;

ALTER PUBLICATION alter_filter SET TABLE t WHERE (v IS NULL); UPDATE t SET v = NULL WHERE id > 15; UPDATE t SET v = 3 WHERE id = 16;

== alter_columns
@ both
CREATE TABLE t (id int PRIMARY KEY, a text, b text);
@ source
CREATE PUBLICATION alter_columns FOR TABLE t (id, a);
@ work
INSERT INTO t VALUES (1, 'a', 'b');

ALTER PUBLICATION alter_columns SET TABLE t (id, b); UPDATE t SET a = 'aa', b = 'bb'; INSERT INTO t VALUES (2, 'a', 'b');

BEGIN; ALTER PUBLICATION alter_columns SET TABLE t; UPDATE t SET a = 'aaa' WHERE id = 1; COMMIT;

== alter_via_root
@ both
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (v text, id int PRIMARY KEY); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (100);
@ target
CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE p1 (id int PRIMARY KEY, v text); CREATE TABLE p2 (v text, id int PRIMARY KEY);
@ source
CREATE PUBLICATION alter_via_root FOR TABLE p;
@ work
INSERT INTO p VALUES (1, 'a'), (11, 'b');

ALTER PUBLICATION alter_via_root SET (publish_via_partition_root); UPDATE p SET v = v || '!'; INSERT INTO p VALUES (2, 'c'), (12, 'd');

BEGIN; UPDATE p SET id = 13 WHERE id = 2; ALTER PUBLICATION alter_via_root SET (publish_via_partition_root = false);
UPDATE p SET id = 3 WHERE id = 12; DELETE FROM p WHERE id = 11; COMMIT;

== drop_and_create
@ both
CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int);
@ source
CREATE PUBLICATION drop_and_create FOR TABLE t;
@ work
INSERT INTO t VALUES (1, 1); INSERT INTO u VALUES (1, 1);

DROP PUBLICATION drop_and_create; CREATE PUBLICATION drop_and_create FOR TABLE u WHERE (id > 1);

INSERT INTO t VALUES (2, 2); INSERT INTO u VALUES (2, 2); UPDATE u SET v = 3;

BEGIN; DROP PUBLICATION drop_and_create; CREATE PUBLICATION drop_and_create FOR TABLE t WITH (publish = 'insert'); INSERT INTO t VALUES (3, 3); COMMIT;

== rename
@ both
CREATE TABLE t (id int PRIMARY KEY, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
@ target
CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE renamed (id int PRIMARY KEY, w int);
ALTER TABLE renamed REPLICA IDENTITY FULL;
@ source
CREATE PUBLICATION rename FOR TABLE t WHERE (v > 1);
@ work
INSERT INTO t VALUES (1, 1), (2, 2);

ALTER TABLE t RENAME v TO w; ALTER TABLE t RENAME TO renamed; INSERT INTO renamed VALUES (3, 3), (4, 1); UPDATE renamed SET w = 5 WHERE id = 4;

== large
@ both
CREATE TABLE p (id int, v int, w text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 (w text, id int NOT NULL, v int); ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (1000);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1000) TO (100000);
ALTER TABLE p REPLICA IDENTITY FULL; ALTER TABLE p1 REPLICA IDENTITY FULL; ALTER TABLE p2 REPLICA IDENTITY FULL;
@ target
CREATE TABLE p (id int PRIMARY KEY, v int, w text);
@ source
CREATE PUBLICATION large FOR TABLE p WHERE (v % 3 = 0) WITH (publish_via_partition_root);
@ work
BEGIN; INSERT INTO p SELECT i, i, repeat('w', i % 100) FROM generate_series(1, 3000) AS i; UPDATE p SET v = v + 1;
SAVEPOINT s; DELETE FROM p WHERE id % 2 = 0; ALTER PUBLICATION large SET TABLE p; DELETE FROM p WHERE id < 100; ROLLBACK TO s;
UPDATE p SET id = id + 5000 WHERE id BETWEEN 900 AND 1100;
ALTER PUBLICATION large SET TABLE p WHERE (v % 3 = 0 OR v % 2 = 0); UPDATE p SET v = v + 1 WHERE id % 7 = 0; COMMIT;

INSERT INTO p VALUES (50000, 4, 'end'), (50001, 5, 'end');
