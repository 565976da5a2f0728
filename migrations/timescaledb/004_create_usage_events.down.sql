-- Drops every raw event with the table.
DROP TABLE IF EXISTS usage_events;
