-- What events add up to, kept for ever: figures by hour, endpoint and day that grow by what is written.
-- There is no refresh that could compute a bucket anew from rows that are gone.
--
-- Every event is in exactly one of three places for whoever reads (the views of 009 add them up):
--   figures              its time lies before folded_until, and a fold has added it
--   usage_late_figures   its time lies before folded_until, and it was written after that bound had been announced
--   usage_events         its time lies at or after folded_until: read as it is
CREATE TABLE IF NOT EXISTS usage_bounds (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    folded_until   timestamptz NOT NULL DEFAULT '-infinity', -- figures hold every earlier event, but for late ones
    folding_until  timestamptz NOT NULL DEFAULT '-infinity', -- the next such bound, announced: writers enter earlier events as late
    due_until      timestamptz NOT NULL DEFAULT '-infinity', -- how far the bounds may go by what has arrived so far
    newest_time    timestamptz NOT NULL DEFAULT '-infinity', -- of all that has arrived; how far they may go once nothing does
    fold_step      interval    NOT NULL DEFAULT '10 minutes' -- most that is folded at once; grows and shrinks to take seconds
                   CHECK (fold_step > INTERVAL '0'),
    announce_after timestamptz NOT NULL DEFAULT '-infinity', -- no bound is announced before: a stuck writer stood in the way
    next_floor     timestamptz NOT NULL DEFAULT '-infinity', -- what usage_tail_floor() becomes an hour after
    next_floor_at  timestamptz NOT NULL DEFAULT '-infinity',
    retained_since timestamptz NOT NULL DEFAULT '-infinity', -- events before it are refused: their rows are dropped, or about to be
    retention      interval    NOT NULL DEFAULT '90 days'    -- how long rows are kept; counted in whole UTC days
                   CHECK (retention >= INTERVAL '1 day'),
    CHECK (folded_until <= folding_until)
);
INSERT INTO usage_bounds DEFAULT VALUES ON CONFLICT DO NOTHING;

-- By UTC hour, organization and api key. An hour's distinct endpoints are kept as hashes (hashtextextended(endpoint, 0)),
-- so that two counts can be joined without their rows.
CREATE TABLE IF NOT EXISTS usage_hourly_figures (
    bucket               timestamptz NOT NULL,
    organization_id      uuid        NOT NULL,
    api_key_id           uuid        NOT NULL,
    total_requests       bigint      NOT NULL,
    billable_requests    bigint      NOT NULL,
    billable_units       bigint      NOT NULL,
    response_time_ms_sum bigint      NOT NULL,
    success_count        bigint      NOT NULL,
    client_error_count   bigint      NOT NULL,
    error_count          bigint      NOT NULL,
    endpoint_hashes      bigint[]    NOT NULL,
    PRIMARY KEY (organization_id, bucket, api_key_id)
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS usage_hourly_figures_bucket_idx ON usage_hourly_figures (bucket);

-- By UTC hour, organization, endpoint and method.
CREATE TABLE IF NOT EXISTS usage_endpoint_hourly_figures (
    bucket               timestamptz              NOT NULL,
    organization_id      uuid                     NOT NULL,
    endpoint             varchar(255) COLLATE "C" NOT NULL,
    method               varchar(10)  COLLATE "C" NOT NULL,
    total_requests       bigint                   NOT NULL,
    billable_requests    bigint                   NOT NULL,
    billable_units       bigint                   NOT NULL,
    response_time_ms_sum bigint                   NOT NULL,
    success_count        bigint                   NOT NULL,
    client_error_count   bigint                   NOT NULL,
    error_count          bigint                   NOT NULL,
    PRIMARY KEY (organization_id, bucket, endpoint, method)
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS usage_endpoint_hourly_figures_bucket_idx ON usage_endpoint_hourly_figures (bucket);

-- By UTC day, organization and api key: the sums of the hours. Months are read from these, so that they need no table.
CREATE TABLE IF NOT EXISTS usage_daily_figures (
    bucket               timestamptz NOT NULL,
    month                timestamptz NOT NULL, -- the UTC month that holds it, for the index
    organization_id      uuid        NOT NULL,
    api_key_id           uuid        NOT NULL,
    total_requests       bigint      NOT NULL,
    billable_requests    bigint      NOT NULL,
    billable_units       bigint      NOT NULL,
    response_time_ms_sum bigint      NOT NULL,
    success_count        bigint      NOT NULL,
    client_error_count   bigint      NOT NULL,
    error_count          bigint      NOT NULL,
    PRIMARY KEY (organization_id, bucket, api_key_id)
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS usage_daily_figures_bucket_idx ON usage_daily_figures (bucket);
CREATE INDEX IF NOT EXISTS usage_daily_figures_month_idx ON usage_daily_figures (month, organization_id);

-- Late events as increments, entered by their own transaction. Append-only: a fold takes those that it sees.
CREATE TABLE IF NOT EXISTS usage_late_figures (
    counts_from          timestamptz              NOT NULL, -- counts once folded_until has come this far
    bucket               timestamptz              NOT NULL, -- UTC hour
    organization_id      uuid                     NOT NULL,
    api_key_id           uuid                     NOT NULL,
    endpoint             varchar(255) COLLATE "C" NOT NULL,
    method               varchar(10)  COLLATE "C" NOT NULL,
    total_requests       bigint                   NOT NULL,
    billable_requests    bigint                   NOT NULL,
    billable_units       bigint                   NOT NULL,
    response_time_ms_sum bigint                   NOT NULL,
    success_count        bigint                   NOT NULL,
    client_error_count   bigint                   NOT NULL,
    error_count          bigint                   NOT NULL
);
CREATE INDEX IF NOT EXISTS usage_late_figures_organization_idx ON usage_late_figures (organization_id, bucket);

-- How far events have come, as each statement that wrote some saw it: what the next bound is chosen from.
CREATE TABLE IF NOT EXISTS usage_arrivals (
    low_time    timestamptz NOT NULL, -- about 5 % of the statement's events are older
    newest_time timestamptz NOT NULL,
    events      bigint      NOT NULL
);

-- A month that is closed, and each organization's frozen figures: never changed. What comes later is an adjustment.
CREATE TABLE IF NOT EXISTS usage_closed_months (
    month         timestamptz PRIMARY KEY, -- its first moment in UTC
    organizations bigint      NOT NULL,
    checksum      text        NOT NULL,    -- of its rows in usage_invoice_basis, by usage_month_checksum
    closed_at     timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS usage_invoice_basis (
    month                timestamptz NOT NULL REFERENCES usage_closed_months DEFERRABLE INITIALLY DEFERRED,
    organization_id      uuid        NOT NULL,
    total_requests       bigint      NOT NULL,
    billable_requests    bigint      NOT NULL,
    billable_units       bigint      NOT NULL,
    response_time_ms_sum bigint      NOT NULL,
    success_count        bigint      NOT NULL,
    client_error_count   bigint      NOT NULL,
    error_count          bigint      NOT NULL,
    unique_api_keys      bigint      NOT NULL,
    PRIMARY KEY (organization_id, month)
);
CREATE TABLE IF NOT EXISTS usage_adjustments (
    adjustment_id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    month                timestamptz NOT NULL REFERENCES usage_closed_months,
    organization_id      uuid        NOT NULL,
    total_requests       bigint      NOT NULL,
    billable_requests    bigint      NOT NULL,
    billable_units       bigint      NOT NULL,
    response_time_ms_sum bigint      NOT NULL,
    success_count        bigint      NOT NULL,
    client_error_count   bigint      NOT NULL,
    error_count          bigint      NOT NULL,
    reason               text        NOT NULL,
    is_by_hand           boolean     NOT NULL DEFAULT true, -- no event explains it: beside the figures, not in them
    recorded_at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS usage_adjustments_organization_idx ON usage_adjustments (organization_id, month);

-- Adjustments become visible in the order of their ids, so that whoever remembers the last one misses none: who enters one
-- takes the lock of a fold first.
CREATE OR REPLACE FUNCTION usage_order_adjustments()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('usage_fold'),
                                  format('%I.usage_bounds', TG_TABLE_SCHEMA)::regclass::oid::integer);
    RETURN NULL;
END
$$;
DROP TRIGGER IF EXISTS usage_order_adjustments ON usage_adjustments;
CREATE TRIGGER usage_order_adjustments BEFORE INSERT ON usage_adjustments
    FOR EACH STATEMENT EXECUTE FUNCTION usage_order_adjustments();

-- What was billed stays as it was billed.
CREATE OR REPLACE FUNCTION usage_refuse_change()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: customers were billed from it', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'What is to be corrected is a new row of usage_adjustments.';
END
$$;
CREATE OR REPLACE FUNCTION usage_refuse_addition()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (SELECT FROM usage_closed_months WHERE month = NEW.month) THEN
        RAISE EXCEPTION 'the figures of % are frozen', to_char(NEW.month AT TIME ZONE 'UTC', 'YYYY-MM')
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'What is to be corrected is a new row of usage_adjustments.';
    END IF;
    RETURN NEW;
END
$$;
DROP TRIGGER IF EXISTS usage_refuse_addition ON usage_invoice_basis;
CREATE TRIGGER usage_refuse_addition BEFORE INSERT ON usage_invoice_basis
    FOR EACH ROW EXECUTE FUNCTION usage_refuse_addition();
DO $$
DECLARE
    billed text;
BEGIN
    FOREACH billed IN ARRAY ARRAY['usage_closed_months', 'usage_invoice_basis', 'usage_adjustments'] LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS usage_refuse_change ON %I', billed);
        EXECUTE format('CREATE TRIGGER usage_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION usage_refuse_change()', billed);
    END LOOP;
END
$$;

COMMENT ON TABLE usage_bounds IS 'How far events are folded into the figures, and since when they are retained; one row';
COMMENT ON TABLE usage_hourly_figures IS 'Folded usage by UTC hour, organization and api key; read usage_hourly';
COMMENT ON TABLE usage_endpoint_hourly_figures IS
    'Folded usage by UTC hour, organization, endpoint and method; read usage_endpoint_hourly';
COMMENT ON TABLE usage_daily_figures IS 'Folded usage by UTC day, organization and api key; read usage_daily';
COMMENT ON TABLE usage_late_figures IS 'Late events, by hour, until the next fold adds them to the figures';
COMMENT ON TABLE usage_arrivals IS 'How far events have come, statement by statement, until the next bound is chosen';
COMMENT ON TABLE usage_closed_months IS 'Closed months, with the checksum of their frozen figures';
COMMENT ON FUNCTION usage_order_adjustments() IS 'Trigger: adjustments become visible in the order of their ids';
COMMENT ON FUNCTION usage_refuse_addition() IS 'Trigger: a closed month gets no further figures';
COMMENT ON FUNCTION usage_refuse_change() IS 'Trigger: what customers were billed from does not change';
COMMENT ON TABLE usage_invoice_basis IS 'What each organization used in a closed month, as frozen when it was closed';
COMMENT ON TABLE usage_adjustments IS 'What was added to the usage of a closed month afterwards; signed differences';
