package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
	"github.com/weirhq/weir/internal/writer"
)

const (
	blockRecords = 512
	// copyWithin bounds one run of the writer.
	copyWithin = 5 * time.Minute
	// look is how often the cursor is looked at: it is the measurement's error.
	look = 5 * time.Millisecond
)

// stage is what both sides of the measurement work on.
type stage struct {
	js     jetstream.JetStream
	config writer.Config
	db     *pg.DB
	conn   *pgx.Conn
	last   uint64 // sequence of the journal's last block
	rows   int

	inserts map[int]string // of the plain consumer, by rows
}

// writes measures the writer, from a full journal to the cursor at its end,
// against COPY of the same rows, as Postgres itself encodes them, into the same
// table over one connection, in batches of the same size, and against a plain
// consumer of the journal.
func writes(ctx context.Context, dir string, o options, r *report, progress func(string, ...any)) (err error) {
	server, err := embedded.StartNATS(ctx, embedded.NATSOptions{Dir: filepath.Join(dir, "writes"), Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	nc, err := nats.Connect(server.URL())
	if err != nil {
		return err
	}
	defer nc.Close()
	postgres, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{Dir: filepath.Join(dir, "postgres"), Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, postgres.Close()) }()
	s := stage{config: writer.DefaultConfig(), rows: o.records, inserts: map[int]string{}}
	if s.js, err = jetstream.New(nc); err != nil {
		return err
	}
	database := pg.DefaultConfig()
	database.URL = postgres.URL()
	if s.db, err = pg.Open(ctx, database); err != nil {
		return err
	}
	defer s.db.Close()
	if err := s.db.Migrate(ctx); err != nil {
		return err
	}
	if s.conn, err = pgx.Connect(ctx, postgres.URL()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.conn.Close(context.WithoutCancel(ctx))) }()
	if err := s.conn.QueryRow(ctx, `SHOW server_version`).Scan(&r.Machine.Postgres); err != nil {
		return err
	}
	if err := s.fillJournal(ctx); err != nil {
		return err
	}
	tables, err := s.measure(ctx, o.rounds, progress)
	r.Tables = append(r.Tables, tables...)
	return err
}

func (s *stage) measure(ctx context.Context, rounds int, progress func(string, ...any)) ([]table, error) {
	if _, err := s.write(ctx); err != nil { // to warm up, and to have the rows
		return nil, err
	}
	batches, err := s.encoded(ctx)
	if err != nil {
		return nil, err
	}
	runs := []func() (cost, error){
		s.cost(ctx, func(ctx context.Context) (time.Duration, error) { return s.copy(ctx, batches) }),
		s.cost(ctx, s.plain),
		s.cost(ctx, s.write),
	}
	var copies, plain [3][]pair // rates, bytes of log and seconds of work for a row
	for round := range rounds {
		costs, err := inTurn(round, runs...)
		if err != nil {
			return nil, err
		}
		n := float64(s.rows)
		figures := func(c cost) [3]float64 { return [3]float64{n / c.took.Seconds(), c.wal / n, c.cpu / n} }
		bare, simple, weir := figures(costs[0]), figures(costs[1]), figures(costs[2])
		for i := range weir {
			copies[i] = append(copies[i], pair{bare[i], weir[i]})
			plain[i] = append(plain[i], pair{simple[i], weir[i]})
		}
		progress("writer, round %d: copy %.0f rows/s, plain consumer %.0f rows/s, weir %.0f rows/s", round+1, bare[0], simple[0], weir[0])
	}
	list := func(figures [3][]pair, a aim) []row {
		where := fmt.Sprint(s.rows, " rows")
		return []row{
			compare(where, "rate", perSecond, figures[0], a),
			compare(where, "log of a row", ofMemory, figures[1], aim{}),
			compare(where, "work of a row", seconds, figures[2], aim{}),
		}
	}
	return []table{
		{Title: "Writer: a full journal to Postgres against bare COPY of the same rows into the same table", Bare: "copy", Rows: list(copies, aim{atLeast: 0.5})},
		{Title: "Writer: the same against a plain consumer, INSERT of many VALUES with ON CONFLICT", Bare: "plain", Rows: list(plain, aim{atLeast: 3})},
	}, nil
}

// fillJournal appends blocks of decided requests as the limiter does.
func (s *stage) fillJournal(ctx context.Context) error {
	j, err := journal.Create(ctx, s.js, journal.Config{Names: s.config.Names, MaxAge: journal.DefaultMaxAge})
	if err != nil {
		return err
	}
	a, err := j.Appender(0, func(error) {})
	if err != nil {
		return err
	}
	defer a.Close()
	decider := decide.New(policy.Default(), window.NewMemory())
	var body []byte
	for done := 0; done < s.rows; {
		body = body[:0]
		now := time.Now().UTC().Truncate(time.Microsecond)
		n := min(blockRecords, s.rows-done)
		for i := range n {
			record := events.Record{Request: request(done+i, now)}
			decider.Check(&record)
			if err := decider.Decide(ctx, now); err != nil {
				return err
			}
			body = append(events.AppendRecord(body, &record), '\n')
		}
		if s.last, err = a.Append(ctx, body, n, 0); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// request returns one such as a gateway sends.
func request(n int, now time.Time) events.Request {
	paths := [...]string{"/api/order/history/", "/api/order/" + strconv.Itoa(n), "/api/cart/", "/search", "/static/logo.svg"}
	return events.Request{
		ID: fmt.Sprintf("req-%018d", n), Tenant: tenant, Gateway: gatewayName, Time: now.Add(-time.Millisecond),
		User: "u" + strconv.Itoa(n%users), IP: netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}),
		Method: "GET", Host: "api.example.com", Path: paths[n%len(paths)],
	}
}

// clear empties the tables, and takes what is left to write of them out of the
// next run.
func (s *stage) clear(ctx context.Context) error {
	_, err := s.conn.Exec(ctx, `TRUNCATE requests, dead_letters, gaps, writer_cursor`)
	if err == nil {
		_, err = s.conn.Exec(ctx, `CHECKPOINT`)
	}
	return err
}

// write runs the writer until the cursor is at the journal's end.
func (s *stage) write(ctx context.Context) (took time.Duration, err error) {
	if err := s.clear(ctx); err != nil {
		return 0, err
	}
	w := writer.New(s.config, writer.Parts{DB: s.db, JetStream: s.js, Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithTimeout(ctx, copyWithin)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- w.Run(running) }()
	defer func() { stop(); err = errors.Join(err, <-ended) }()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		cursor, _, err := s.db.Cursor(ctx, 0)
		if err != nil {
			return 0, err
		}
		if cursor.LastSeq == s.last {
			took := time.Since(began)
			return took, s.complete(ctx)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("the writer is at block %d of %d: %w", cursor.LastSeq, s.last, ctx.Err())
		}
	}
}

// complete tells whether every row is there.
func (s *stage) complete(ctx context.Context) error {
	var n int
	err := s.conn.QueryRow(ctx, `SELECT count(*) FROM requests`).Scan(&n)
	if err == nil && n != s.rows {
		err = fmt.Errorf("rows: want %d, found %d", s.rows, n)
	}
	return err
}

// The binary format of COPY, from its page in Postgres' manual: a header, the
// rows, a trailer. A row is a count of fields, 16 bits, and the fields; a field
// is its length, 32 bits (-1: null, of no bytes), and its bytes.
const (
	copyHeader  = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	copyTrailer = "\xff\xff"
)

// encoded returns the table as whole COPY streams, each with as many rows as a
// batch of the writer's has, which ends with a block.
func (s *stage) encoded(ctx context.Context) ([][]byte, error) {
	var all bytes.Buffer
	if _, err := s.conn.PgConn().CopyTo(ctx, &all, `COPY (SELECT * FROM requests ORDER BY ts, id) TO STDOUT BINARY`); err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(all.Bytes(), []byte(copyHeader))
	if !ok {
		return nil, errors.New("COPY: unknown header")
	}
	batchRows := (s.config.BatchRows + blockRecords - 1) / blockRecords * blockRecords
	var batches [][]byte
	for string(rest) != copyTrailer {
		batch := []byte(copyHeader)
		for n := 0; n < batchRows && string(rest) != copyTrailer; n++ {
			end := 2
			for range binary.BigEndian.Uint16(rest) {
				length := int32(binary.BigEndian.Uint32(rest[end:]))
				end += 4 + int(max(length, 0))
			}
			batch = append(batch, rest[:end]...)
			rest = rest[end:]
		}
		batches = append(batches, append(batch, copyTrailer...))
	}
	return batches, nil
}

// copy stores the rows as fast as Postgres takes them.
func (s *stage) copy(ctx context.Context, batches [][]byte) (time.Duration, error) {
	if err := s.clear(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	for _, b := range batches {
		if _, err := s.conn.PgConn().CopyFrom(ctx, bytes.NewReader(b), `COPY requests FROM STDIN BINARY`); err != nil {
			return 0, err
		}
	}
	took := time.Since(began)
	return took, s.complete(ctx)
}
