//! What `rsrepl.syncs` is read and written with.

/// What the database's owner may have to run by hand.
pub(in crate::target::postgres) const CREATE: &str = "\
CREATE TABLE IF NOT EXISTS rsrepl.syncs (slot text NOT NULL, source_oid bigint NOT NULL, table_name text NOT NULL, \
stage text NOT NULL, sync_slot text NOT NULL, hand_over pg_catalog.pg_lsn NOT NULL, error text NOT NULL, \
requested timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), \
updated timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), PRIMARY KEY (slot, source_oid))";

/// The list of tables that are complete, as JSON.
pub(in crate::target::postgres) const CREATE_COMPLETE: &str = "\
CREATE TABLE IF NOT EXISTS rsrepl.complete (slot text PRIMARY KEY, list text NOT NULL, \
updated timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp())";

pub(in crate::target::postgres) const SET_COMPLETE: &str = "\
INSERT INTO rsrepl.complete (slot, list) VALUES ($1, $2)
ON CONFLICT (slot) DO UPDATE SET list = EXCLUDED.list, updated = pg_catalog.clock_timestamp()";

pub(in crate::target::postgres) const EXISTS: &str =
    "SELECT pg_catalog.to_regclass($1) IS NOT NULL";

pub(in crate::target::postgres) const READ: &str = "\
SELECT source_oid, table_name, stage, sync_slot, hand_over, error FROM rsrepl.syncs
 WHERE slot = $1 ORDER BY requested, source_oid";

pub(in crate::target::postgres) const WRITE: &str = "\
INSERT INTO rsrepl.syncs (slot, source_oid, table_name, stage, sync_slot, hand_over, error)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (slot, source_oid) DO UPDATE SET table_name = EXCLUDED.table_name, stage = EXCLUDED.stage,
    sync_slot = EXCLUDED.sync_slot, hand_over = EXCLUDED.hand_over, error = EXCLUDED.error,
    updated = pg_catalog.clock_timestamp()";

/// Of two who ask at the same time, one is heard; who asks for what goes on already changes nothing. What was given up
/// stays held.
pub(in crate::target::postgres) const REQUEST: &str = "\
INSERT INTO rsrepl.syncs AS s (slot, source_oid, table_name, stage, sync_slot, hand_over, error)
VALUES ($1, $2, $3, $4, '', '0/0', $5)
ON CONFLICT (slot, source_oid) DO UPDATE SET table_name = EXCLUDED.table_name, error = EXCLUDED.error,
    stage = CASE s.stage WHEN 'given up' THEN 'requested again' ELSE EXCLUDED.stage END,
    requested = EXCLUDED.requested, updated = EXCLUDED.updated
 WHERE s.stage = 'to be decided' OR s.stage = 'given up' AND s.sync_slot = '' AND EXCLUDED.stage = 'requested'";

pub(in crate::target::postgres) const WITHDRAW: &str = "\
DELETE FROM rsrepl.syncs WHERE slot = $1 AND source_oid = ANY ($2) AND stage IN ('to be decided', 'requested')";

pub(in crate::target::postgres) const HOLD_AGAIN: &str = "\
UPDATE rsrepl.syncs SET stage = 'given up', updated = pg_catalog.clock_timestamp()
 WHERE slot = $1 AND source_oid = ANY ($2) AND stage = 'requested again'";

/// Under the name of the sync's slot, where nobody else writes, and what is there goes with the sync.
pub(in crate::target::postgres) const CANCEL_BEGUN: &str = "\
INSERT INTO rsrepl.syncs (slot, source_oid, table_name, stage, sync_slot, hand_over, error)
SELECT sync_slot, source_oid, table_name, $3, '', '0/0', '' FROM rsrepl.syncs
 WHERE slot = $1 AND source_oid = ANY ($2) AND stage IN ('copying', 'handing over')
ON CONFLICT DO NOTHING";

pub(in crate::target::postgres) const CANCELLED: &str =
    "SELECT source_oid FROM rsrepl.syncs WHERE slot = $1 AND stage = $2";

/// Whose positions are moved by whom: of those who may write them, all but the one that asks.
pub(in crate::target::postgres) const WRITERS: &str = "\
SELECT DISTINCT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee))
  FROM pg_catalog.pg_class AS c,
       LATERAL pg_catalog.aclexplode(COALESCE(c.relacl, pg_catalog.acldefault('r', c.relowner))) AS a
 WHERE c.oid = 'rsrepl.positions'::regclass AND a.privilege_type = 'UPDATE' AND a.grantee <> 0
   AND a.grantee <> (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user)";

pub(in crate::target::postgres) const NOW: &str = "SELECT pg_catalog.clock_timestamp()::text";

pub(in crate::target::postgres) const HANDED_OVER: &str = "\
SELECT EXISTS (SELECT FROM rsrepl.tables WHERE slot = $1 AND source_oid = $2 AND updated >= $3::text::timestamptz)";

pub(in crate::target::postgres) const FIND: &str =
    "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname || '.' || c.relname = $1";

pub(in crate::target::postgres) const REMOVE: &str =
    "DELETE FROM rsrepl.syncs WHERE slot = $1 AND source_oid = ANY ($2)";

pub(in crate::target::postgres) const HAS_COPY: &str = "\
SELECT EXISTS (SELECT FROM rsrepl.copies WHERE slot = $1 AND lsn <> '0/0')";

/// Everything that is recorded by slot.
pub(in crate::target::postgres) const OF_SLOT: &[&str] =
    &["positions", "copies", "copied_chunks", "tables", "to_create"];

pub(in crate::target::postgres) const TAKE_SHAPES: &str = "\
INSERT INTO rsrepl.tables (slot, source_oid, target_oid, record)
SELECT $1, source_oid, target_oid, record FROM rsrepl.tables WHERE slot = $2 AND source_oid = ANY ($3)";

pub(in crate::target::postgres) const FORGET_SHAPES: &str =
    "DELETE FROM rsrepl.tables WHERE slot = $1 AND source_oid = ANY ($2)";

/// Those that are known under another name.
pub(in crate::target::postgres) const FORGET_KNOWN: &str = "\
DELETE FROM rsrepl.tables WHERE slot = $1 AND source_oid = ANY ($2)
   AND source_oid IN (SELECT k.source_oid FROM rsrepl.tables AS k WHERE k.slot = $3)";

pub(in crate::target::postgres) const FORGET_CANCELLED: &str =
    "DELETE FROM rsrepl.syncs WHERE slot = $1";
