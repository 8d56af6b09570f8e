-- Objects of this schema run with the rights of its owner (rsrepl.report), so nobody else may own the
-- schema they live in: an owner could put functions of their own in front of ours.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_namespace AS n
        JOIN pg_catalog.pg_roles AS r ON r.oid = n.nspowner
        WHERE n.nspname = 'rsrepl' AND (r.rolname = current_user OR r.rolsuper)
    ) THEN
        RAISE EXCEPTION 'schema rsrepl is not owned by %', current_user
            USING HINT = 'DROP SCHEMA rsrepl, or ALTER SCHEMA rsrepl OWNER TO CURRENT_USER after '
                         'looking at what is in it.';
    END IF;
END
$$;
