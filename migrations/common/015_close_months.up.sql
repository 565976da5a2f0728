-- What an invoice is made of. The billing engine reads usage_statement(): frozen figures, and adjustments, each once.

-- Of a closed month's frozen figures: SHA-256 of its rows as text, by organization, in hexadecimal.
CREATE OR REPLACE FUNCTION usage_month_checksum(closed_month timestamptz)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT encode(sha256(convert_to(coalesce(string_agg(
               concat_ws(' ', organization_id, total_requests, billable_requests, billable_units, response_time_ms_sum,
                         success_count, client_error_count, error_count, unique_api_keys),
               E'\n' ORDER BY organization_id), ''), 'UTF8')), 'hex')
      FROM usage_invoice_basis WHERE month = closed_month
$$;

-- Freezes the figures of the UTC month that begins on `month`, at least `grace` after its end. Whatever is folded into the
-- month later is entered as an adjustment. Returns how many organizations it has figures for.
CREATE OR REPLACE FUNCTION usage_close_month(month date, grace interval DEFAULT '3 days')
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    month_start constant timestamptz := usage_close_month.month::timestamp AT TIME ZONE 'UTC';
    month_end   constant timestamptz := (usage_close_month.month + INTERVAL '1 month') AT TIME ZONE 'UTC';
    bounds      usage_bounds;
    organization_count bigint;
BEGIN
    IF NOT isfinite(usage_close_month.month) OR extract(day FROM usage_close_month.month) IS DISTINCT FROM 1 THEN
        RAISE EXCEPTION '% is not the first day of a month', usage_close_month.month USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF grace IS NULL OR month_end + grace < month_end THEN
        RAISE EXCEPTION 'a month cannot be closed before it is over' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('usage_fold'), 'usage_bounds'::regclass::oid::integer);
    PERFORM usage_fold();
    SELECT * INTO STRICT bounds FROM usage_bounds;
    IF bounds.folded_until < month_end + grace THEN
        RAISE EXCEPTION '% cannot be closed yet: events are folded until %, and it is over, with % of grace, at %',
            to_char(usage_close_month.month, 'YYYY-MM'), bounds.folded_until, grace, month_end + grace
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF EXISTS (SELECT FROM usage_closed_months AS closed WHERE closed.month = month_start) THEN
        RAISE EXCEPTION '% is closed already', to_char(usage_close_month.month, 'YYYY-MM')
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Its figures are in usage_invoice_basis; later changes are in usage_adjustments.';
    END IF;
    INSERT INTO usage_invoice_basis
    SELECT month_start, organization_id, sum(total_requests), sum(billable_requests), sum(billable_units),
           sum(response_time_ms_sum), sum(success_count), sum(client_error_count), sum(error_count),
           count(DISTINCT api_key_id)
      FROM usage_daily_figures AS daily WHERE daily.month = month_start GROUP BY organization_id;
    GET DIAGNOSTICS organization_count = ROW_COUNT;
    INSERT INTO usage_closed_months (month, organizations, checksum)
    VALUES (month_start, organization_count, usage_month_checksum(month_start));
    RETURN organization_count;
END
$$;

-- The lines of an organization's closed month: first 'usage', as frozen (zeros if there was none), then each 'adjustment'
-- in the order it was entered. Lines never change; new ones may follow. Fails while the month is not closed.
CREATE OR REPLACE FUNCTION usage_statement(org_id uuid, month date)
RETURNS TABLE (line text, adjustment_id bigint, recorded_at timestamptz, total_requests bigint, billable_requests bigint,
               billable_units bigint, reason text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
    month_start constant timestamptz := usage_statement.month::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF NOT EXISTS (SELECT FROM usage_closed_months AS closed WHERE closed.month = month_start) THEN
        RAISE EXCEPTION '% is not closed', usage_statement.month
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'usage_close_month() closes a month, named by its first day; usage_monthly has what it is so far.';
    END IF;
    RETURN QUERY
        SELECT 'usage', NULL::bigint, closed.closed_at, coalesce(basis.total_requests, 0),
               coalesce(basis.billable_requests, 0), coalesce(basis.billable_units, 0), ''
          FROM usage_closed_months AS closed
          LEFT JOIN usage_invoice_basis AS basis ON basis.month = closed.month AND basis.organization_id = org_id
         WHERE closed.month = month_start
        UNION ALL
        SELECT 'adjustment', added.adjustment_id, added.recorded_at, added.total_requests, added.billable_requests,
               added.billable_units, added.reason
          FROM usage_adjustments AS added
         WHERE added.organization_id = org_id AND added.month = month_start
         ORDER BY 2 NULLS FIRST;
END
$$;

DO $$
DECLARE
    names constant text := format('pg_catalog, %I, pg_temp', current_schema());
BEGIN
    EXECUTE 'ALTER FUNCTION usage_close_month(date, interval) SET TimeZone = UTC SET search_path = ' || names;
    -- Readers see the statements without the tables behind them.
    EXECUTE 'ALTER FUNCTION usage_statement(uuid, date) SECURITY DEFINER SET search_path = ' || names;
    EXECUTE 'ALTER FUNCTION usage_month_checksum(timestamptz) SECURITY DEFINER SET search_path = ' || names;
END
$$;
REVOKE EXECUTE ON FUNCTION usage_close_month(date, interval), usage_statement(uuid, date),
    usage_month_checksum(timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION usage_month_checksum(timestamptz) IS
    'SHA-256 of a closed month''s frozen figures; equal to usage_closed_months.checksum, or they were changed';
COMMENT ON FUNCTION usage_close_month(date, interval) IS
    'Freezes the figures of a UTC month, named by its first day, into usage_invoice_basis; returns how many organizations';
COMMENT ON FUNCTION usage_statement(uuid, date) IS
    'The lines of an organization''s closed month: its frozen usage, and what was adjusted since';
