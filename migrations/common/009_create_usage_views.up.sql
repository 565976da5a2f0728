-- What bills and dashboards read: always all events that are committed, in one snapshot, wherever they are (006).

-- Refuses a snapshot in which not all before the floor is folded: what the planner leaves out would be missing.
CREATE OR REPLACE FUNCTION usage_check_tail(folded_until timestamptz, tail_floor timestamptz)
RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
BEGIN
    IF folded_until < tail_floor THEN
        RAISE EXCEPTION 'this transaction''s snapshot is too old to read usage: events up to % have been folded since', tail_floor
            USING ERRCODE = 'serialization_failure', HINT = 'Begin the transaction again.';
    END IF;
    RETURN true;
END
$$;

-- Events that are in no figure yet, as increments. Added up here already: a busy organization has thousands of events, and
-- whatever is done with them further up is done with a few dozen rows. (date_bin gives the UTC hour as date_trunc does, at a
-- tenth of the cost.) The upper bound keeps nothing out: an open range is planned as a third of a day's rows, with parallel
-- workers or a scan of the day; one with two ends as a two-hundredth, which is nearer to what it is.
CREATE OR REPLACE VIEW usage_unfolded AS
SELECT date_bin('1 hour', time, '1970-01-01 00:00:00+00') AS bucket, organization_id, api_key_id, endpoint, method,
       count(*)                                                AS total_requests,
       count(*) FILTER (WHERE billable)                        AS billable_requests,
       coalesce(sum(weight) FILTER (WHERE billable), 0)        AS billable_units,
       sum(response_time_ms)                                   AS response_time_ms_sum,
       count(*) FILTER (WHERE status_code BETWEEN 200 AND 299) AS success_count,
       count(*) FILTER (WHERE status_code BETWEEN 400 AND 499) AS client_error_count,
       count(*) FILTER (WHERE status_code BETWEEN 500 AND 599) AS error_count
  FROM usage_events
 WHERE time >= (SELECT folded_until FROM usage_bounds) AND time >= usage_tail_floor()
   AND time <= (SELECT timestamptz 'infinity')
 GROUP BY 1, 2, 3, 4, 5
UNION ALL
SELECT bucket, organization_id, api_key_id, endpoint, method, total_requests, billable_requests, billable_units,
       response_time_ms_sum, success_count, client_error_count, error_count
  FROM usage_late_figures
 WHERE counts_from <= (SELECT folded_until FROM usage_bounds)
   AND (SELECT usage_check_tail(folded_until, usage_tail_floor()) FROM usage_bounds); -- Asked also if no row is there.

-- How many distinct values several arrays hold together.
CREATE OR REPLACE FUNCTION usage_count_distinct(hashes bigint[])
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT count(DISTINCT hash) FROM unnest(hashes) AS hash $$;
CREATE OR REPLACE AGGREGATE usage_count_distinct_of(bigint[]) (
    SFUNC = array_cat, STYPE = bigint[], COMBINEFUNC = array_cat, FINALFUNC = usage_count_distinct, PARALLEL = SAFE
);

CREATE OR REPLACE VIEW usage_hourly AS
SELECT bucket, organization_id, api_key_id,
       sum(total_requests)::bigint                          AS total_requests,
       sum(billable_requests)::bigint                       AS billable_requests,
       sum(billable_units)::bigint                          AS billable_units,
       sum(response_time_ms_sum)::bigint                    AS response_time_ms_sum,
       sum(response_time_ms_sum) / sum(total_requests)      AS avg_response_time_ms,
       sum(success_count)::bigint                           AS success_count,
       sum(client_error_count)::bigint                      AS client_error_count,
       sum(error_count)::bigint                             AS error_count,
       usage_count_distinct_of(endpoint_hashes)             AS unique_endpoints
  FROM (
    SELECT bucket, organization_id, api_key_id, total_requests, billable_requests, billable_units,
           response_time_ms_sum, success_count, client_error_count, error_count, endpoint_hashes
      FROM usage_hourly_figures
    UNION ALL
    SELECT bucket, organization_id, api_key_id, sum(total_requests), sum(billable_requests), sum(billable_units),
           sum(response_time_ms_sum), sum(success_count), sum(client_error_count), sum(error_count),
           array_agg(DISTINCT hashtextextended(endpoint, 0))
      FROM usage_unfolded GROUP BY 1, 2, 3
  ) AS figures
 GROUP BY 1, 2, 3;

CREATE OR REPLACE VIEW usage_endpoint_hourly AS
SELECT bucket, organization_id, endpoint, method,
       sum(total_requests)::bigint                          AS total_requests,
       sum(billable_requests)::bigint                       AS billable_requests,
       sum(billable_units)::bigint                          AS billable_units,
       sum(response_time_ms_sum)::bigint                    AS response_time_ms_sum,
       sum(response_time_ms_sum) / sum(total_requests)      AS avg_response_time_ms,
       sum(success_count)::bigint                           AS success_count,
       sum(client_error_count)::bigint                      AS client_error_count,
       sum(error_count)::bigint                             AS error_count
  FROM (
    SELECT bucket, organization_id, endpoint, method, total_requests, billable_requests, billable_units,
           response_time_ms_sum, success_count, client_error_count, error_count
      FROM usage_endpoint_hourly_figures
    UNION ALL
    SELECT bucket, organization_id, endpoint, method, total_requests, billable_requests, billable_units,
           response_time_ms_sum, success_count, client_error_count, error_count
      FROM usage_unfolded
  ) AS figures
 GROUP BY 1, 2, 3, 4;

CREATE OR REPLACE VIEW usage_daily AS
SELECT bucket, organization_id,
       sum(total_requests)::bigint                          AS total_requests,
       sum(billable_requests)::bigint                       AS billable_requests,
       sum(billable_units)::bigint                          AS billable_units,
       sum(response_time_ms_sum)::bigint                    AS response_time_ms_sum,
       sum(response_time_ms_sum) / sum(total_requests)      AS avg_response_time_ms,
       sum(success_count)::bigint                           AS success_count,
       sum(client_error_count)::bigint                      AS client_error_count,
       sum(error_count)::bigint                             AS error_count,
       count(DISTINCT api_key_id)                           AS unique_api_keys
  FROM (
    SELECT bucket, organization_id, api_key_id, total_requests, billable_requests, billable_units,
           response_time_ms_sum, success_count, client_error_count, error_count
      FROM usage_daily_figures
    UNION ALL
    SELECT date_trunc('day', bucket, 'UTC'), organization_id, api_key_id, total_requests, billable_requests,
           billable_units, response_time_ms_sum, success_count, client_error_count, error_count
      FROM usage_unfolded
  ) AS figures
 GROUP BY 1, 2;

CREATE OR REPLACE VIEW usage_monthly AS
SELECT month AS bucket, organization_id,
       sum(total_requests)::bigint                          AS total_requests,
       sum(billable_requests)::bigint                       AS billable_requests,
       sum(billable_units)::bigint                          AS billable_units,
       sum(response_time_ms_sum)::bigint                    AS response_time_ms_sum,
       sum(response_time_ms_sum) / sum(total_requests)      AS avg_response_time_ms,
       sum(success_count)::bigint                           AS success_count,
       sum(client_error_count)::bigint                      AS client_error_count,
       sum(error_count)::bigint                             AS error_count,
       count(DISTINCT api_key_id)                           AS unique_api_keys
  FROM (
    SELECT month, organization_id, api_key_id, total_requests, billable_requests, billable_units,
           response_time_ms_sum, success_count, client_error_count, error_count
      FROM usage_daily_figures
    UNION ALL
    SELECT date_trunc('month', bucket, 'UTC'), organization_id, api_key_id, total_requests, billable_requests,
           billable_units, response_time_ms_sum, success_count, client_error_count, error_count
      FROM usage_unfolded
  ) AS figures
 GROUP BY month, organization_id;

COMMENT ON VIEW usage_unfolded IS 'Events that are not folded into the figures yet, by hour';
COMMENT ON VIEW usage_hourly IS 'Usage by UTC hour, organization and api key; up to the last committed event';
COMMENT ON VIEW usage_endpoint_hourly IS 'Usage by UTC hour, organization, endpoint and method; up to the last committed event';
COMMENT ON VIEW usage_daily IS 'Usage by UTC day and organization; up to the last committed event';
COMMENT ON VIEW usage_monthly IS 'Usage by UTC month and organization; up to the last committed event';
COMMENT ON FUNCTION usage_check_tail(timestamptz, timestamptz) IS
    'Refuses (SQLSTATE 40001) a snapshot that is older than what the planner leaves out';
COMMENT ON FUNCTION usage_count_distinct(bigint[]) IS 'How many distinct values an array holds';
COMMENT ON AGGREGATE usage_count_distinct_of(bigint[]) IS 'How many distinct values several arrays hold together';
