-- The raw events, one row per API request; customers are billed from them.
-- Every column is required: the decoder refuses an event that lacks one.
CREATE TABLE IF NOT EXISTS usage_events (
    time             timestamptz              NOT NULL,
    request_id       varchar(128) COLLATE "C" NOT NULL,
    organization_id  uuid                     NOT NULL,
    api_key_id       uuid                     NOT NULL,
    endpoint         varchar(255) COLLATE "C" NOT NULL,
    method           varchar(10)  COLLATE "C" NOT NULL,
    status_code      integer                  NOT NULL,
    response_time_ms integer                  NOT NULL,
    billable         boolean                  NOT NULL DEFAULT true,
    weight           integer                  NOT NULL DEFAULT 1,
    created_at       timestamptz              NOT NULL DEFAULT now()
) PARTITION BY RANGE (time);

-- A request is billed once. The key must hold the partitioning column, and in this order it also serves
-- "one organization, newest first".
CREATE UNIQUE INDEX IF NOT EXISTS usage_events_identity_idx
    ON usage_events (organization_id, time DESC, request_id);
CREATE INDEX IF NOT EXISTS usage_events_api_key_idx ON usage_events (api_key_id, time DESC);
CREATE INDEX IF NOT EXISTS usage_events_endpoint_idx ON usage_events (endpoint, time DESC);
-- What is folded next, and the latest events.
CREATE INDEX IF NOT EXISTS usage_events_time_idx ON usage_events (time DESC);

-- Makes the daily partitions (UTC days, both ends included) that do not exist yet; returns how many it made.
-- A partition is made as a table and then attached: that takes no lock that writers would wait for, which
-- CREATE TABLE ... PARTITION OF does. The advisory lock makes a concurrent caller wait and then find the work done.
CREATE OR REPLACE FUNCTION usage_ensure_partitions(from_day date, to_day date)
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    parent     constant regclass := 'usage_events'::regclass;
    namespace  constant name := (SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                 WHERE c.oid = parent);
    day        date := from_day;
    partition  name;
    made_count integer := 0;
BEGIN
    -- The functions in here are named with their schema: this runs with the owner's rights (016), and another's function
    -- of the same name may fit better.
    -- Any day may be asked for, since an event is as old as its Kafka timestamp says; but not a thousand years of days.
    IF to_day - from_day > 1000 THEN
        RAISE EXCEPTION '% to % are more than a thousand partitions: make them in parts', from_day, to_day;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('usage_ensure_partitions'), parent::oid::integer);
    WHILE day <= to_day LOOP
        partition := 'usage_events_' || pg_catalog.to_char(day::timestamp, 'YYYYMMDD');
        IF NOT EXISTS (
            SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = parent AND c.relname = partition
        ) THEN
            EXECUTE pg_catalog.format('CREATE TABLE %I.%I (LIKE %s INCLUDING DEFAULTS)', namespace, partition, parent);
            EXECUTE pg_catalog.format('ALTER TABLE %s ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)',
                           parent, namespace, partition,
                           pg_catalog.to_char(day::timestamp, 'YYYY-MM-DD') || ' 00:00:00+00',
                           pg_catalog.to_char((day + 1)::timestamp, 'YYYY-MM-DD') || ' 00:00:00+00');
            made_count := made_count + 1;
        END IF;
        day := day + 1;
    END LOOP;
    RETURN made_count;
END
$$;

-- The oldest event that is accepted is 90 days old; two weeks ahead leave time to notice that nobody makes more.
SELECT usage_ensure_partitions(today - 91, today + 14)
FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS utc;

COMMENT ON TABLE usage_events IS 'API usage events, one row per request, in one partition per UTC day';
COMMENT ON FUNCTION usage_ensure_partitions(date, date) IS
    'Makes the missing daily partitions of usage_events, both days included; returns how many it made';
