-- What TimescaleDB does by itself: refresh the aggregates, compress old chunks, drop the oldest.
--
-- A refresh recomputes only buckets that lie wholly inside its window and have changed. Over hours whose raw chunks are
-- gone it would erase what was billed, and only usage_hourly reads raw events. Retention drops a chunk once all of
-- it is older than 90 days, so a window of 89 days is a whole day short of it, whichever job runs first. The wide
-- window is what brings late events in; it costs nothing where nothing changed.
SELECT add_continuous_aggregate_policy('usage_hourly',
    start_offset      => INTERVAL '89 days',
    end_offset        => INTERVAL '1 hour',
    schedule_interval => INTERVAL '15 minutes',
    if_not_exists     => true);

-- Made of hours, which are kept for ever, so that no raw chunk can be missing under a day or a month. The windows
-- cover every bucket that holds an hour of the window above: one day more, and one month more.
SELECT add_continuous_aggregate_policy('usage_daily',
    start_offset      => INTERVAL '90 days',
    end_offset        => INTERVAL '2 hours',
    schedule_interval => INTERVAL '1 hour',
    if_not_exists     => true);
SELECT add_continuous_aggregate_policy('usage_monthly',
    start_offset      => INTERVAL '121 days',
    end_offset        => INTERVAL '1 day',
    schedule_interval => INTERVAL '6 hours',
    if_not_exists     => true);

SELECT add_compression_policy('usage_events', compress_after => INTERVAL '7 days', if_not_exists => true);
SELECT add_retention_policy('usage_events', drop_after => INTERVAL '90 days', if_not_exists => true);
