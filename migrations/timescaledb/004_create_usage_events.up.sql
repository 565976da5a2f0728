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
);

-- Few partitions: every chunk of a day costs planning, locks and, compressed, about 100 kB; writers are as fast with 1 as with
-- 16 (tuning/README.md, `compression`).
-- No default indexes: each B-tree costs the writer about 1.9 µs a row, and the ones below serve every query.
SELECT create_hypertable(
    'usage_events', 'time',
    partitioning_column    => 'organization_id',
    number_partitions      => 4,
    chunk_time_interval    => INTERVAL '1 day',
    create_default_indexes => false,
    if_not_exists          => true
);

-- A request is billed once. The key must hold both partitioning columns, and in this order it also serves
-- "one organization, newest first".
CREATE UNIQUE INDEX IF NOT EXISTS usage_events_identity_idx
    ON usage_events (organization_id, time DESC, request_id);
CREATE INDEX IF NOT EXISTS usage_events_api_key_idx ON usage_events (api_key_id, time DESC);
CREATE INDEX IF NOT EXISTS usage_events_endpoint_idx ON usage_events (endpoint, time DESC);
-- What is folded next, and the latest events.
CREATE INDEX IF NOT EXISTS usage_events_time_idx ON usage_events (time DESC);

-- How a chunk is laid out once compressed; when that happens is a policy's business (018). By organization alone: many api
-- keys have too few requests a day to fill blocks of their own. The Bloom filter finds a request by its id; those that
-- TimescaleDB derives from the indexes by itself take three times its size and find nothing faster. (None at all, an empty
-- list, lets a redelivery crash the server of 2.28: timescale/timescaledb issue 10414.)
DO $$
BEGIN
    IF NOT (SELECT compression_enabled FROM timescaledb_information.hypertables
            WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events') THEN
        ALTER TABLE usage_events SET (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'organization_id',
            timescaledb.compress_orderby   = 'time DESC'
        );
        BEGIN
            ALTER TABLE usage_events SET (timescaledb.sparse_index = 'bloom(request_id)');
        EXCEPTION WHEN invalid_parameter_value THEN
            NULL; -- An older TimescaleDB has no such setting, and works without.
        END;
    END IF;
END
$$;

COMMENT ON TABLE usage_events IS 'API usage events, one row per request, kept for 90 days';
