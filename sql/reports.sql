-- What sidecars report: one row per slot, one per slot and target, and one per slot and table that is copied.
--
-- UNLOGGED: a heartbeat writes no WAL of its own, is never decoded, and is rightly gone after a crash.
-- Each row is rewritten every few seconds, so half of every page is left free for HOT updates.

CREATE UNLOGGED TABLE rsrepl.sidecar_reports (
    slot          name        PRIMARY KEY,
    version       text        NOT NULL,
    pid           integer     NOT NULL,
    host          text        NOT NULL,
    received_lsn  pg_lsn,
    spooled_lsn   pg_lsn,
    confirmed_lsn pg_lsn,
    spool_bytes   bigint      NOT NULL,
    reconnects    bigint      NOT NULL,
    reported_at   timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE rsrepl.target_reports (
    slot              name REFERENCES rsrepl.sidecar_reports ON DELETE CASCADE,
    target            text,
    kind              text             NOT NULL,
    state             text             NOT NULL,
    applied_lsn       pg_lsn,
    lag_bytes         bigint           NOT NULL,
    lag_seconds       double precision NOT NULL,
    events            bigint           NOT NULL,
    events_per_second double precision NOT NULL,
    batches           bigint           NOT NULL,
    transactions      bigint           NOT NULL,
    retries           bigint           NOT NULL,
    next_attempt      timestamptz,
    last_error        text,
    detail            text,
    skipped           bigint           NOT NULL,
    delay_seconds     double precision NOT NULL,
    PRIMARY KEY (slot, target)
) WITH (fillfactor = 50);

-- Of all targets together: a chunk that two targets get counts twice.
CREATE UNLOGGED TABLE rsrepl.copy_reports (
    slot             name REFERENCES rsrepl.sidecar_reports ON DELETE CASCADE,
    table_name       text,
    chunks           bigint           NOT NULL,
    chunks_left      bigint           NOT NULL,
    rows             bigint           NOT NULL,
    bytes            bigint           NOT NULL,
    bytes_per_second double precision NOT NULL,
    seconds_left     double precision,
    PRIMARY KEY (slot, table_name)
) WITH (fillfactor = 50);

-- Everything is checked by rsrepl.checked_report (extension/src/api/report.rs), which knows the shape
-- and names the field that is wrong; what it returns has every key, and LSN 0/0 as null.
CREATE FUNCTION rsrepl.report(report jsonb) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- as UTF-8 bytes, whatever the encoding of the database
    checked jsonb := rsrepl.checked_report(convert_to(report::text, 'UTF8'));
    of_slot name  := checked ->> 'slot';
BEGIN
    INSERT INTO rsrepl.sidecar_reports AS s (
        slot, version, pid, host, received_lsn, spooled_lsn, confirmed_lsn, spool_bytes, reconnects,
        reported_at)
    SELECT of_slot, r.version, r.pid, r.host, r.received_lsn, r.spooled_lsn, r.confirmed_lsn,
        r.spool_bytes, r.reconnects, clock_timestamp()
    FROM jsonb_to_record(checked) AS r (
        version text, pid integer, host text, received_lsn pg_lsn, spooled_lsn pg_lsn,
        confirmed_lsn pg_lsn, spool_bytes bigint, reconnects bigint)
    ON CONFLICT (slot) DO UPDATE SET (
        version, pid, host, received_lsn, spooled_lsn, confirmed_lsn, spool_bytes, reconnects,
        reported_at
    ) = ROW (
        excluded.version, excluded.pid, excluded.host, excluded.received_lsn, excluded.spooled_lsn,
        excluded.confirmed_lsn, excluded.spool_bytes, excluded.reconnects, excluded.reported_at);

    -- a target that was taken out of the configuration must not stay behind as a silent one
    DELETE FROM rsrepl.target_reports AS t
    WHERE t.slot = of_slot AND NOT EXISTS (
        SELECT FROM jsonb_array_elements(checked -> 'targets') AS e WHERE e ->> 'name' = t.target);

    INSERT INTO rsrepl.target_reports AS t (
        slot, target, kind, state, applied_lsn, lag_bytes, lag_seconds, events, events_per_second,
        batches, transactions, retries, next_attempt, last_error, detail, skipped,
        delay_seconds)
    SELECT of_slot, r.*
    FROM jsonb_to_recordset(checked -> 'targets') AS r (
        name text, kind text, state text, applied_lsn pg_lsn, lag_bytes bigint,
        lag_seconds double precision, events bigint, events_per_second double precision,
        batches bigint, transactions bigint, retries bigint, next_attempt timestamptz,
        last_error text, detail text, skipped bigint, delay_seconds double precision)
    ON CONFLICT (slot, target) DO UPDATE SET (
        kind, state, applied_lsn, lag_bytes, lag_seconds, events, events_per_second, batches,
        transactions, retries, next_attempt, last_error, detail, skipped, delay_seconds
    ) = ROW (
        excluded.kind, excluded.state, excluded.applied_lsn, excluded.lag_bytes,
        excluded.lag_seconds, excluded.events, excluded.events_per_second, excluded.batches,
        excluded.transactions, excluded.retries, excluded.next_attempt, excluded.last_error,
        excluded.detail, excluded.skipped, excluded.delay_seconds);

    -- said only when it has changed
    IF jsonb_typeof(checked -> 'copies') <> 'array' THEN
        RETURN;
    END IF;
    DELETE FROM rsrepl.copy_reports AS c
    WHERE c.slot = of_slot AND NOT EXISTS (
        SELECT FROM jsonb_array_elements(checked -> 'copies') AS e WHERE e ->> 'table' = c.table_name);

    INSERT INTO rsrepl.copy_reports AS c (
        slot, table_name, chunks, chunks_left, rows, bytes, bytes_per_second, seconds_left)
    SELECT of_slot, r.*
    FROM jsonb_to_recordset(checked -> 'copies') AS r (
        "table" text, chunks bigint, chunks_left bigint, rows bigint, bytes bigint,
        bytes_per_second double precision, seconds_left double precision)
    ON CONFLICT (slot, table_name) DO UPDATE SET (
        chunks, chunks_left, rows, bytes, bytes_per_second, seconds_left
    ) = ROW (
        excluded.chunks, excluded.chunks_left, excluded.rows, excluded.bytes,
        excluded.bytes_per_second, excluded.seconds_left)
    -- most tables are done, or have not begun
    WHERE (c.chunks, c.chunks_left, c.rows, c.bytes, c.bytes_per_second, c.seconds_left)
        IS DISTINCT FROM (excluded.chunks, excluded.chunks_left, excluded.rows, excluded.bytes,
            excluded.bytes_per_second, excluded.seconds_left);
END
$$;

COMMENT ON FUNCTION rsrepl.report(jsonb) IS
    'for the sidecar: stores the state of one slot''s sidecar and of all its targets';

-- For whoever retires a sidecar: without its rows, rsrepl.health() no longer misses it.
CREATE FUNCTION rsrepl.forget(slot name) RETURNS boolean
LANGUAGE sql STRICT SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (DELETE FROM rsrepl.sidecar_reports AS s WHERE s.slot = $1 RETURNING 1)
    SELECT EXISTS (SELECT FROM gone)
$$;

COMMENT ON FUNCTION rsrepl.forget(name) IS
    'removes what the sidecar of a slot reported; true when there was something';
