package writer_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/writer"
)

// Rows a second from a full journal.
func BenchmarkFullJournal(b *testing.B) {
	const blocks, records = 400, 500
	js, err := jetstream.New(testenv.Connect(b, testenv.NATS(b)))
	if err != nil {
		b.Fatal(err)
	}
	j, err := journal.Create(b.Context(), js, journal.Config{Names: names})
	if err != nil {
		b.Fatal(err)
	}
	a, err := j.Appender(0, func(err error) { b.Log(err) })
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	var body []byte
	for i := range records {
		body = append(append(body, line(fmt.Sprint(i))...), '\n')
	}
	for range blocks {
		if _, err := a.Append(b.Context(), body, records, 0); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		b.StopTimer()
		config := pg.DefaultConfig()
		config.URL = testenv.Postgres(b)
		db, err := pg.Open(b.Context(), config)
		if err == nil {
			err = db.Migrate(b.Context())
		}
		if err != nil {
			b.Fatal(err)
		}
		w := writer.New(writer.DefaultConfig(), writer.Parts{DB: db, JetStream: js, Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		b.StartTimer()
		go func() { ended <- w.Run(ctx) }()
		for {
			c, _, err := db.Cursor(ctx, 0)
			if err != nil {
				b.Fatal(err)
			}
			if c.LastSeq == blocks {
				break
			}
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		cancel()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		db.Close()
		b.StartTimer()
	}
	b.ReportMetric(blocks*records*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
