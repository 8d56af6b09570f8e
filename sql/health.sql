-- rsrepl.health(): one function per area, each returning its checks in a fixed order. A check states a
-- remedy whatever its status; health() shows it only where there is something to mend.

CREATE TYPE rsrepl.health_check AS (
    name   text, -- of the check
    object text, -- what was checked: a slot, slot/target, or null for the server or database
    status text, -- ok, warning (will go wrong if nothing is done) or critical (is wrong)
    detail text, -- what was found
    remedy text  -- what to do; null when ok
);

-- The setting is hidden from ordinary roles although its default is public. null where the server does
-- not have it (before 15.19, 16.15, 17.11, 18.6).
CREATE FUNCTION rsrepl.output_plugin_libraries() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT setting FROM pg_settings WHERE name = 'output_plugin_libraries'
$$;

COMMENT ON FUNCTION rsrepl.output_plugin_libraries() IS
    'the setting output_plugin_libraries; null when this server has none';

CREATE FUNCTION rsrepl.check_server() RETURNS SETOF rsrepl.health_check
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'library_version', NULL,
        CASE WHEN e.extversion = rsrepl.version() THEN 'ok' ELSE 'warning' END,
        format('loaded library %s, extension %s', rsrepl.version(), e.extversion),
        'ALTER EXTENSION rsrepl UPDATE; then reconnect, and restart the sidecar so that its '
        'walsender loads the same library'
    FROM pg_extension AS e WHERE e.extname = 'rsrepl'
UNION ALL
    SELECT 'output_plugin_libraries', NULL,
        CASE WHEN 'rsrepl' = ANY (listed) THEN 'ok' ELSE 'critical' END,
        format('output_plugin_libraries is %s', libraries),
        format('ALTER SYSTEM SET output_plugin_libraries = %s; SELECT pg_reload_conf()',
            concat_ws(', ', VARIADIC array_append(listed, 'rsrepl')))
    FROM rsrepl.output_plugin_libraries() AS libraries,
        LATERAL (SELECT array_remove(ARRAY(
            SELECT btrim(part, ' "') FROM unnest(string_to_array(libraries, ',')) AS part), '')
        ) AS l (listed)
    WHERE libraries IS NOT NULL
UNION ALL
    SELECT 'wal_level', NULL,
        CASE WHEN current_setting('wal_level') = 'logical' THEN 'ok' ELSE 'critical' END,
        format('wal_level is %s', current_setting('wal_level')),
        'ALTER SYSTEM SET wal_level = logical; then restart the server'
UNION ALL
    SELECT 'replication_slots', NULL,
        CASE WHEN used < allowed THEN 'ok' WHEN ours > 0 THEN 'warning' ELSE 'critical' END,
        format('%s of max_replication_slots = %s in use, %s of them by rsrepl', used, allowed, ours),
        format('drop an unused slot, or ALTER SYSTEM SET max_replication_slots = %s; then restart '
            'the server', allowed + 10)
    FROM (
        SELECT count(*), count(*) FILTER (WHERE plugin = 'rsrepl'),
            current_setting('max_replication_slots')::int
        FROM pg_replication_slots
    ) AS s (used, ours, allowed)
UNION ALL
    SELECT 'walsenders', NULL,
        CASE WHEN used < allowed THEN 'ok' WHEN ours > 0 THEN 'warning' ELSE 'critical' END,
        format('%s of max_wal_senders = %s in use, %s of them by rsrepl', used, allowed, ours),
        format('ALTER SYSTEM SET max_wal_senders = %s; then restart the server', allowed + 10)
    FROM (
        SELECT (SELECT count(*) FROM pg_stat_replication),
            (SELECT count(*) FROM rsrepl.slots AS s WHERE s.active),
            current_setting('max_wal_senders')::int
    ) AS w (used, ours, allowed)
$$;

-- PostgreSQL's own words of wal_status: reserved (within max_wal_size), extended (more is kept),
-- unreserved (may be removed at the next checkpoint), lost.
CREATE FUNCTION rsrepl.check_slots() RETURNS SETOF rsrepl.health_check
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'slots', NULL,
        CASE WHEN count(*) > 0 THEN 'ok' ELSE 'warning' END,
        format('%s slots of plugin rsrepl', count(*)),
        'start the sidecar (create_slot = true), or '
        'SELECT pg_create_logical_replication_slot(''rsrepl'', ''rsrepl'')'
    FROM rsrepl.slots
UNION ALL (
    SELECT 'slot_active', s.slot_name,
        CASE WHEN s.active THEN 'ok' ELSE 'warning' END,
        CASE WHEN s.active THEN format('in use by process %s, %s behind', s.active_pid,
            pg_size_pretty(s.lag_bytes))
        WHEN s.slot_name ~ '_sync_[0-9]+_[0-9]+$' THEN format(
            'of tables that are copied anew; nothing reads it, so they are being read, or it was left behind; %s behind',
            pg_size_pretty(s.lag_bytes))
        ELSE format('nothing reads it, %s behind', pg_size_pretty(s.lag_bytes)) END,
        CASE WHEN s.slot_name ~ '_sync_[0-9]+_[0-9]+$' THEN format(
            'its sidecar drops it when the tables are copied (rsrepl.copies); if none knows of it (rsrepl.syncs, '
            '_rsrepl_syncs on the targets): SELECT pg_drop_replication_slot(%L)', s.slot_name)
        ELSE format('start its sidecar; if it is not needed any more: SELECT pg_drop_replication_slot(%L)',
            s.slot_name) END
    FROM rsrepl.slots AS s ORDER BY s.slot_name
)
UNION ALL (
    SELECT 'slot_wal', s.slot_name,
        CASE
            WHEN s.wal_status IN ('lost', 'unreserved') THEN 'critical'
            -- safe_wal_size is null when max_slot_wal_keep_size is -1
            WHEN s.safe_wal_size < max_keep.bytes / 5 THEN 'critical'
            WHEN s.wal_status = 'extended' THEN 'warning'
            ELSE 'ok'
        END,
        format('WAL is %s, retains %s, max_slot_wal_keep_size is %s%s',
            coalesce(s.wal_status, 'not reserved yet'),
            coalesce(pg_size_pretty(s.retained_bytes), 'nothing'),
            current_setting('max_slot_wal_keep_size'),
            ', ' || pg_size_pretty(s.safe_wal_size) || ' left'),
        CASE
            WHEN s.wal_status = 'lost' THEN format(
                'the slot cannot be read any more: SELECT pg_drop_replication_slot(%L), create it '
                'again and fill the targets anew', s.slot_name)
            WHEN max_keep.bytes IS NULL THEN
                'see why the slot does not advance (slot_active, target_state); max_slot_wal_keep_size '
                'would bound what it can fill, at the price of losing the slot'
            ELSE 'see why the slot does not advance (slot_active, target_state), or raise '
                'max_slot_wal_keep_size before the slot is lost'
        END
    FROM rsrepl.slots AS s, (
        -- the unit of this setting is MB
        SELECT nullif(setting::bigint, -1) * 1024 * 1024
        FROM pg_settings WHERE name = 'max_slot_wal_keep_size'
    ) AS max_keep (bytes)
    ORDER BY s.slot_name
)
$$;

-- Reads the UNLOGGED reports, which a standby cannot.
CREATE FUNCTION rsrepl.check_targets(lag_warning interval, lag_critical interval)
RETURNS SETOF rsrepl.health_check
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'sidecar_reports', s.slot_name,
        CASE WHEN reports.n > 0 THEN 'ok' ELSE 'warning' END,
        format('reports of %s targets', reports.n),
        'let the sidecar report: CALL rsrepl.grant_sidecar(''its_role'')'
    FROM rsrepl.slots AS s,
        LATERAL (SELECT count(*) FROM rsrepl.targets AS t WHERE t.slot = s.slot_name) AS reports (n)
    -- a sync is reported with the slot that it is for
    WHERE s.active AND s.database = current_database() AND s.slot_name !~ '_sync_[0-9]+_[0-9]+$'
UNION ALL (
    SELECT 'target_state', format('%s/%s', t.slot, t.target),
        CASE WHEN t.state IN ('running', 'starting', 'catching_up', 'delayed') THEN 'ok'
            -- on purpose, and nevertheless what comes is kept for it: as WAL, or in the sidecar's spool
            WHEN t.state IN ('retrying', 'paused') THEN 'warning'
            ELSE 'critical' END,
        CASE WHEN t.state = 'silent' THEN format('no report for %s (sidecar pid %s on %s), it was %s',
            date_trunc('second', t.heartbeat_age), t.sidecar_pid, t.sidecar_host, t.reported_state)
        WHEN t.state = 'running' THEN 'running' || coalesce(', last error: ' || t.last_error, '')
        WHEN t.state IN ('paused', 'delayed') THEN t.state || coalesce(': ' || t.detail, '')
        ELSE t.state || coalesce(': ' || t.last_error, '') END,
        CASE t.state
            WHEN 'paused' THEN format('rsrepl resume --target %s', t.target)
            WHEN 'silent' THEN format('start the sidecar, or, if it was retired: '
                'SELECT rsrepl.forget(%L)', t.slot)
            WHEN 'retrying' THEN 'look at the target; the sidecar goes on trying by itself'
            ELSE 'mend what the error names, or leave the transaction out with rsrepl skip; the sidecar '
                'looks again every 30 s'
        END
    FROM rsrepl.targets AS t ORDER BY t.slot, t.target
)
UNION ALL (
    SELECT 'target_lag', format('%s/%s', t.slot, t.target),
        -- who is late on purpose is in target_state; while what is due is written, a delayed one is running
        CASE WHEN t.state IN ('paused', 'delayed') THEN 'ok'
            WHEN t.lag_seconds - t.delay_seconds >= extract(epoch FROM lag_critical) THEN 'critical'
            WHEN t.lag_seconds - t.delay_seconds >= extract(epoch FROM lag_warning) THEN 'warning'
            ELSE 'ok' END,
        format('%s s and %s behind%s', round(t.lag_seconds::numeric, 1), pg_size_pretty(t.lag_bytes),
            CASE WHEN t.state IN ('paused', 'delayed') THEN ', on purpose'
            WHEN t.delay_seconds > 0 THEN format(', of which %s s are on purpose', t.delay_seconds) END),
        'look at target_state and at the load of the target'
    FROM rsrepl.targets AS t WHERE t.lag_seconds IS NOT NULL ORDER BY t.slot, t.target
)
UNION ALL (
    SELECT DISTINCT 'sidecar_version', t.slot::text,
        CASE WHEN t.sidecar_version = rsrepl.version() THEN 'ok' ELSE 'warning' END,
        format('sidecar %s, library %s', t.sidecar_version, rsrepl.version()),
        'install the same version on both sides; the sidecar first'
    FROM rsrepl.targets AS t WHERE t.state <> 'silent' ORDER BY 2
)
$$;

-- Tables of this database whose UPDATEs and DELETEs cannot say which row they mean. Which publications
-- a slot is read with is known to its sidecar alone, so every publication counts; without any, a stream
-- has all tables, and every one counts.
CREATE FUNCTION rsrepl.check_tables() RETURNS SETOF rsrepl.health_check
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH streamed AS (
        SELECT p.schemaname AS schema, p.tablename AS name
        FROM pg_publication_tables AS p
        JOIN pg_publication AS o ON o.pubname = p.pubname
        WHERE o.pubupdate OR o.pubdelete
        UNION
        SELECT n.nspname, c.relname
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384 -- FirstNormalObjectId
            AND n.nspname NOT IN ('pg_catalog', 'information_schema')
            AND NOT EXISTS (SELECT FROM pg_publication)
    ), without AS (
        SELECT format('%I.%I', s.schema, s.name) AS name
        FROM streamed AS s
        JOIN pg_namespace AS n ON n.nspname = s.schema
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = s.name
        WHERE c.relreplident = 'n'
            OR c.relreplident IN ('d', 'i') AND NOT EXISTS (
                SELECT FROM pg_index AS i
                WHERE i.indrelid = c.oid AND i.indisvalid
                    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END)
    )
    SELECT 'replica_identity', NULL,
        CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
        CASE WHEN count(*) = 0 THEN 'every replicated table has one'
        ELSE format('%s tables have none: %s%s', count(*),
            array_to_string((array_agg(name ORDER BY name))[:10], ', '),
            CASE WHEN count(*) > 10 THEN ', ...' END) END,
        format('ALTER TABLE %s ADD PRIMARY KEY (...), or REPLICA IDENTITY USING INDEX ... or FULL',
            min(name))
    FROM without
$$;

-- Not in one statement: what is planned on a standby must not name the UNLOGGED reports.
CREATE FUNCTION rsrepl.health(
    lag_warning interval DEFAULT '1 minute', lag_critical interval DEFAULT '10 minutes'
) RETURNS SETOF rsrepl.health_check
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found rsrepl.health_check;
BEGIN
    FOR found IN
        SELECT * FROM rsrepl.check_server()
        UNION ALL SELECT * FROM rsrepl.check_slots()
    LOOP
        IF found.status = 'ok' THEN found.remedy := NULL; END IF;
        RETURN NEXT found;
    END LOOP;
    IF pg_is_in_recovery() THEN RETURN; END IF;
    FOR found IN
        SELECT * FROM rsrepl.check_targets(lag_warning, lag_critical)
        UNION ALL SELECT * FROM rsrepl.check_tables()
    LOOP
        IF found.status = 'ok' THEN found.remedy := NULL; END IF;
        RETURN NEXT found;
    END LOOP;
END
$$;

COMMENT ON FUNCTION rsrepl.health(interval, interval) IS
    'one row per check of server, slots, targets and tables, with what to do';
