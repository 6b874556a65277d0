CREATE TABLE expired_days (
    relation   oid         NOT NULL,
    shard      smallint    NOT NULL,
    day        date        NOT NULL,
    rows       bigint      NOT NULL,
    expired_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relation, shard)
);

COMMENT ON TABLE expired_days IS 'Partitions of requests that are past their retention, with how many rows of each shard went with them. Each is detached and dropped once it is here.';
COMMENT ON COLUMN expired_days.relation IS 'The partition, as long as it is there.';
COMMENT ON COLUMN expired_days.day IS 'Its day (UTC).';
COMMENT ON COLUMN expired_days.rows IS 'Rows of the shard that it held.';
