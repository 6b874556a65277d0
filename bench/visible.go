package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/writer"
)

const (
	visibleRate   = 10_000 // checks a second
	visibleAskers = 256
)

// visible measures how long it takes from a check to its row, as another
// connection sees it, beside how long it takes to the check's answer: of checks
// that are due at a steady rate, from when they are due.
func visible(ctx context.Context, dir string, o options, r *report, progress func(string, ...any)) (err error) {
	v := visibility{system: &system{}}
	defer func() { err = errors.Join(err, v.close()) }()
	if err := v.open(ctx, dir); err != nil {
		return err
	}
	var p50s, p99s []pair
	for round := range o.rounds + 1 {
		answered, seen, err := v.round(ctx, max(1, int(visibleRate*o.duration.Seconds())))
		if err != nil {
			return err
		}
		if round == 0 { // to warm up
			continue
		}
		a50, a99, s50, s99 := quantile(answered, 0.5), quantile(answered, 0.99), quantile(seen, 0.5), quantile(seen, 0.99)
		progress("visible, round %d: answer p99 %.3fs, row p99 %.3fs", round, a99, s99)
		p50s, p99s = append(p50s, pair{a50, s50}), append(p99s, pair{a99, s99})
	}
	where := fmt.Sprint(visibleRate, " checks/s")
	r.Tables = append(r.Tables, table{Title: "From a check to its row in Postgres, as others see it, against its answer", Bare: "answer", Rows: []row{
		compare(where, "p50", seconds, p50s, aim{}), compare(where, "p99", seconds, p99s, aim{most: 0.5}),
	}})
	return nil
}

// visibility is a whole Weir, and a connection that looks at what it has stored.
type visibility struct {
	*system
	conn  *pgx.Conn
	next  int   // number of the next check
	block int64 // of the last row that was looked at
}

func (v *visibility) open(ctx context.Context, dir string) error {
	server, err := embedded.StartNATS(ctx, embedded.NATSOptions{Dir: filepath.Join(dir, "visible"), Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		return err
	}
	v.opened(server.Close)
	postgres, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{Dir: filepath.Join(dir, "visible-postgres"), Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		return err
	}
	v.opened(postgres.Close)
	var connections [3]*nats.Conn
	for i := range connections {
		if connections[i], err = nats.Connect(server.URL()); err != nil {
			return err
		}
		v.opened(func() error { connections[i].Close(); return nil })
	}
	if err := v.startLimiters(ctx, connections[0], setup{shards: 1}); err != nil {
		return err
	}
	if v.client, err = gateway.Connect(connections[1], gateway.Config{Name: gatewayName, Timeout: answerWithin, Shards: 1}); err != nil {
		return err
	}
	v.opened(v.client.Close)
	if err := v.startWriter(ctx, postgres.URL(), connections[2]); err != nil {
		return err
	}
	if v.conn, err = pgx.Connect(ctx, postgres.URL()); err != nil {
		return err
	}
	v.opened(func() error { return v.conn.Close(context.WithoutCancel(ctx)) })
	return nil
}

// startWriter runs a writer until the system is closed.
func (v *visibility) startWriter(ctx context.Context, url string, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	database := pg.DefaultConfig()
	database.URL = url
	db, err := pg.Open(ctx, database)
	if err != nil {
		return err
	}
	v.opened(func() error { db.Close(); return nil })
	w := writer.New(writer.DefaultConfig(), writer.Parts{DB: db, JetStream: js, Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(running) }()
	v.opened(func() error { stop(); return <-ended })
	select {
	case <-w.Ready():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sighting is when a block, and so all before it, was seen to be stored.
type sighting struct {
	at    time.Time
	block int64
}

// round makes checks, and returns the seconds to the answer and to the row of each.
func (v *visibility) round(ctx context.Context, checks int) (answered, seen []float64, err error) {
	first := v.next
	v.next += checks
	began := time.Now()
	due := func(n int) time.Time { return began.Add(time.Duration(n) * time.Second / visibleRate) }
	answered = make([]float64, checks)
	g, inner := errgroup.WithContext(ctx)
	for asker := range visibleAskers {
		g.Go(func() error {
			for n := asker; n < checks; n += visibleAskers {
				if err := sleepUntil(inner, due(n)); err != nil {
					return err
				}
				if err := ask(inner, v.client, tenant, int64(first+n)); err != nil {
					return err
				}
				answered[n] = time.Since(due(n)).Seconds()
			}
			return nil
		})
	}
	sightings, err := v.watch(ctx, v.next)
	if err := errors.Join(err, g.Wait()); err != nil {
		return nil, nil, err
	}
	rows, err := v.conn.Query(ctx, `SELECT request_id, id / 1000 % 10000 FROM requests WHERE request_id >= $1 ORDER BY ts, id`, id(int64(first)))
	if err != nil {
		return nil, nil, err
	}
	var (
		name   string
		digits int64 // the last four of the block's sequence
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &digits}, func() error {
		n, err := strconv.Atoi(name)
		v.block += (digits - v.block%10_000 + 10_000) % 10_000
		at := sort.Search(len(sightings), func(i int) bool { return sightings[i].block >= v.block })
		if err == nil && at == len(sightings) {
			err = fmt.Errorf("block %d was never seen", v.block)
		}
		if err == nil {
			seen = append(seen, sightings[at].at.Sub(due(n-first)).Seconds())
		}
		return err
	})
	return answered, seen, err
}

// watch looks at the cursor until so many checks are stored.
func (v *visibility) watch(ctx context.Context, checks int) (sightings []sighting, err error) {
	ctx, cancel := context.WithTimeout(ctx, copyWithin)
	defer cancel()
	for records := 0; records < checks; {
		var block int64
		err := v.conn.QueryRow(ctx, `SELECT last_seq, records FROM writer_cursor WHERE shard = 0`).Scan(&block, &records)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
		if n := len(sightings); err == nil && (n == 0 || sightings[n-1].block < block) {
			sightings = append(sightings, sighting{time.Now(), block})
		}
		if err := sleepUntil(ctx, time.Now().Add(time.Millisecond)); err != nil {
			return nil, err
		}
	}
	return sightings, nil
}

func sleepUntil(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(q*float64(len(sorted)-1))]
}
