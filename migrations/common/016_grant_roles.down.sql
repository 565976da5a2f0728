DROP FUNCTION IF EXISTS usage_revoke_tenant(name, uuid);
DROP FUNCTION IF EXISTS usage_grant_tenant(name, uuid);
DROP VIEW IF EXISTS usage_tenant_monthly, usage_tenant_daily, usage_tenant_endpoint_hourly, usage_tenant_hourly;
DROP TABLE IF EXISTS usage_tenants;
DROP FUNCTION IF EXISTS usage_grant_reader(name);
DROP FUNCTION IF EXISTS usage_grant_writer(name);
DO $$
BEGIN
    IF to_regprocedure('usage_ensure_partitions(date, date)') IS NOT NULL THEN
        ALTER FUNCTION usage_ensure_partitions(date, date) SECURITY INVOKER RESET search_path;
        GRANT EXECUTE ON FUNCTION usage_ensure_partitions(date, date) TO PUBLIC;
    END IF;
END
$$;
