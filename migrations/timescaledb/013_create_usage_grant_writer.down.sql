DROP FUNCTION IF EXISTS usage_grant_writer(name);
