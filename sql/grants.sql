-- Who may do what. The sidecar's role is the administrator's to create; see rsrepl.grant_sidecar.

-- Grants what a sidecar of this database needs, and nothing else.
CREATE PROCEDURE rsrepl.grant_sidecar(role regrole)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = role) THEN
        RAISE EXCEPTION 'there is no role with oid %', role::oid;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA rsrepl TO %s', role);
    EXECUTE format('GRANT SELECT ON rsrepl.slots, rsrepl.targets, rsrepl.copies TO %s', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION rsrepl.report(jsonb), rsrepl.version(), '
        'rsrepl.silent_after(), rsrepl.output_plugin_libraries(), rsrepl.check_server(), '
        'rsrepl.check_slots(), rsrepl.check_targets(interval, interval), rsrepl.check_tables(), '
        'rsrepl.health(interval, interval) TO %s', role);
    IF NOT EXISTS (
        SELECT FROM pg_roles AS r WHERE r.oid = role AND r.rolreplication AND r.rolcanlogin
    ) THEN
        RAISE NOTICE 'the sidecar also needs: ALTER ROLE % LOGIN REPLICATION', role;
    END IF;
END
$$;

COMMENT ON PROCEDURE rsrepl.grant_sidecar(regrole) IS
    'grants a role what a sidecar of this database needs, beside LOGIN and REPLICATION';

-- nothing is public; the owner of the extension and superusers may do everything
REVOKE ALL ON ALL ROUTINES IN SCHEMA rsrepl FROM PUBLIC;

GRANT USAGE ON SCHEMA rsrepl TO pg_monitor;
GRANT SELECT ON rsrepl.slots, rsrepl.targets, rsrepl.copies TO pg_monitor;
GRANT EXECUTE ON FUNCTION
    rsrepl.version(), rsrepl.silent_after(), rsrepl.output_plugin_libraries(),
    rsrepl.check_server(), rsrepl.check_slots(), rsrepl.check_targets(interval, interval),
    rsrepl.check_tables(), rsrepl.health(interval, interval)
TO pg_monitor;
