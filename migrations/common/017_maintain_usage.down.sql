DROP FUNCTION IF EXISTS usage_maintain();
