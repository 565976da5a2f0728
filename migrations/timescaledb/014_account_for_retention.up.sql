-- Rows that retention drops are counted by day before they go, so that every row that was ever written stays
-- accounted for.
CREATE TABLE IF NOT EXISTS usage_retention_drops (
    event_day    date        NOT NULL,
    rows_dropped bigint      NOT NULL,
    dropped_at   timestamptz NOT NULL DEFAULT now()
);

-- Drops the chunks that are older than 90 days as a whole, and records how many rows of which day they held, in one
-- transaction. A chunk is locked before it is counted; one that was made for an old day meanwhile ends the attempt.
CREATE OR REPLACE FUNCTION usage_apply_retention()
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    namespace    constant name := (SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                   WHERE c.oid = 'usage_events'::regclass);
    boundary     constant timestamptz := date_trunc('day', now() - INTERVAL '90 days', 'UTC');
    chunk        record;
    locked_count bigint := 0;
    row_count    bigint;
BEGIN
    FOR chunk IN
        SELECT chunk_schema, chunk_name FROM timescaledb_information.chunks
         WHERE hypertable_schema = namespace AND hypertable_name = 'usage_events' AND range_end <= boundary
         ORDER BY range_start, chunk_name
    LOOP
        EXECUTE format('LOCK TABLE %I.%I IN SHARE MODE', chunk.chunk_schema, chunk.chunk_name);
        locked_count := locked_count + 1;
    END LOOP;
    IF locked_count = 0 THEN
        RETURN 0;
    END IF;
    WITH dropped AS (
        INSERT INTO usage_retention_drops (event_day, rows_dropped)
        SELECT (time AT TIME ZONE 'UTC')::date, count(*) FROM usage_events WHERE time < boundary GROUP BY 1
        RETURNING rows_dropped
    )
    SELECT coalesce(sum(rows_dropped), 0) FROM dropped INTO row_count;
    IF (SELECT count(*) FROM drop_chunks('usage_events', older_than => boundary)) <> locked_count THEN
        RAISE EXCEPTION 'chunks older than % were made while usage_apply_retention was counting; run it again', boundary;
    END IF;
    RETURN row_count;
END
$$;

-- A job is a procedure of this shape.
CREATE OR REPLACE PROCEDURE usage_apply_retention_job(job_id integer, config jsonb)
LANGUAGE sql AS 'SELECT usage_apply_retention()';

-- A job runs with its owner's search_path, which need not be the one of now.
DO $$
DECLARE
    extension_schema constant name := (SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                                       WHERE extname = 'timescaledb');
    names constant text := format('pg_catalog, %I, %I, pg_temp', current_schema(), extension_schema);
BEGIN
    EXECUTE 'ALTER FUNCTION usage_apply_retention() SET search_path = ' || names;
    EXECUTE 'ALTER PROCEDURE usage_apply_retention_job(integer, jsonb) SET search_path = ' || names;
END
$$;

-- Takes the place of the policy that drops without counting.
DO $$
BEGIN
    PERFORM remove_retention_policy('usage_events', if_exists => true);
    IF NOT EXISTS (SELECT FROM timescaledb_information.jobs WHERE proc_name = 'usage_apply_retention_job') THEN
        PERFORM add_job('usage_apply_retention_job', INTERVAL '1 hour');
    END IF;
END
$$;

COMMENT ON TABLE usage_retention_drops IS 'How many rows of usage_events retention has dropped, by UTC day';
COMMENT ON FUNCTION usage_apply_retention() IS
    'Drops usage events of whole days older than 90 days and records how many; returns how many rows it dropped';
