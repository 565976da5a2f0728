-- What became of every message, span by span, entered in the transaction that made the span durable. Insert-only,
-- so that writers never wait for each other.
CREATE TABLE IF NOT EXISTS usage_ledger (
    consumer_group  text COLLATE "C"         NOT NULL,
    kafka_topic     varchar(249) COLLATE "C" NOT NULL,
    kafka_partition integer                  NOT NULL,
    epoch           integer                  NOT NULL, -- which deliberate beginning of reading it belongs to
    start_offset    bigint                   NOT NULL,
    end_offset      bigint                   NOT NULL, -- one past the last
    messages        bigint                   NOT NULL,
    written         bigint                   NOT NULL,
    duplicates      bigint                   NOT NULL, -- dropped by the dedup window
    redelivered     bigint                   NOT NULL, -- there already: as a row, or as a dead letter
    dead_letters    bigint                   NOT NULL,
    recorded_at     timestamptz              NOT NULL DEFAULT now(),
    CHECK (start_offset < end_offset),
    CHECK (messages = written + duplicates + redelivered + dead_letters)
);
CREATE INDEX IF NOT EXISTS usage_ledger_span_idx
    ON usage_ledger (consumer_group, kafka_topic, kafka_partition, epoch, start_offset);

-- One row per deliberate beginning of reading a partition.
CREATE TABLE IF NOT EXISTS usage_ledger_starts (
    consumer_group  text COLLATE "C"         NOT NULL,
    kafka_topic     varchar(249) COLLATE "C" NOT NULL,
    kafka_partition integer                  NOT NULL,
    epoch           integer                  NOT NULL,
    start_offset    bigint                   NOT NULL,
    reason          text COLLATE "C"         NOT NULL,
    lost_offsets    bigint                   NOT NULL DEFAULT 0,
    recorded_at     timestamptz              NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_group, kafka_topic, kafka_partition, epoch)
);

-- Rows written to usage_events, by UTC day of the event.
CREATE TABLE IF NOT EXISTS usage_ledger_days (
    event_day   date             NOT NULL,
    source      text COLLATE "C" NOT NULL CHECK (source IN ('kafka', 'replay')),
    written     bigint           NOT NULL,
    recorded_at timestamptz      NOT NULL DEFAULT now()
);
