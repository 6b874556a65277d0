CREATE TABLE requests (
    id             bigint      NOT NULL,
    ts             timestamptz NOT NULL,
    decided_at     timestamptz NOT NULL,
    occurred_at    timestamptz,
    request_id     text,
    tenant         text        NOT NULL,
    gateway        text        NOT NULL,
    identity       text,
    user_id        text,
    api_key        text,
    ip             inet,
    method         text,
    host           text,
    path           text,
    route          text,
    cost           bigint      NOT NULL,
    count          bigint      NOT NULL,
    verdict        text        NOT NULL,
    reason         text        NOT NULL,
    rule           text,
    key            text,
    limit_count    bigint,
    remaining      bigint,
    retry_after_ms bigint,
    policy         bigint      NOT NULL,
    degraded       boolean     NOT NULL,
    late           boolean     NOT NULL,
    status         smallint,
    latency_us     bigint,
    bytes_in       bigint,
    bytes_out      bigint,
    rules          jsonb,
    attrs          jsonb,
    PRIMARY KEY (ts, id)
) PARTITION BY RANGE (ts);

COMMENT ON TABLE requests IS 'Every decided request once: a copy of the journal, one partition a day (UTC). Rows never change.';
COMMENT ON COLUMN requests.id IS 'Derived from the record''s place in the journal: YY DDD SSSSS HH BBBB III, decimal (year, day of year, second of the day, shard, block modulo 10,000, index).';
COMMENT ON COLUMN requests.ts IS 'When the journal stored the record''s block, by the broker''s clock.';
COMMENT ON COLUMN requests.decided_at IS 'When the limiter decided, by its clock, which never goes back within a shard.';
COMMENT ON COLUMN requests.occurred_at IS 'When the request arrived at the gateway, by the gateway''s clock; null when it did not say.';
COMMENT ON COLUMN requests.request_id IS 'The id the request came with, or was given.';
COMMENT ON COLUMN requests.tenant IS 'The isolation unit that the request belongs to.';
COMMENT ON COLUMN requests.gateway IS 'The process that published the request.';
COMMENT ON COLUMN requests.identity IS 'Who the request counts against when a rule says no more: the user, else the API key''s hash, else the address.';
COMMENT ON COLUMN requests.user_id IS 'The user, if known.';
COMMENT ON COLUMN requests.api_key IS 'The first 16 hex digits of the API key''s SHA-256. The key itself is stored nowhere.';
COMMENT ON COLUMN requests.ip IS 'The client''s address.';
COMMENT ON COLUMN requests.method IS 'HTTP method.';
COMMENT ON COLUMN requests.host IS 'HTTP host.';
COMMENT ON COLUMN requests.path IS 'The path that was asked for.';
COMMENT ON COLUMN requests.route IS 'The path''s template, such as /users/{id}.';
COMMENT ON COLUMN requests.cost IS 'Units charged, or asked for when denied.';
COMMENT ON COLUMN requests.count IS 'Requests that the row stands for: a gateway folds repeated local denials into one.';
COMMENT ON COLUMN requests.verdict IS 'allow or deny.';
COMMENT ON COLUMN requests.reason IS 'Why: rule, exempt, no_rule, local (the gateway denied it itself), timeout (let through without a decision), late.';
COMMENT ON COLUMN requests.rule IS 'The rule that denied, or the tightest that admitted; null when none bound.';
COMMENT ON COLUMN requests.key IS 'What the rule counts by: plain for one attribute, else a JSON array; null when no rule bound.';
COMMENT ON COLUMN requests.limit_count IS 'Units that the rule admits in a window.';
COMMENT ON COLUMN requests.remaining IS 'Units left in the window after the request.';
COMMENT ON COLUMN requests.retry_after_ms IS 'Shortest wait after which it would have passed; null when allowed, or when it could never pass.';
COMMENT ON COLUMN requests.policy IS 'Revision of the policy it was decided under; 0 is the built-in one.';
COMMENT ON COLUMN requests.degraded IS 'The decision was given before the journal had it.';
COMMENT ON COLUMN requests.late IS 'Reported more than a window after it happened, and charged nothing.';
COMMENT ON COLUMN requests.status IS 'HTTP status of the answer, if known.';
COMMENT ON COLUMN requests.latency_us IS 'Microseconds to the answer; null when not known.';
COMMENT ON COLUMN requests.bytes_in IS 'Bytes of the request''s body; null when not known.';
COMMENT ON COLUMN requests.bytes_out IS 'Bytes of the answer''s body; null when not known.';
COMMENT ON COLUMN requests.rules IS 'Every rule that matched with what became of its charge, if more than one did.';
COMMENT ON COLUMN requests.attrs IS 'What the gateway added.';

CREATE TABLE dead_letters (
    shard        smallint    NOT NULL,
    stream       bigint      NOT NULL,
    seq          bigint      NOT NULL,
    record_index integer     NOT NULL,
    ts           timestamptz NOT NULL,
    record       bytea       NOT NULL,
    error        text        NOT NULL,
    dead_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, stream, seq, record_index)
);

COMMENT ON TABLE dead_letters IS 'Records of the journal that cannot be rows. convert_from(record, ''UTF8'') shows one as text.';
COMMENT ON COLUMN dead_letters.stream IS 'The journal''s identity: when its stream was made, nanoseconds since 1970.';
COMMENT ON COLUMN dead_letters.seq IS 'The block''s sequence in the journal.';
COMMENT ON COLUMN dead_letters.record_index IS 'The record''s place in the block, from 0.';
COMMENT ON COLUMN dead_letters.ts IS 'When the journal stored the block.';
COMMENT ON COLUMN dead_letters.record IS 'The line as the journal holds it.';
COMMENT ON COLUMN dead_letters.error IS 'Why it is not a row.';

CREATE TABLE gaps (
    gap        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard      smallint    NOT NULL,
    stream     bigint      NOT NULL,
    first_seq  bigint      NOT NULL,
    last_seq   bigint,
    reason     text        NOT NULL,
    ts_after   timestamptz,
    ts_until   timestamptz,
    noticed_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE gaps IS 'Where the journal and the rows cannot agree: blocks that were gone before they were stored, or rows whose blocks are gone.';
COMMENT ON COLUMN gaps.stream IS 'The identity of the journal that the blocks were in.';
COMMENT ON COLUMN gaps.first_seq IS 'First block concerned.';
COMMENT ON COLUMN gaps.last_seq IS 'Last block concerned; null when nobody can know.';
COMMENT ON COLUMN gaps.reason IS 'trimmed: dropped before they were stored. replaced: the stream was made anew. went back: the stream was restored from an older state, after the blocks had been stored.';
COMMENT ON COLUMN gaps.ts_after IS 'The blocks concerned were stored after this time, if known.';
COMMENT ON COLUMN gaps.ts_until IS 'And not after this one.';

CREATE TABLE writer_cursor (
    shard       smallint    PRIMARY KEY,
    stream      bigint      NOT NULL,
    last_seq    bigint      NOT NULL,
    records     bigint      NOT NULL,
    last_stored timestamptz,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE writer_cursor IS 'How far each shard''s journal has been stored. It moves in the transaction that stores the rows.';
COMMENT ON COLUMN writer_cursor.stream IS 'The journal''s identity: when its stream was made, nanoseconds since 1970.';
COMMENT ON COLUMN writer_cursor.last_seq IS 'Last block stored.';
COMMENT ON COLUMN writer_cursor.records IS 'Records that became rows or dead letters, ever.';
COMMENT ON COLUMN writer_cursor.last_stored IS 'When the journal stored that block.';
