-- Schema changes, told to the targets in the stream: after each DDL command a transactional logical message
-- for each table that it may have changed, which says what the table looks like now. docs/wire-format.md
-- has the content; extension/src/plugin/schema.rs takes it on from here.
--
-- All of this runs inside of somebody's DDL. So it must not fail (an error is told as a WARNING: the targets
-- then learn of the change from the next row), must not do anything while nobody listens, and must not wait.
-- Objects of the user's are looked at, never called.

-- Somebody decodes this database with our plugin.
CREATE FUNCTION rsrepl.has_slot() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_get_replication_slots() AS s JOIN pg_database AS d ON d.oid = s.datoid
        WHERE s.plugin = 'rsrepl' AND d.datname = current_database())
$$;

COMMENT ON FUNCTION rsrepl.has_slot() IS 'whether a slot of plugin rsrepl decodes this database';

-- These tables and all that inherit from them, those above others first.
CREATE FUNCTION rsrepl.with_descendants(tables oid[]) RETURNS oid[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE affected (relation, depth) AS (
        SELECT unnest(tables), 0
    UNION
        SELECT i.inhrelid, a.depth + 1 FROM affected AS a JOIN pg_inherits AS i ON i.inhparent = a.relation
    )
    SELECT array(SELECT relation FROM affected GROUP BY relation ORDER BY max(depth), relation)
$$;

COMMENT ON FUNCTION rsrepl.with_descendants(oid[]) IS
    'tables with their partitions and inheritance children';

-- These tables and, of those that inherit from them, the ones that this transaction has locked as whoever
-- changes a table does; those above others first. Not a lock is taken: a sibling that ATTACH or RENAME leaves
-- alone must not be waited for.
CREATE FUNCTION rsrepl.with_changed_descendants(tables oid[]) RETURNS oid[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array(
        SELECT below.relation FROM unnest(rsrepl.with_descendants(tables)) WITH ORDINALITY AS below (relation, place)
        WHERE below.relation = ANY (tables) OR EXISTS (
            SELECT FROM pg_locks AS l
            WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation = below.relation
                AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                    'AccessExclusiveLock'))
        ORDER BY below.place)
$$;

COMMENT ON FUNCTION rsrepl.with_changed_descendants(oid[]) IS
    'tables with those partitions and inheritance children that the transaction changes';

-- What a table looks like; null for what is never replicated.
--
-- Values are in the text forms of wire/src/text, as in rsrepl.decode_frame, and names of other schemas than
-- pg_catalog are qualified. A partitioned table has no missing values itself: its columns have those that
-- its partitions were given with them. (A missing value is the one element of an array of any type:
-- array_to_string gives it as its type writes it, without the quotes of arrays.)
CREATE FUNCTION rsrepl.describe_table(relation oid) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET timezone = 'UTC'
SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $$
    SELECT jsonb_build_object(
        'oid', c.oid::bigint,
        'schema', n.nspname,
        'name', c.relname,
        'kind', c.relkind::text,
        'replica_identity', c.relreplident::text,
        'primary_key', coalesce((
            SELECT jsonb_agg(a.attname ORDER BY k.place)
            FROM pg_index AS i
            CROSS JOIN unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (number, place)
            JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
            WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts), '[]'),
        'columns', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'number', a.attnum,
                'name', a.attname,
                'type', format_type(a.atttypid, a.atttypmod),
                'not_null', a.attnotnull,
                'default', pg_get_expr(d.adbin, d.adrelid),
                'missing', coalesce(array_to_string(a.attmissingval, ''), part.missing),
                'generated', a.attgenerated::text,
                'identity', a.attidentity::text,
                'collation', CASE WHEN a.attcollation <> t.typcollation
                    THEN format('%I.%I', cn.nspname, co.collname) END
            ) ORDER BY a.attnum)
            FROM pg_attribute AS a
            JOIN pg_type AS t ON t.oid = a.atttypid
            LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            LEFT JOIN pg_collation AS co ON co.oid = a.attcollation
            LEFT JOIN pg_namespace AS cn ON cn.oid = co.collnamespace
            LEFT JOIN (
                SELECT p.attname, min(array_to_string(p.attmissingval, ''))
                FROM unnest(rsrepl.with_descendants(ARRAY[c.oid])) AS below (relation)
                JOIN pg_attribute AS p ON p.attrelid = below.relation AND p.atthasmissing
                GROUP BY p.attname
            ) AS part (name, missing) ON c.relkind = 'p' AND part.name = a.attname
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'))
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'rsrepl')
$$;

COMMENT ON FUNCTION rsrepl.describe_table(oid) IS
    'what targets are told of a table when its schema changes';

-- The seal (extension/src/seal.rs) tells our messages from those that anybody may write.
--
-- Decoding takes the end of a message's record for its LSN, and so the start of the next one. When that is of
-- another subtransaction (an event trigger that catches errors is one) it might be decoded first: a row
-- before the column that it has. So something follows that means nothing.
CREATE FUNCTION rsrepl.tell_schema_change(change jsonb) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_logical_emit_message(true, 'rsrepl.schema',
        rsrepl.seal_schema_change(convert_to(change::text, 'UTF8')));
    SELECT pg_logical_emit_message(true, 'rsrepl.schema', ''::bytea)
$$;

COMMENT ON FUNCTION rsrepl.tell_schema_change(jsonb) IS 'writes a message of a schema change';

-- Tells of tables, those above others first. Nothing of those that are gone or not replicated.
CREATE FUNCTION rsrepl.tell_of_tables(command text, tables oid[], rewrite boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation oid;
    described jsonb;
    limit_bytes CONSTANT int := 1048576; -- CONTENT_MAX of extension/src/seal.rs
BEGIN
    FOREACH relation IN ARRAY tables LOOP
        described := rsrepl.describe_table(relation);
        CONTINUE WHEN described IS NULL;
        IF octet_length(described::text) > limit_bytes - 1024 THEN
            RAISE EXCEPTION 'the description of table % is longer than % bytes', relation::regclass, limit_bytes;
        END IF;
        PERFORM rsrepl.tell_schema_change(jsonb_build_object(
            'version', 1, 'command', command, 'table', described, 'rewrite', rewrite));
    END LOOP;
END
$$;

COMMENT ON FUNCTION rsrepl.tell_of_tables(text, oid[], boolean) IS
    'writes a message for each table';

-- What to do with an error inside of an event trigger.
CREATE FUNCTION rsrepl.warn_of_schema_change(command text, error text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE WARNING 'rsrepl could not tell its targets of this %: %', command, error
        USING HINT = 'They see new columns and names at the next change of the table, but neither defaults '
                     'nor rows that were rewritten.';
END
$$;

COMMENT ON FUNCTION rsrepl.warn_of_schema_change(text, text) IS
    'the WARNING in the place of an error in an event trigger';

-- After CREATE, ALTER, RENAME, SET SCHEMA of tables, and of what their names and columns hang on.
CREATE FUNCTION rsrepl.on_ddl_command_end() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    tables oid[];
BEGIN
    IF NOT rsrepl.has_slot() THEN
        RETURN;
    END IF;
    IF current_setting('rsrepl.rewritten', true) <> '' THEN -- by this very command
        PERFORM set_config('rsrepl.rewritten', '', true); -- also when an error is caught below
    END IF;
    BEGIN
        WITH commands AS MATERIALIZED (
            SELECT classid, objid, command_tag FROM pg_event_trigger_ddl_commands()
            WHERE command_tag NOT IN ('COMMENT', 'SECURITY LABEL', 'GRANT', 'REVOKE')
        ), publications (oid) AS (
            SELECT objid FROM commands WHERE classid = 'pg_publication'::regclass
        )
        SELECT array_agg(DISTINCT named.relation) INTO tables FROM (
            SELECT objid FROM commands WHERE classid = 'pg_class'::regclass
        UNION ALL -- tables of a composite type, whose columns come and go with its attributes
            SELECT c.oid FROM commands AS m JOIN pg_class AS composite ON composite.oid = m.objid
            JOIN pg_class AS c ON c.reloftype = composite.reltype
            WHERE m.classid = 'pg_class'::regclass AND composite.relkind = 'c'
        UNION ALL
            SELECT c.oid FROM commands AS m JOIN pg_class AS c ON c.relnamespace = m.objid
            WHERE m.classid = 'pg_namespace'::regclass AND m.command_tag = 'ALTER SCHEMA'
        UNION ALL -- what a publication was given; that of all tables has nothing that it did not have
            SELECT r.prrelid FROM commands AS m JOIN pg_publication_rel AS r ON r.oid = m.objid
            WHERE m.classid = 'pg_publication_rel'::regclass
        UNION ALL
            SELECT r.prrelid FROM publications AS p JOIN pg_publication_rel AS r ON r.prpubid = p.oid
        UNION ALL
            SELECT c.oid FROM commands AS m JOIN pg_publication_namespace AS s ON s.oid = m.objid
            JOIN pg_class AS c ON c.relnamespace = s.pnnspid
            WHERE m.classid = 'pg_publication_namespace'::regclass
        UNION ALL
            SELECT c.oid FROM publications AS p JOIN pg_publication_namespace AS s ON s.pnpubid = p.oid
            JOIN pg_class AS c ON c.relnamespace = s.pnnspid
        ) AS named (relation);
        IF tables IS NOT NULL THEN
            PERFORM rsrepl.tell_of_tables(tg_tag, rsrepl.with_changed_descendants(tables));
        END IF;
    EXCEPTION WHEN OTHERS THEN
        PERFORM rsrepl.warn_of_schema_change(tg_tag, sqlerrm);
    END;
END
$$;

COMMENT ON FUNCTION rsrepl.on_ddl_command_end() IS 'tells targets of changed tables';

-- After DROP TABLE, and what takes tables or columns with it.
CREATE FUNCTION rsrepl.on_sql_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    gone record;
    tables oid[];
BEGIN
    IF NOT rsrepl.has_slot() THEN
        RETURN;
    END IF;
    BEGIN
        FOR gone IN
            SELECT objid, schema_name, object_name FROM pg_event_trigger_dropped_objects()
            WHERE classid = 'pg_class'::regclass AND object_type = 'table' AND objsubid = 0
                AND NOT is_temporary
                AND schema_name NOT IN ('pg_catalog', 'information_schema', 'rsrepl')
        LOOP
            PERFORM rsrepl.tell_schema_change(jsonb_build_object(
                'version', 1, 'command', tg_tag, 'dropped', jsonb_build_object(
                    'oid', gone.objid::bigint, 'schema', gone.schema_name, 'name', gone.object_name)));
        END LOOP;
        -- columns that went with their type or the like; ALTER TABLE tells of its own
        IF tg_tag <> 'ALTER TABLE' THEN
            SELECT array_agg(DISTINCT objid) INTO tables FROM pg_event_trigger_dropped_objects()
            WHERE classid = 'pg_class'::regclass AND object_type = 'table column';
            IF tables IS NOT NULL THEN
                PERFORM rsrepl.tell_of_tables(tg_tag, rsrepl.with_changed_descendants(tables));
            END IF;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        PERFORM rsrepl.warn_of_schema_change(tg_tag, sqlerrm);
    END;
END
$$;

COMMENT ON FUNCTION rsrepl.on_sql_drop() IS 'tells targets of dropped tables';

-- Before a table is rewritten, with its columns as they will be: its rows come behind the message. Those of
-- partitions may go on under the name of a table above them, which is told once for all of them.
--
-- A reason of 8 alone (another access method) leaves all values as they are. Of 1 (logged or unlogged): what
-- becomes unlogged has no rows in the WAL, and what becomes logged was not on the targets.
--
-- The tables above are told only if all of their partitions are rewritten. That is so for types and new columns,
-- which partitions have from them. The expression of a stored generated column (from PostgreSQL 17 on) may be
-- a single partition's: whoever sets it for all has locked the table above.
CREATE FUNCTION rsrepl.on_table_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    rewritten oid := pg_event_trigger_table_rewrite_oid();
    reason int := pg_event_trigger_table_rewrite_reason();
    told text := coalesce(current_setting('rsrepl.rewritten', true), '');
    above oid[];
BEGIN
    IF NOT rsrepl.has_slot() OR reason & 7 = 0 THEN
        RETURN;
    END IF;
    BEGIN
        SELECT array_agg(a.relid::oid ORDER BY a.place DESC) INTO above
        FROM pg_partition_ancestors(rewritten) WITH ORDINALITY AS a (relid, place)
        WHERE a.relid <> rewritten;
        IF reason & 1 = 1 THEN
            RAISE WARNING 'rsrepl does not send the rows that table % has so far', rewritten::regclass
                USING HINT = 'It becomes logged or unlogged: targets keep what they have, and get what changes '
                             'while it is logged.';
            RETURN;
        END IF;
        IF above IS NOT NULL AND reason & 4 = 0 AND EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = rewritten AND attgenerated = 's'
        ) AND NOT EXISTS (
            SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'
                AND relation = above[array_upper(above, 1)] AND mode = 'AccessExclusiveLock'
        ) THEN
            RAISE WARNING 'rsrepl does not send the rewritten rows of partition % alone', rewritten::regclass
                USING HINT = 'Where targets have a table above it, load that anew.';
            RETURN;
        END IF;
        SELECT array_agg(a.relation ORDER BY a.place) INTO above
        FROM unnest(above) WITH ORDINALITY AS a (relation, place)
        WHERE a.relation::text <> ALL (string_to_array(told, ','));
        IF above IS NOT NULL THEN
            PERFORM rsrepl.tell_of_tables(tg_tag, above, true);
            PERFORM set_config('rsrepl.rewritten',
                concat_ws(',', nullif(told, ''), array_to_string(above, ',')), true);
        END IF;
        PERFORM rsrepl.tell_of_tables(tg_tag, ARRAY[rewritten], true);
    EXCEPTION WHEN OTHERS THEN
        -- not for the next partition either: the rows of this one will be missing
        PERFORM set_config('rsrepl.rewritten',
            concat_ws(',', nullif(told, ''), array_to_string(above, ',')), true);
        PERFORM rsrepl.warn_of_schema_change(tg_tag, sqlerrm);
    END;
END
$$;

COMMENT ON FUNCTION rsrepl.on_table_rewrite() IS 'tells targets that the rows of a table come again';

CREATE EVENT TRIGGER rsrepl_ddl_command_end ON ddl_command_end
    EXECUTE FUNCTION rsrepl.on_ddl_command_end();
CREATE EVENT TRIGGER rsrepl_sql_drop ON sql_drop EXECUTE FUNCTION rsrepl.on_sql_drop();
CREATE EVENT TRIGGER rsrepl_table_rewrite ON table_rewrite EXECUTE FUNCTION rsrepl.on_table_rewrite();

-- Also where the DDL is a sidecar's, in the role of a replica: this database may be the source of others.
ALTER EVENT TRIGGER rsrepl_ddl_command_end ENABLE ALWAYS;
ALTER EVENT TRIGGER rsrepl_sql_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER rsrepl_table_rewrite ENABLE ALWAYS;
