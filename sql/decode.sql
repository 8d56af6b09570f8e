-- What the plugin emits, for people. extension/src/api/frame.rs builds one object per message; the
-- settings are those of the text forms in wire/src/text, and client_encoding that of texts in a frame.
CREATE FUNCTION rsrepl.decode_frame(frame bytea)
RETURNS TABLE (
    "position" integer, lsn pg_lsn, xid xid, kind text, relation text, old jsonb, new jsonb, detail jsonb)
LANGUAGE sql STRICT VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_encoding = 'UTF8'
SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET timezone = 'UTC'
SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
    SELECT r.*
    FROM rsrepl.decode_frame_messages(frame) AS message,
        jsonb_to_record(message::jsonb) AS r (
            "position" integer, lsn pg_lsn, xid xid, kind text, relation text, old jsonb, new jsonb,
            detail jsonb)
$$;

COMMENT ON FUNCTION rsrepl.decode_frame(bytea) IS
    'the messages of a frame of plugin rsrepl, one row each';
