DROP FUNCTION IF EXISTS usage_apply_retention();
DROP FUNCTION IF EXISTS usage_advance_retention();
DROP FUNCTION IF EXISTS usage_drop_proven(jsonb);
DROP FUNCTION IF EXISTS usage_prove_expired();
DROP FUNCTION IF EXISTS usage_prove_figures(timestamptz, timestamptz);
DROP TABLE IF EXISTS usage_retention_drops;
