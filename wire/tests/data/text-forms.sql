-- Makes text-forms.tsv: what a real server writes for values of every type that wire/src/text knows.
--
--   psql -XqAt -f text-forms.sql > text-forms.tsv
--
-- as a superuser, in an empty UTF-8 database of PostgreSQL 15 with the contrib extensions. One line
-- for each value, fields separated by tabs:
--
--   type name, base type oid, kind, element oid, element kind, native hex or -, send hex, text,
--   length and alignment of an element as they are in pg_type, or -
--
-- `native` holds the bytes of the heap page without a varlena header; arrays have it (and the last
-- field) when the plugin sends them so. Text is escaped as in COPY.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pageinspect;
SET datestyle = 'ISO, YMD';
SET intervalstyle = postgres;
SET timezone = 'UTC';
SET extra_float_digits = 1;
SET bytea_output = hex;
SET lc_monetary = 'C';
SET xmloption = content;

DROP TYPE IF EXISTS mood CASCADE;
DROP DOMAIN IF EXISTS positive CASCADE;
CREATE TYPE mood AS ENUM ('sad', 'so-so', 'very happy', 'NULL', 'ẞ');
CREATE DOMAIN positive AS int4 CHECK (VALUE > 0);
CREATE DOMAIN pair AS int4[];
CREATE TEMP TABLE form (line bigserial, cols text[]);

-- Of the elements of an array, when they may lie in it as they are.
CREATE FUNCTION pg_temp.layout(element_type oid) RETURNS text LANGUAGE plpgsql AS $$
DECLARE t pg_type;
BEGIN
  SELECT * INTO t FROM pg_type WHERE oid = element_type;
  WHILE t.typtype = 'd' LOOP SELECT * INTO t FROM pg_type WHERE oid = t.typbasetype; END LOOP;
  IF t.typtype = 'b' AND t.typlen > 0 AND t.typname <> 'name'
      OR t.typname IN ('text', 'varchar', 'bpchar', 'json', 'bytea', 'numeric', 'jsonb') THEN
    RETURN t.typlen || t.typalign::text;
  END IF;
  RETURN '-';
END $$;

-- A page holds the value as it is: no compression, no TOAST.
CREATE FUNCTION pg_temp.native(tuple_type regtype, attr bytea) RETURNS text LANGUAGE plpgsql AS $$
DECLARE t pg_type;
BEGIN
  SELECT * INTO t FROM pg_type WHERE oid = tuple_type;
  IF t.typname = 'name' THEN
    RETURN encode(substring(attr FOR position('\x00'::bytea IN attr) - 1), 'hex');
  ELSIF t.typlen > 0 AND t.typtype = 'b' THEN
    RETURN encode(attr, 'hex');
  ELSIF t.typname IN ('text', 'varchar', 'bpchar', 'json', 'xml', 'bytea', 'numeric', 'jsonb')
      OR pg_temp.layout(t.typelem) <> '-' AND t.typsend = 'array_send'::regproc THEN
    RETURN encode(substring(attr FROM CASE WHEN get_byte(attr, 0) & 1 = 1 THEN 2 ELSE 5 END), 'hex');
  END IF;
  RETURN '-';
END $$;

CREATE FUNCTION pg_temp.kind(t pg_type) RETURNS text LANGUAGE sql AS $$
  SELECT CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN 'a' ELSE t.typtype::text END
$$;

-- One line for each of the values, which are given as literals of the type.
CREATE FUNCTION pg_temp.forms(type_name text, vals text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  declared pg_type; base pg_type; element pg_type; literal text;
BEGIN
  SELECT * INTO declared FROM pg_type WHERE oid = type_name::regtype;
  base := declared;
  WHILE base.typtype = 'd' LOOP SELECT * INTO base FROM pg_type WHERE oid = base.typbasetype; END LOOP;
  IF pg_temp.kind(base) = 'a' THEN
    SELECT * INTO element FROM pg_type WHERE oid = base.typelem;
    WHILE element.typtype = 'd' LOOP SELECT * INTO element FROM pg_type WHERE oid = element.typbasetype; END LOOP;
  END IF;
  DROP TABLE IF EXISTS scratch;
  EXECUTE format('CREATE TABLE scratch (v %s)', type_name);
  IF base.typlen = -1 THEN ALTER TABLE scratch ALTER v SET STORAGE plain; END IF;
  FOREACH literal IN ARRAY vals LOOP EXECUTE 'INSERT INTO scratch VALUES ($1::' || type_name || ')' USING literal; END LOOP;
  EXECUTE format($q$
    INSERT INTO form (cols)
    SELECT ARRAY[%L, %s::text, %L, %s::text, %L,
                 pg_temp.native(%L::regtype, i.t_attrs[1]), encode(%s(v), 'hex'), format('%%s', v), pg_temp.layout(%s)]
    FROM generate_series(0, pg_relation_size('scratch') / 8192 - 1) AS page,
         heap_page_item_attrs(get_raw_page('scratch', page::int), 'scratch', false) AS i
    JOIN scratch ON scratch.ctid = i.t_ctid
    ORDER BY scratch.ctid$q$,
    type_name, base.oid, pg_temp.kind(base), coalesce(element.oid, 0),
    coalesce(pg_temp.kind(element), 'b'), base.oid, base.typsend, coalesce(element.oid, 0));
END $$;

DO $$
DECLARE
  stamps text[] := ARRAY['2000-01-01', '1999-12-31 23:59:59.999999', '2024-02-29 12:34:56.789', '1970-01-01 00:00:00.000001',
    '0001-01-01', '0001-12-31 BC', '0001-01-01 00:00:01 BC', '0005-02-28 BC', '0005-02-29 BC', '0100-02-28', '1600-02-29',
    '1900-03-01', '4713-01-01 BC', '4714-11-24 00:00:00 BC', '9999-12-31 23:59:59.9', '10000-01-01 00:00:00.1',
    '12345-06-07 08:09:10.11', '99999-12-31 01:02:03.000400', '294276-12-31 23:59:59.999999', 'infinity', '-infinity',
    '2021-03-04 05:06:07.10', '0044-03-15 11:00 BC', '1582-10-15', '1582-10-04', '2038-01-19 03:14:08'];
BEGIN
  PERFORM setseed(0.42);
  PERFORM pg_temp.forms('bool', '{t,f}');
  PERFORM pg_temp.forms('"char"', ARRAY['', 'a', ' ', '\', '"', '~']);
  PERFORM pg_temp.forms('int2', '{0,1,-1,9,10,-10,99,100,32767,-32768}');
  PERFORM pg_temp.forms('int4', '{0,1,-1,9,10,99,100,1000,123456789,2147483647,-2147483648}');
  PERFORM pg_temp.forms('int8', '{0,1,-1,10,9223372036854775807,-9223372036854775808,1000000000000000000,999999999999999999}');
  PERFORM pg_temp.forms('oid', '{0,1,2147483648,4294967295}');
  PERFORM pg_temp.forms('xid', '{0,3,4294967295}');
  PERFORM pg_temp.forms('cid', '{0,4294967295}');
  PERFORM pg_temp.forms('xid8', '{0,1,18446744073709551615}');
  PERFORM pg_temp.forms('tid', ARRAY['(0,0)', '(1,2)', '(65536,1)', '(4294967295,65535)']);
  PERFORM pg_temp.forms('pg_lsn', '{0/0,16/B374D848,FFFFFFFF/FFFFFFFF,0/1,1/0,A/10}');
  PERFORM pg_temp.forms('money', ARRAY['0', '0.01', '-0.01', '9.99', '-1', '999.99', '1000', '1234567.89', '-1234567.89', '1000000',
    '100000.05', '92233720368547758.07', '-92233720368547758.08', '1000000000000', '999999999999.99', '1000000000000000', '999999999999999.99']);
  PERFORM pg_temp.forms('uuid', ARRAY['00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']);
  PERFORM pg_temp.forms('macaddr', '{08:00:2b:01:02:03,00:00:00:00:00:00,ff:ff:ff:ff:ff:ff}');
  PERFORM pg_temp.forms('macaddr8', '{08:00:2b:01:02:03:04:05,00:00:00:00:00:00:00:00,ff:ff:ff:ff:ff:ff:fe:ff}');

  PERFORM pg_temp.forms('float8', '{0,-0,1,-1,NaN,Infinity,-Infinity,0.1,0.5,1e14,123456789012345,1e15,1234567890123456,999999999999999,
    -1e20,1e23,8.41e21,9.5e-5,0.0001,0.00012345,0.00001,1.5e-5,5e-324,2.2250738585072014e-308,2.225073858507201e-308,1.7976931348623157e308,
    9007199254740991,9007199254740992,9007199254740994,9007199254740996,3.141592653589793,2.718281828459045,1e100,1e-100,123.456,-123456.789e3,
    4.35,0.3,2e-44,7.7e22,4.503599627370496e15,4.503599627370497e15,1.2345678901234567e-7,100,1000000,10000000,1e21,1e22,5e22,2e23,6e23,9e22,4e23}');
  PERFORM pg_temp.forms('float8', (SELECT array_agg((2::float8 ^ k)::text ORDER BY k) FROM generate_series(-1074, 1023) AS k WHERE k BETWEEN -70 AND 130 OR k % 5 = 0));
  PERFORM pg_temp.forms('float8', (SELECT array_agg('1e' || k) FROM generate_series(-30, 40) AS k));
  PERFORM pg_temp.forms('float8', (SELECT array_agg(((random() - 0.5) * 10::float8 ^ ((random() - 0.5) * 100))::text) FROM generate_series(1, 150)));
  PERFORM pg_temp.forms('float4', '{0,-0,1,-1,NaN,Infinity,-Infinity,0.1,0.3,99999,100000,123456,999999,1e6,1234567,1e5,-1e20,0.0001,0.00001,1e-45,1.17549435e-38,
    1.17549421e-38,3.4028235e38,16777216,16777217,16777218,33554432,8388608,8388607.5,3.1415927,2.7182817,1e10,1e11,5e9,3e-5,67108864,9.8e12,4.2e-8}');
  PERFORM pg_temp.forms('float4', (SELECT array_agg((2::float8 ^ k)::float4::text ORDER BY k) FROM generate_series(-149, 127) AS k));
  PERFORM pg_temp.forms('float4', (SELECT array_agg(((random() - 0.5) * 10::float8 ^ ((random() - 0.5) * 60))::float4::text) FROM generate_series(1, 150)));

  PERFORM pg_temp.forms('numeric', '{0,0.0,0.00000000,1,-1,NaN,Infinity,-Infinity,10,100,1000,9999,10000,10001,99999999,100000000,1.5,-1.5,0.1,0.01,0.001,0.0001,0.00001,
    0.00001000,1e-20,-1e-20,123456789.987654321,1e20,1e63,1e131,1.0e131,9e250,1e255,1e256,1e257,-1e260,0.12345,12345.0,12345.67890,1e-250,1e-260,-12345678901234567890.12345678901234567890,
    100000000000000000000000.00000000000000000001,0.99999999999999999999,9999.9999,10000.0001,1.0000,1.00000,-0.0,5e-1000,1e-8188}');
  PERFORM pg_temp.forms('numeric', ARRAY['1e1000', '-1e3000', '1e4000', rpad('7', 2000, '1234567890'), '0.' || rpad('', 2000, '0987654321'), '1.' || rpad('', 62, '0'), '1.' || rpad('', 63, '0'), '1.' || rpad('', 64, '0')]);
  PERFORM pg_temp.forms('numeric', (SELECT array_agg(round(((random() - 0.5) * 10::float8 ^ (random() * 20))::numeric * 10::numeric ^ (random() * 20)::int, (random() * 12)::int)::text) FROM generate_series(1, 150)));
  PERFORM pg_temp.forms('numeric', (SELECT array_agg((10::numeric ^ k)::numeric(1000, 20)::text) FROM generate_series(-20, 20) AS k));

  PERFORM pg_temp.forms('text', ARRAY['', 'a', 'Grüße, 世界 🎉', E'tab\tnewline\nback\\slash', ' "quoted" ', repeat('x', 300)]);
  PERFORM pg_temp.forms('varchar', ARRAY['', 'abc']);
  PERFORM pg_temp.forms('bpchar', ARRAY['', 'abc  ']);
  PERFORM pg_temp.forms('name', ARRAY['', 'abc', 'größe', repeat('n', 63)]);
  PERFORM pg_temp.forms('json', ARRAY['{"b": [1, 2.50],  "a":null}', '"x"', 'null']);
  PERFORM pg_temp.forms('jsonb', ARRAY['{"b": [1, 2.50],  "a":null}', '"\u00e9\n"', 'null', '[]', '{}', '1e3']);
  PERFORM pg_temp.forms('jsonb', ARRAY['"x"', '""', '17', '-0.00', 'true', 'false', '[null]', '[[]]', '[{}]', '{"": {}}', '[1]', '{"a": 1}', '{"a": "b"}',
    '1e-7', '12345678901234567890.12345678901234567890', '1e300', '[1e1000, 0.0001, 10000, -99999999.99990]', '"\u0001\u001f\b\f\n\r\t\u007f\/\\\""',
    '{"a\"b": "c\\d", "é世界🎉": "ü", "\u0002": null}', '[[1, [2, [3, [4, [5, [6, [7, [8]]]]]]]], {"a": {"b": {"c": {"d": {"e": {"f": [true, {}]}}}}}}]',
    '[1, "a", 2, "bc", 3, "def", 4, [5, "g"], 6, {"h": 7, "ij": 8}, "k", 9, true, 10, null, 11, false, 12]',
    '{"a": 1, "bb": 2, "ccc": 3, "dddd": [4], "eeeee": {"f": 5}, "z": "y", "aa": true, "ab": null}', repeat('[', 200) || repeat(']', 200)]);
  -- every 32nd entry has its end and not its length
  PERFORM pg_temp.forms('jsonb', (SELECT array_agg(v) FROM generate_series(30, 35) AS n,
    LATERAL (SELECT jsonb_agg(i)::text AS v FROM generate_series(1, n) AS i UNION ALL
             SELECT jsonb_object_agg('k' || i, CASE i % 3 WHEN 0 THEN to_jsonb(i) WHEN 1 THEN to_jsonb(repeat('x', i)) ELSE to_jsonb(ARRAY[i, i]) END)::text
             FROM generate_series(1, n) AS i) AS made));
  PERFORM pg_temp.forms('jsonb', (SELECT array_agg(jsonb_build_object('id', i, 'name', repeat(chr(96 + i % 26), i % 7), 'score', round((random() * 10::numeric ^ (i % 9))::numeric, i % 5),
    'tags', (SELECT jsonb_agg(md5((i * j)::text)) FROM generate_series(1, i % 4) AS j), 'deep', jsonb_build_object('a', jsonb_build_array(i, NULL, i % 2 = 0)))::text)
    FROM generate_series(1, 60) AS i));
  PERFORM pg_temp.forms('jsonb', (SELECT array_agg((SELECT jsonb_object_agg(md5(j::text), j * i)::text FROM generate_series(1, i * 25) AS j)) FROM generate_series(1, 4) AS i));
  PERFORM pg_temp.forms('jsonpath', ARRAY['$.a[*] ? (@ > 1)', 'strict $']);
  PERFORM pg_temp.forms('xml', ARRAY['<a>b</a>', 'text']);
  PERFORM pg_temp.forms('bytea', ARRAY['', '\x00', '\xdeadbeef', '\x5c22', 'abc']);
  PERFORM pg_temp.forms('bit(1)', '{0,1}');
  PERFORM pg_temp.forms('bit(11)', '{10101010101,00000000000}');
  PERFORM pg_temp.forms('varbit', ARRAY['', '1', '10000001', '100000011']);
  PERFORM pg_temp.forms('mood', ARRAY['sad', 'very happy', 'NULL', 'ẞ']);
  PERFORM pg_temp.forms('positive', '{1,77}');

  PERFORM pg_temp.forms('timestamp', stamps);
  PERFORM pg_temp.forms('timestamptz', stamps);
  PERFORM pg_temp.forms('timestamp', (SELECT array_agg(('2000-01-01'::timestamp + (random() - 0.5) * 4000000 * '1 day'::interval + random() * '1 day'::interval)::text) FROM generate_series(1, 100)));
  PERFORM pg_temp.forms('date', '{2000-01-01,1999-12-31,2024-02-29,1970-01-01,0001-01-01,0001-12-31 BC,0005-02-29 BC,4714-11-24 BC,9999-12-31,10000-01-01,5874897-12-31,infinity,-infinity,1600-02-29,1700-02-28,1700-03-01}');
  PERFORM pg_temp.forms('date', (SELECT array_agg(('2000-01-01'::date + ((random() - 0.4) * 6000000)::int)::text) FROM generate_series(1, 150)));
  PERFORM pg_temp.forms('time', '{00:00:00,23:59:59.999999,24:00:00,01:02:03.4,00:00:00.000001,12:00:00.10}');
  PERFORM pg_temp.forms('timetz', '{00:00:00+00,23:59:59.999999-15:59:59,24:00:00+15:59:59,01:02:03.4+05:30,12:00-08,12:00-03:30,12:00+00:00:01,12:00-00:00:30}');
  PERFORM pg_temp.forms('interval', ARRAY['0', '1 year', '2 years', '-1 year', '1 mon', '-1 mon', '14 mons', '-14 mons', '1 day', '-1 day', '1 second', '-1 second',
    '1 year 2 mons -3 days +04:05:06.7', '-1 year +2 days', '1 mon -1 day 00:00:01', '-1 day 00:00:01', '-1 day -00:00:00.5', '1 day 00:00:00', '-1 mon 1 day 01:00',
    '100:00:00', '-100:00:00.000001', '999999:59:59.999999', '2562047788:00:54.775807', '-2562047788:00:54.775807', '178956970 years 7 mons', '-178956970 years -8 mons',
    '2147483647 days', '-2147483648 days', '-1 year -2 mons -3 days -04:05:06', '1 year -1 sec', '-1 year 1 sec', '1 day 24:00:00', '11 mons', '-11 mons +1 sec']);

  PERFORM pg_temp.forms('inet', ARRAY['0.0.0.0', '192.168.0.1', '192.168.0.1/24', '10.0.0.0/8', '255.255.255.255/0', '::', '::1', '::2', '::1.2.3.4', '::ffff:1.2.3.4', '::ffff:1.2.3.4/96',
    '2001:db8::1', '2001:db8::1/64', '1:2:3:4:5:6:7:8', '1:0:0:2:0:0:0:3', '1::', 'fe80::1:0:0:1', '1:0:2:3:4:5:6:7', '0:0:1::', '::1:2', '0:1::', '1:2:3:4:5:6:7:0', '1:0:0:2:3:0:0:4', '::fffe:1.2.3.4', '::0:1.2.3.4/0', '0:0:0:0:0:0:1:0', '0:0:0:0:1:0:0:0']);
  PERFORM pg_temp.forms('cidr', ARRAY['0.0.0.0/0', '10.0.0.0/8', '192.168.0.1', '192.168.0.0/23', '::/0', '2001:db8::/32', '::1', '::ffff:1.2.3.4', '::ffff:1.2.3.0/120']);

  PERFORM pg_temp.forms('point', '{"(0,0)","(1.5,-2)","(NaN,Infinity)","(1e20,1e-20)"}');
  PERFORM pg_temp.forms('lseg', '{"[(0,0),(1,2)]"}');
  PERFORM pg_temp.forms('box', '{"((0,0),(1,2))"}');
  PERFORM pg_temp.forms('line', '{"{1,-1,0}","{0.5,2,1e30}"}');
  PERFORM pg_temp.forms('circle', '{"<(1,2),3.5>"}');
  PERFORM pg_temp.forms('path', '{"((0,0),(1,2),(3,4))","[(0,0),(1,2)]","((7,8))"}');
  PERFORM pg_temp.forms('polygon', '{"((0,0),(1,2),(3,4))","((7,8))"}');
  PERFORM pg_temp.forms('tsvector', ARRAY['', 'a', 'fat:2,4A cat:3B rat:5C,16383', $q$'it''s':1 'back\\slash' 'two words':9A$q$]);

  PERFORM pg_temp.forms('int4range', '{empty,"[1,5)","(,5)","[1,)","(,)"}');
  PERFORM pg_temp.forms('int8range', '{"[-9223372036854775808,9223372036854775807)"}');
  PERFORM pg_temp.forms('numrange', '{"[1.50,2.25]","(NaN,)","(1,)","[,7)","(0,Infinity]"}');
  PERFORM pg_temp.forms('tsrange', '{"[2000-01-01 00:00,2024-02-29 12:00:00.5]","[-infinity,infinity)"}');
  PERFORM pg_temp.forms('tstzrange', '{"(2000-01-01 00:00,2024-02-29 12:00:00.5)"}');
  PERFORM pg_temp.forms('daterange', '{"[2000-01-01,2000-01-02]","[0044-03-15 BC,)","(,infinity)"}');
  PERFORM pg_temp.forms('int4multirange', '{"{}","{[1,2),[5,)}","{(,0)}"}');
  PERFORM pg_temp.forms('int8multirange', '{"{[1,2)}"}');
  PERFORM pg_temp.forms('nummultirange', '{"{(1.5,2),[7,7]}"}');
  PERFORM pg_temp.forms('tsmultirange', '{"{[2000-01-01 00:00,2001-01-01 00:00),(2002-01-01 00:00,)}"}');
  PERFORM pg_temp.forms('tstzmultirange', '{"{[2000-01-01 00:00,2001-01-01 00:00)}"}');
  PERFORM pg_temp.forms('datemultirange', '{"{[2000-01-01,2001-01-01)}"}');

  PERFORM pg_temp.forms('bool[]', ARRAY['{}', '{t,f,NULL}']);
  PERFORM pg_temp.forms('int2[]', ARRAY['{1,-2}']);
  PERFORM pg_temp.forms('int4[]', ARRAY['{}', '{1}', '{1,NULL,-3}', '{{1,2},{3,4}}', '{{{1},{2}},{{3},{4}},{{5},{NULL}}}', '[0:2]={1,2,3}', '[-2:-1][5:6]={{1,2},{3,4}}', '[2147483646:2147483646]={1}', '{NULL}', '{{{{{{1}}}}}}', '{{{{{{1,2},{3,4}},{{5,6},{7,8}}}}}}']);
  PERFORM pg_temp.forms('int8[]', ARRAY['{9223372036854775807}']);
  PERFORM pg_temp.forms('float8[]', ARRAY['{1.5,NaN,-Infinity,1e20}']);
  PERFORM pg_temp.forms('float4[]', ARRAY['{1.5,1e7}']);
  PERFORM pg_temp.forms('numeric[]', ARRAY['{1.50,NaN,Infinity,-Infinity,0,1e-10,12345678901234567890}', '{{1,2},{3,NULL}}']);
  PERFORM pg_temp.forms('text[]', ARRAY['{""}', '{NULL,"NULL","null","Null","nULLs"}', '{a,"b c","d,e","f\"g","h\\i","{","}","x;y"}', E'{"tab\t","nl\n","cr\r","vt\v","ff\f"}', '{"\"\"\"\\\\"}', '{"Grüße",世界}', '{{a,"b c"},{"",NULL}}', E'{"\u00a0","\u2003"}']);
  PERFORM pg_temp.forms('text[]', (SELECT array_agg((SELECT array_agg(CASE WHEN j % 5 = i % 5 THEN NULL ELSE repeat(chr(96 + j % 26), (i * j) % 11) END)::text FROM generate_series(1, i) AS j))
    FROM generate_series(1, 40) AS i));
  PERFORM pg_temp.forms('text[]', ARRAY[ARRAY[repeat('long ', 300), NULL, '']::text, '[5:6][-1:0]={{a,NULL},{"b c",d}}']);
  PERFORM pg_temp.forms('int8[]', (SELECT array_agg((SELECT array_agg(CASE WHEN j % 7 = 3 THEN NULL ELSE j * i END)::text FROM generate_series(1, i) AS j)) FROM generate_series(1, 20) AS i));
  PERFORM pg_temp.forms('bool[]', (SELECT array_agg((SELECT array_agg(CASE WHEN j % 6 = 3 THEN NULL ELSE j % 2 = 0 END)::text FROM generate_series(1, i) AS j)) FROM generate_series(1, 20) AS i));
  PERFORM pg_temp.forms('numeric[]', (SELECT array_agg((SELECT array_agg(round((random() * 10::numeric ^ (j % 12))::numeric, j % 5))::text FROM generate_series(1, i) AS j)) FROM generate_series(1, 20) AS i));
  PERFORM pg_temp.forms('varchar[]', ARRAY['{a,b}']);
  PERFORM pg_temp.forms('bpchar[]', ARRAY['{a,"b "}']);
  PERFORM pg_temp.forms('name[]', ARRAY['{a,"b c"}']);
  PERFORM pg_temp.forms('"char"[]', ARRAY['{a," ","\"",""}']);
  PERFORM pg_temp.forms('bytea[]', ARRAY['{"\\xdead","\\x",NULL}']);
  PERFORM pg_temp.forms('date[]', ARRAY['{2000-01-01,"0044-03-15 BC",infinity}']);
  PERFORM pg_temp.forms('time[]', ARRAY['{12:00,24:00}']);
  PERFORM pg_temp.forms('timetz[]', ARRAY['{12:00+01}']);
  PERFORM pg_temp.forms('timestamp[]', ARRAY['{"2000-01-01 00:00:00",infinity}']);
  PERFORM pg_temp.forms('timestamptz[]', ARRAY['{"2000-01-01 00:00:00.5",-infinity}']);
  PERFORM pg_temp.forms('interval[]', ARRAY['{"1 day",00:00:01}']);
  PERFORM pg_temp.forms('uuid[]', ARRAY['{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}']);
  PERFORM pg_temp.forms('json[]', ARRAY['{"{\"a\": 1}","[]"}']);
  PERFORM pg_temp.forms('macaddr8[]', ARRAY['{08:00:2b:01:02:03:04:05,NULL}']);
  PERFORM pg_temp.forms('jsonb[]', ARRAY['{"[1, \"a\", 2]",NULL,"{\"k\": 1.50, \"l\": [true]}","\"s\""}', '{}', '{NULL}']);
  PERFORM pg_temp.forms('jsonb[]', ARRAY['{"{\"a\": [1, \"x\\\\y\"]}",null,1}']);
  PERFORM pg_temp.forms('inet[]', ARRAY['{10.0.0.1,::1/64}']);
  PERFORM pg_temp.forms('cidr[]', ARRAY['{10.0.0.0/8}']);
  PERFORM pg_temp.forms('macaddr[]', ARRAY['{08:00:2b:01:02:03}']);
  PERFORM pg_temp.forms('bit(3)[]', ARRAY['{101,000}']);
  PERFORM pg_temp.forms('varbit[]', ARRAY['{1,""}']);
  PERFORM pg_temp.forms('money[]', ARRAY['{1,"$1,234.50"}']);
  PERFORM pg_temp.forms('mood[]', ARRAY['{sad,"very happy","NULL"}']);
  PERFORM pg_temp.forms('positive[]', ARRAY['{1,2}']);
  PERFORM pg_temp.forms('pair[]', ARRAY['{"{1,2}","{NULL}",NULL,"{}"}', '{"[0:1]={7,8}"}']);
  PERFORM pg_temp.forms('box[]', ARRAY['{(1,1),(0,0);(2,2),(1,1)}']);
  PERFORM pg_temp.forms('point[]', ARRAY['{"(1,2)","(3,4)"}']);
  PERFORM pg_temp.forms('int4range[]', ARRAY['{empty,"[1,2)"}']);
  PERFORM pg_temp.forms('tsrange[]', ARRAY['{"[\"2000-01-01 00:00:00\",)"}']);
  PERFORM pg_temp.forms('int4multirange[]', ARRAY['{"{}","{[1,2),[3,4)}"}']);
  PERFORM pg_temp.forms('tsvector[]', ARRAY['{"''a'':1 ''b''"}']);
END $$;

COPY (SELECT cols[1], cols[2], cols[3], cols[4], cols[5], cols[6], cols[7], cols[8], cols[9] FROM form ORDER BY line) TO STDOUT;
