CREATE TABLE outcomes (
    tenant      text        NOT NULL,
    request_id  text        NOT NULL,
    gateway     text        NOT NULL,
    ts          timestamptz NOT NULL,
    occurred_at timestamptz,
    status      smallint,
    latency_us  bigint,
    bytes_in    bigint,
    bytes_out   bigint,
    PRIMARY KEY (tenant, request_id)
);

COMMENT ON TABLE outcomes IS 'What became of checked requests, as gateways told it: for each request the first that was told. It may be there before its request is. Rows never change.';
COMMENT ON COLUMN outcomes.tenant IS 'The tenant of the request.';
COMMENT ON COLUMN outcomes.request_id IS 'The id of the request.';
COMMENT ON COLUMN outcomes.gateway IS 'The process that told of it.';
COMMENT ON COLUMN outcomes.ts IS 'When the outcomes'' stream stored it, by the broker''s clock.';
COMMENT ON COLUMN outcomes.occurred_at IS 'When the request was answered, by the gateway''s clock; null when it did not say.';
COMMENT ON COLUMN outcomes.status IS 'HTTP status of the answer; null when not known.';
COMMENT ON COLUMN outcomes.latency_us IS 'Microseconds to the answer; null when not known.';
COMMENT ON COLUMN outcomes.bytes_in IS 'Bytes of the request''s body; null when not known.';
COMMENT ON COLUMN outcomes.bytes_out IS 'Bytes of the answer''s body; null when not known.';

-- A request has one outcome at most, as the primary key says: a query that names
-- none of its columns does not look for it.
CREATE VIEW requests_with_outcomes AS
SELECT r.id, r.ts, r.decided_at, r.occurred_at, r.request_id, r.tenant, r.gateway, r.identity, r.user_id, r.api_key,
       r.ip, r.method, r.host, r.path, r.route, r.cost, r.count, r.verdict, r.reason, r.rule, r.key, r.limit_count,
       r.remaining, r.retry_after_ms, r.policy, r.degraded, r.late,
       coalesce(o.status, r.status) AS status,
       coalesce(o.latency_us, r.latency_us) AS latency_us,
       coalesce(o.bytes_in, r.bytes_in) AS bytes_in,
       coalesce(o.bytes_out, r.bytes_out) AS bytes_out,
       r.rules, r.attrs,
       o.ts AS outcome_ts
FROM requests r
LEFT JOIN outcomes o ON o.tenant = r.tenant AND o.request_id = r.request_id AND r.count > 0;

COMMENT ON VIEW requests_with_outcomes IS 'requests, with status, latency and bytes of their outcomes where they are known. A check whose decision came too late has two rows, by reason timeout and by what was decided, and both show its outcome.';
DO $$
DECLARE c record;
BEGIN
    FOR c IN SELECT column_name, col_description('requests'::regclass, ordinal_position) AS says
        FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = 'requests'
    LOOP
        EXECUTE format('COMMENT ON COLUMN requests_with_outcomes.%I IS %L', c.column_name, c.says);
    END LOOP;
END $$;
COMMENT ON COLUMN requests_with_outcomes.status IS 'HTTP status of the answer: of the request''s outcome, else as it was reported; null when not known.';
COMMENT ON COLUMN requests_with_outcomes.latency_us IS 'Microseconds to the answer: of the request''s outcome, else as it was reported; null when not known.';
COMMENT ON COLUMN requests_with_outcomes.bytes_in IS 'Bytes of the request''s body: of the request''s outcome, else as it was reported; null when not known.';
COMMENT ON COLUMN requests_with_outcomes.bytes_out IS 'Bytes of the answer''s body: of the request''s outcome, else as it was reported; null when not known.';
COMMENT ON COLUMN requests_with_outcomes.outcome_ts IS 'When the outcomes'' stream stored the request''s outcome; null while there is none.';

COMMENT ON TABLE writer_cursor IS 'How far each shard''s journal has been stored, and in the row of shard -1 the stream of outcomes, which is one for all shards. It moves in the transaction that stores the rows.';
COMMENT ON COLUMN writer_cursor.stream IS 'The identity of the journal, or of the stream: when it was made, nanoseconds since 1970.';
COMMENT ON COLUMN writer_cursor.last_seq IS 'Last block, or outcome, stored.';
COMMENT ON COLUMN writer_cursor.records IS 'Records, or outcomes, that became rows or dead letters, ever.';
COMMENT ON COLUMN writer_cursor.last_stored IS 'When the journal, or the stream, stored it.';
COMMENT ON TABLE dead_letters IS 'Records of the journal that cannot be rows; of shard -1, outcomes that cannot be. convert_from(record, ''UTF8'') shows one as text.';
COMMENT ON COLUMN dead_letters.record IS 'The line as the journal holds it, or the outcome as it came.';
COMMENT ON TABLE gaps IS 'Where the journal and the rows cannot agree: blocks that were gone before they were stored, or rows whose blocks are gone. Of shard -1, the same of outcomes.';
