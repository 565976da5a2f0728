-- What became of a dead letter after it was stored: replayed, with which outcome, or purged. Counts of purged
-- letters stay for ever, so that every message can still be accounted for.
ALTER TABLE usage_dead_letters ADD COLUMN IF NOT EXISTS replayed_at timestamptz;
ALTER TABLE usage_dead_letters ADD COLUMN IF NOT EXISTS replay_outcome text COLLATE "C";
ALTER TABLE usage_dead_letters DROP CONSTRAINT IF EXISTS usage_dead_letters_replay_check;
ALTER TABLE usage_dead_letters ADD CONSTRAINT usage_dead_letters_replay_check CHECK (
    replay_outcome IN ('written', 'duplicate', 'rejected') AND (replayed_at IS NULL) = (replay_outcome IS NULL)
);

-- Newest first, and by time.
CREATE INDEX IF NOT EXISTS usage_dead_letters_received_at_idx ON usage_dead_letters (received_at);

CREATE TABLE IF NOT EXISTS usage_dead_letter_purges (
    kafka_topic      varchar(249) COLLATE "C" NOT NULL,
    kafka_partition  integer                  NOT NULL,
    letters          bigint                   NOT NULL,
    replayed_written bigint                   NOT NULL, -- of these, how many had become rows of usage_events
    purged_at        timestamptz              NOT NULL DEFAULT now()
);

COMMENT ON COLUMN usage_dead_letters.replay_outcome IS
    'Of the last replay: written (now a row of usage_events), duplicate (one was there), rejected (still no valid event)';
COMMENT ON TABLE usage_dead_letter_purges IS 'How many dead letters each purge deleted, by partition';
