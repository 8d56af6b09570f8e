-- How old a report may be before its sidecar counts as silent. Sidecars report every few seconds.
CREATE FUNCTION rsrepl.silent_after() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN interval '30 seconds';

COMMENT ON FUNCTION rsrepl.silent_after() IS
    'age of a report from which on its sidecar counts as silent';

-- Every slot of this plugin in the cluster, whichever database it decodes.
CREATE VIEW rsrepl.slots AS
SELECT
    s.slot_name,
    s.database,
    s.active,
    s.active_pid,
    w.application_name,
    w.client_addr,
    s.temporary,
    s.confirmed_flush_lsn,
    s.restart_lsn,
    pg_wal_lsn_diff(wal.position, s.confirmed_flush_lsn)::bigint AS lag_bytes,
    pg_wal_lsn_diff(wal.position, s.restart_lsn)::bigint AS retained_bytes,
    s.wal_status,
    s.safe_wal_size,
    t.spill_txns AS spilled_transactions,
    t.spill_bytes AS spilled_bytes,
    t.stream_txns AS streamed_transactions,
    t.stream_bytes AS streamed_bytes,
    t.total_txns AS decoded_transactions,
    t.total_bytes AS decoded_bytes,
    t.stats_reset
FROM pg_replication_slots AS s
LEFT JOIN pg_stat_replication_slots AS t ON t.slot_name = s.slot_name
LEFT JOIN pg_stat_replication AS w ON w.pid = s.active_pid
CROSS JOIN (
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
) AS wal (position)
WHERE s.slot_type = 'logical' AND s.plugin = 'rsrepl';

COMMENT ON VIEW rsrepl.slots IS 'the logical slots of plugin rsrepl in this cluster';

-- What sidecars reported into this database. A silent sidecar's last words stand, but what would be
-- taken for the present (state, lag, rate) is not shown as if it still held.
CREATE VIEW rsrepl.targets AS
SELECT
    t.slot,
    t.target,
    t.kind,
    CASE WHEN h.silent THEN 'silent' ELSE t.state END AS state,
    t.state AS reported_state,
    s.received_lsn,
    s.spooled_lsn,
    s.confirmed_lsn,
    t.applied_lsn,
    CASE WHEN NOT h.silent THEN t.lag_bytes END AS lag_bytes,
    CASE WHEN NOT h.silent THEN t.lag_seconds END AS lag_seconds,
    t.events,
    CASE WHEN NOT h.silent THEN t.events_per_second END AS events_per_second,
    t.transactions,
    t.batches,
    t.retries,
    t.next_attempt,
    t.last_error,
    s.reported_at AS heartbeat_at,
    h.age AS heartbeat_age,
    s.version AS sidecar_version,
    s.host AS sidecar_host,
    s.pid AS sidecar_pid,
    s.spool_bytes,
    s.reconnects,
    CASE WHEN NOT h.silent THEN t.detail END AS detail,
    t.skipped,
    t.delay_seconds
FROM rsrepl.sidecar_reports AS s
JOIN rsrepl.target_reports AS t ON t.slot = s.slot
CROSS JOIN LATERAL (SELECT clock_timestamp() - s.reported_at) AS a (age)
CROSS JOIN LATERAL (SELECT a.age, a.age > rsrepl.silent_after()) AS h (age, silent);

COMMENT ON VIEW rsrepl.targets IS 'the targets of each slot, as their sidecars last reported';

-- The initial copy, as its sidecar last reported.
CREATE VIEW rsrepl.copies AS
SELECT
    c.slot,
    c.table_name,
    CASE
        WHEN c.chunks_left = 0 THEN 'copied'
        WHEN h.silent THEN 'silent'
        WHEN c.chunks = 0 THEN 'waiting'
        ELSE 'copying'
    END AS state,
    c.chunks,
    c.chunks_left,
    c.rows,
    c.bytes,
    CASE WHEN NOT h.silent THEN c.bytes_per_second END AS bytes_per_second,
    CASE WHEN NOT h.silent THEN make_interval(secs => c.seconds_left) END AS time_left,
    s.reported_at AS heartbeat_at
FROM rsrepl.sidecar_reports AS s
JOIN rsrepl.copy_reports AS c ON c.slot = s.slot
CROSS JOIN LATERAL (
    SELECT clock_timestamp() - s.reported_at > rsrepl.silent_after()
) AS h (silent);

COMMENT ON VIEW rsrepl.copies IS
    'the tables of an initial copy, all targets together, as the sidecar last reported';
