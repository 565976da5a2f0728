-- Who may do what. Called by the owner of the tables, who is the one that migrates; calling again is safe.

-- For `usage-processor run`: no DDL, no UPDATE, no DELETE on events or letters, no figures but by its events.
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
    EXECUTE format('GRANT SELECT ON %1$I.usage_schema_migrations, %1$I.usage_bounds TO %2$I', namespace, role);
    -- SELECT: rows that stand in the way are compared, letters that are there already are told apart, and the ledger
    -- says where to go on.
    EXECUTE format('GRANT SELECT, INSERT ON %1$I.usage_events, %1$I.usage_dead_letters, %1$I.usage_ledger, '
                   '%1$I.usage_ledger_starts, %1$I.usage_ledger_days TO %2$I', namespace, role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %1$I.usage_fold_ledger(), %1$I.usage_begin_fold(timestamptz), '
                   '%1$I.usage_fold() TO %2$I', namespace, role);
    IF to_regprocedure(format('%I.usage_ensure_partitions(date, date)', namespace)) IS NOT NULL THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION %I.usage_ensure_partitions(date, date) TO %I', namespace, role);
    END IF;
END
$$;

-- For invoices and dashboards: the views and functions, and no table.
CREATE OR REPLACE FUNCTION usage_grant_reader(role name)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    namespace constant name := (SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                WHERE c.oid = 'usage_events'::regclass);
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', namespace, role);
    EXECUTE format('GRANT SELECT ON %1$I.usage_hourly, %1$I.usage_endpoint_hourly, %1$I.usage_daily, '
                   '%1$I.usage_monthly TO %2$I', namespace, role);
    -- The last three are asked by the views; not every database lets everybody execute functions.
    EXECUTE format('GRANT EXECUTE ON FUNCTION %1$I.usage_statement(uuid, date), '
                   '%1$I.usage_month_checksum(timestamptz), %1$I.get_current_month_usage(uuid), '
                   '%1$I.usage_by_day(uuid, date, date), %1$I.usage_top_endpoints(uuid, timestamptz, integer), '
                   '%1$I.usage_error_rate(uuid, timestamptz), %1$I.usage_tail_floor(), '
                   '%1$I.usage_check_tail(timestamptz, timestamptz), %1$I.usage_count_distinct_of(bigint[]) TO %2$I',
                   namespace, role);
END
$$;

-- Which organizations' figures a role may see through the usage_tenant_* views.
CREATE TABLE IF NOT EXISTS usage_tenants (
    role_name       name NOT NULL,
    organization_id uuid NOT NULL,
    PRIMARY KEY (role_name, organization_id)
);

DO $$
DECLARE
    level text;
BEGIN
    FOREACH level IN ARRAY ARRAY['hourly', 'endpoint_hourly', 'daily', 'monthly'] LOOP
        EXECUTE format('CREATE OR REPLACE VIEW usage_tenant_%1$s WITH (security_barrier) AS SELECT * FROM usage_%1$s '
                       'WHERE organization_id = ANY (ARRAY(SELECT organization_id FROM usage_tenants '
                       'WHERE role_name = current_user))', level);
        EXECUTE format('COMMENT ON VIEW usage_tenant_%1$s IS %2$L', level,
                       format('usage_%s of the organizations that usage_grant_tenant() has given to the current role', level));
    END LOOP;
END
$$;

-- For a customer's own dashboard: the usage_tenant_* views, with the rows of this organization. Several may be granted.
CREATE OR REPLACE FUNCTION usage_grant_tenant(role name, org_id uuid)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    namespace constant name := (SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                WHERE c.oid = 'usage_events'::regclass);
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', namespace, role);
    EXECUTE format('GRANT SELECT ON %1$I.usage_tenant_hourly, %1$I.usage_tenant_endpoint_hourly, '
                   '%1$I.usage_tenant_daily, %1$I.usage_tenant_monthly TO %2$I', namespace, role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %1$I.usage_tail_floor(), '
                   '%1$I.usage_check_tail(timestamptz, timestamptz), %1$I.usage_count_distinct_of(bigint[]) TO %2$I',
                   namespace, role);
    INSERT INTO usage_tenants VALUES (role, org_id) ON CONFLICT DO NOTHING;
END
$$;

-- To be called before a role is dropped: another one of its name would see the same.
CREATE OR REPLACE FUNCTION usage_revoke_tenant(role name, org_id uuid)
RETURNS void
LANGUAGE sql
AS $$ DELETE FROM usage_tenants WHERE role_name = role AND organization_id = org_id $$;
REVOKE EXECUTE ON FUNCTION usage_grant_writer(name), usage_grant_reader(name), usage_grant_tenant(name, uuid),
    usage_revoke_tenant(name, uuid) FROM PUBLIC;

-- A writer may have a missing partition made, and does not own the table. The definer's rights hold for this one
-- function, which finds its names in the schema of its table whatever the caller's search_path says.
DO $$
BEGIN
    IF to_regprocedure('usage_ensure_partitions(date, date)') IS NOT NULL THEN
        EXECUTE format('ALTER FUNCTION usage_ensure_partitions(date, date) SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
                       current_schema());
        REVOKE EXECUTE ON FUNCTION usage_ensure_partitions(date, date) FROM PUBLIC;
    END IF;
END
$$;

COMMENT ON FUNCTION usage_grant_writer(name) IS 'Gives a role what the process that writes events needs, and nothing else';
COMMENT ON FUNCTION usage_grant_reader(name) IS 'Lets a role read usage and statements of all organizations, and no event';
COMMENT ON FUNCTION usage_grant_tenant(name, uuid) IS 'Lets a role read the usage of an organization, and of no other';
COMMENT ON FUNCTION usage_revoke_tenant(name, uuid) IS 'Takes back what usage_grant_tenant() has given';
COMMENT ON TABLE usage_tenants IS 'Which role may see which organization in the usage_tenant_* views';
