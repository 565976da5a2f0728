-- Drops every raw event with the table.
DROP TABLE IF EXISTS usage_events;
DROP FUNCTION IF EXISTS usage_ensure_partitions(date, date);
