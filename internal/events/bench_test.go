package events_test

import (
	"testing"

	"github.com/weirhq/weir/internal/events"
)

// The package's promise: decoding costs one allocation at most, encoding none.
func TestAllocations(t *testing.T) {
	r, d, o, names := request(), decision(), outcome(), events.Names{Prefix: events.DefaultPrefix}
	record := events.Record{Request: r, Decision: d}
	payload, answer, line := events.AppendRequest(nil, &r), events.AppendDecision(nil, &d), string(events.AppendRecord(nil, &record))
	told := events.AppendOutcome(nil, &o)
	buffer := make([]byte, 0, 4096)
	for name, tt := range map[string]struct {
		most float64
		run  func() error
	}{
		"DecodeRequest":  {1, func() error { _, err := events.DecodeRequest(payload, true); return err }},
		"DecodeOutcome":  {1, func() error { _, err := events.DecodeOutcome(told, true); return err }},
		"DecodeDecision": {1, func() error { _, err := events.DecodeDecision(answer); return err }},
		"DecodeRecord":   {0, func() error { return events.DecodeRecord(line, &record) }},
		"Validate":       {0, r.Validate},
		"Outcome":        {0, o.Validate},
		"AppendOutcome":  {0, func() error { events.AppendOutcome(buffer, &o); return nil }},
		"AppendRequest":  {0, func() error { events.AppendRequest(buffer, &r); return nil }},
		"AppendDecision": {0, func() error { events.AppendDecision(buffer, &d); return nil }},
		"AppendRecord":   {0, func() error { events.AppendRecord(buffer, &record); return nil }},
		"ParseOrigin":    {0, func() error { _, err := names.ParseOrigin("weir.check.0.acme.edge-1"); return err }},
		"Shard":          {0, func() error { events.Shard("acme", 16); return nil }},
	} {
		if n := testing.AllocsPerRun(100, func() {
			if err := tt.run(); err != nil {
				t.Fatal(err)
			}
		}); n > tt.most {
			t.Errorf("%s: %v allocations, want at most %v", name, n, tt.most)
		}
	}
}

func BenchmarkDecodeRequest(b *testing.B) {
	r := request()
	payload := events.AppendRequest(nil, &r)
	b.ReportAllocs()
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		if _, err := events.DecodeRequest(payload, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeOutcome(b *testing.B) {
	o := outcome()
	payload := events.AppendOutcome(nil, &o)
	b.ReportAllocs()
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		if _, err := events.DecodeOutcome(payload, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	r := request()
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Validate(); err != nil {
			b.Fatal(err)
		}
	}
}

// byRules has a record of one rule, and one of five.
func byRules() map[string]events.Record {
	one := events.Record{Request: request(), Decision: decision()}
	five := one
	for range 5 {
		five.Charges = append(five.Charges, events.Charge{Rule: "per-minute", Key: `["42","/api/order/history/"]`, Limit: 256, WindowMS: 60_000, Cost: 2, Remaining: 17})
	}
	return map[string]events.Record{"1 rule": one, "5 rules": five}
}

func BenchmarkAppendRecord(b *testing.B) {
	for name, r := range byRules() {
		b.Run(name, func(b *testing.B) {
			var line []byte
			b.ReportAllocs()
			for b.Loop() {
				line = events.AppendRecord(line[:0], &r)
			}
			b.SetBytes(int64(len(line)))
		})
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	for name, r := range byRules() {
		b.Run(name, func(b *testing.B) {
			line := string(events.AppendRecord(nil, &r))
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if err := events.DecodeRecord(line, &r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendDecision(b *testing.B) {
	d := decision()
	var line []byte
	b.ReportAllocs()
	for b.Loop() {
		line = events.AppendDecision(line[:0], &d)
	}
	b.SetBytes(int64(len(line)))
}

func BenchmarkParseOrigin(b *testing.B) {
	names := events.Names{Prefix: events.DefaultPrefix}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := names.ParseOrigin("weir.check.0.acme.edge-1"); err != nil {
			b.Fatal(err)
		}
	}
}
