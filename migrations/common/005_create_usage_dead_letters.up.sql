-- Messages that could not become a row of usage_events: as they came, where they came from, and why.
-- The Kafka timestamp is part of the key because a topic that is deleted and made again counts from offset 0.
CREATE TABLE IF NOT EXISTS usage_dead_letters (
    kafka_topic     varchar(249) COLLATE "C" NOT NULL,
    kafka_partition integer                  NOT NULL,
    kafka_offset    bigint                   NOT NULL,
    kafka_timestamp timestamptz              NOT NULL,
    kafka_key       bytea,                            -- NULL: the message had no key
    payload         bytea,                            -- NULL: the message had no value (a tombstone)
    reason          text         COLLATE "C" NOT NULL,
    detail          text         COLLATE "C" NOT NULL DEFAULT '',
    received_at     timestamptz              NOT NULL DEFAULT now(),
    PRIMARY KEY (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp)
);

COMMENT ON TABLE usage_dead_letters IS 'Messages that could not become a usage event, with the reason';
