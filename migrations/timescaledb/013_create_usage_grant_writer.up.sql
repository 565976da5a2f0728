-- Gives a role what `usage-processor run` needs, and nothing else: no DDL, no UPDATE, no DELETE on events or letters.
-- Called by the owner of the tables: SELECT usage_grant_writer('usage_writer'). Calling it again is safe.
CREATE OR REPLACE FUNCTION usage_grant_writer(role name)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    namespace constant name := (SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                WHERE c.oid = 'usage_events'::regclass);
BEGIN
    -- Functions that run with the owner's rights find their names there, and must not find somebody else's.
    IF has_schema_privilege('public', namespace, 'CREATE') THEN
        RAISE EXCEPTION 'every role may create objects in the schema %', namespace
            USING HINT = format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', namespace);
    END IF;
    -- The staging table of the conflict path is a temporary one.
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), role);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', namespace, role);
    EXECUTE format('GRANT SELECT ON %I.usage_schema_migrations TO %I', namespace, role);
    -- SELECT: rows that stand in the way are compared, letters that are there already are told apart, and the ledger
    -- says where to go on.
    EXECUTE format('GRANT SELECT, INSERT ON %1$I.usage_events, %1$I.usage_dead_letters, %1$I.usage_ledger, '
                   '%1$I.usage_ledger_starts, %1$I.usage_ledger_days TO %2$I', namespace, role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %I.usage_fold_ledger() TO %I', namespace, role);
END
$$;
REVOKE EXECUTE ON FUNCTION usage_grant_writer(name) FROM PUBLIC;

COMMENT ON FUNCTION usage_grant_writer(name) IS 'Gives a role what the process that writes events needs, and nothing else';
