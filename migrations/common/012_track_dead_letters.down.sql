DROP TABLE IF EXISTS usage_dead_letter_purges;
DROP INDEX IF EXISTS usage_dead_letters_received_at_idx;
ALTER TABLE IF EXISTS usage_dead_letters DROP COLUMN IF EXISTS replay_outcome;
ALTER TABLE IF EXISTS usage_dead_letters DROP COLUMN IF EXISTS replayed_at;
