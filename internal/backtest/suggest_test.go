package backtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/backtest"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

// reader reads records from memory.
func reader(records []events.Record) backtest.Read {
	return func(_ context.Context, each func(*events.Record) error) error {
		for i := range records {
			if err := each(&records[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

func suggest(t failer, c backtest.SuggestConfig, records []events.Record) *backtest.Suggestions {
	t.Helper()
	s, err := backtest.Suggest(t.Context(), c, reader(records))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// highest is the most that each user asked for in any one window that ends at a
// time or later, found slowly.
func highest(records []events.Record, window time.Duration, from time.Time) map[string]int64 {
	type ask struct {
		at    time.Time
		units int64
	}
	asks, most := map[string][]ask{}, map[string]int64{}
	for _, r := range records {
		if r.Control != nil || r.Request.User == "" {
			continue
		}
		at := r.Decision.DecidedAt
		if r.Decision.Reason == events.ReasonLocal {
			at = r.Request.Time
		}
		asks[r.Request.User] = append(asks[r.Request.User], ask{at, r.Request.Units() * max(r.Request.Count, 1)})
	}
	for user, list := range asks {
		for _, end := range list {
			if end.at.Before(from) {
				continue
			}
			var sum int64
			for _, a := range list {
				if !a.at.After(end.at) && a.at.After(end.at.Add(-window)) {
					sum += a.units
				}
			}
			most[user] = max(most[user], sum)
		}
	}
	return most
}

// A limit that is suggested denies no more keys than it may when it is tried, and a
// lower one denies more. What keys asked for at most is exact.
func TestSuggestedLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawPast(t, drawLimits(t).policy(t)).records
		from := noon.Add(time.Duration(rapid.IntRange(0, 8).Draw(t, "from")) * 250 * time.Millisecond)
		if last := records[len(records)-1].Decision.DecidedAt; last.Before(from) {
			from = last
		}
		share := rapid.SampledFrom([]float64{0, 0.3, 0.5, 0.9}).Draw(t, "share")
		c := backtest.SuggestConfig{Tenant: "acme", From: from, By: []string{"path", "user"}, Share: share, Top: 9,
			Windows: []time.Duration{3 * time.Second, time.Second, 3 * time.Second}}
		s := suggest(t, c, records)
		if faults := policy.Lint([]byte(s.Policy)); len(faults) > 0 {
			t.Fatalf("%v\n%s", faults, s.Policy)
		}
		var byUser []backtest.Suggestion
		for _, l := range s.Limits {
			if l.By == "user" {
				byUser = append(byUser, l)
			}
		}
		if len(byUser) != 2 || byUser[0].WindowMS != 1000 || byUser[1].WindowMS != 3000 {
			t.Fatalf("%+v", s.Limits)
		}
		for _, l := range byUser {
			window := time.Duration(l.WindowMS) * time.Millisecond
			most := highest(records, window, from)
			var list []int64
			for _, n := range most {
				list = append(list, n)
			}
			slices.Sort(list)
			slices.Reverse(list)
			may := int(share * float64(len(list)))
			if l.Keys != int64(len(list)) || l.HighestUse.Max != list[0] || l.Limit != max(1, list[may]) {
				t.Fatalf("%+v, want %v", l, list)
			}
			try := func(limit int64) backtest.Rule {
				p := parse(t, fmt.Sprintf("{ name: user, limit: %d per %ds, key: [user] }", limit, l.WindowMS/1000))
				return history(t, p, from, slices.DeleteFunc(slices.Clone(records), func(r events.Record) bool { return r.Control != nil })).Rules[0]
			}
			if r := try(l.Limit); r.KeysDenied > int64(may) || r.KeysDenied != l.KeysDenied || r.Denied != l.Denied || len(l.Top) != int(l.KeysDenied) {
				t.Fatalf("tried: %+v\nsuggested: %+v", r, l)
			}
			if from.Equal(noon) && l.Limit > 1 {
				if r := try(l.Limit - 1); r.KeysDenied <= int64(may) {
					t.Fatalf("one less denies %d keys: %+v", r.KeysDenied, l)
				}
			}
		}
	})
}

// crowd are a thousand users that ask once or twice a second for a while, and one
// that asks for more.
func crowd(t failer) []events.Record {
	p := newPast(t, parse(t, "{ name: r, limit: 1000000/s, key: [user] }"))
	for second := range 20 {
		for user := range 1000 {
			if (user+second)%10 < 2 {
				p.check(events.Request{User: fmt.Sprintf("u%03d", user), Method: "GET"}, at(second))
			}
		}
		for range 7 {
			p.check(events.Request{User: "crawler", Method: "GET"}, at(second))
		}
		p.check(events.Request{User: "writer", Method: "POST"}, at(second))
	}
	return p.records
}

func TestSuggestText(t *testing.T) {
	s := suggest(t, backtest.SuggestConfig{Tenant: "acme", From: noon, By: []string{"user", "route"}, Share: 0.001, Top: 3,
		Exempt: []string{"POST"}, Windows: []time.Duration{time.Second, time.Minute, time.Hour}}, crowd(t))
	s.Source = "postgres"
	want := `4,160 requests of tenant acme, 2026-03-01 12:00:00 to 2026-03-01 12:00:19 UTC, from Postgres
Limits that would have denied at most 0.1% of the keys, from the most that keys asked for in any one window:

By user, 1,001 keys:
  WINDOW  P50  P90  P99  P99.9  MAX   LIMIT  KEYS DENIED  REQUESTS DENIED
  1s        1    1    1      1    7     1/s     1 (0.1%)       120 (2.9%)
  1m        4    4    4      4  140   4/min     1 (0.1%)       136 (3.3%)
  1h        4    4    4      4  140  4/hour     1 (0.1%)       136 (3.3%)

1/s denies 1 key:
  KEY      ADMITTED  DENIED     FIRST DENIED      LAST DENIED  HIGHEST USE
  crawler        20     120  Mar  1 12:00:00  Mar  1 12:00:19            7

4/min denies 1 key:
  KEY      ADMITTED  DENIED     FIRST DENIED      LAST DENIED  HIGHEST USE
  crawler         4     136  Mar  1 12:00:00  Mar  1 12:00:19          140

4/hour denies 1 key:
  KEY      ADMITTED  DENIED     FIRST DENIED      LAST DENIED  HIGHEST USE
  crawler         4     136  Mar  1 12:00:00  Mar  1 12:00:19          140

By route: no request has that.

As a policy, for weir policy lint, without rules that never deny first:

version: 1
tenants:
  "acme":
    rules:
      - name: user-1s
        limit: 1/s  # denies 1 of 1,001 keys, 120 of 4,140 requests
        key: [user]
        exempt: { methods: [POST] }
      - name: user-1h
        limit: 4/hour  # denies 1 of 1,001 keys, 136 of 4,140 requests
        key: [user]
        exempt: { methods: [POST] }
`
	var b bytes.Buffer
	if err := s.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if faults := policy.Lint([]byte(s.Policy)); len(faults) > 0 {
		t.Errorf("%v\n%s", faults, s.Policy)
	}
}

func TestSuggestFaults(t *testing.T) {
	good := backtest.SuggestConfig{By: []string{"user"}, Windows: []time.Duration{time.Minute}}
	for want, change := range map[string]func(*backtest.SuggestConfig){
		"share: want from 0 to less than 1":                 func(c *backtest.SuggestConfig) { c.Share = 1 },
		"by: want 1 to 8 keys":                              func(c *backtest.SuggestConfig) { c.By = nil },
		"by: want each key once, found \"user\"":            func(c *backtest.SuggestConfig) { c.By = []string{"user", "user"} },
		"by: want attributes with commas between, such as ": func(c *backtest.SuggestConfig) { c.By = []string{"user] "} },
		"key: want ": func(c *backtest.SuggestConfig) { c.By = []string{"usr"} },
		"window: want whole seconds, from 1s to 25 days": func(c *backtest.SuggestConfig) { c.Windows = []time.Duration{time.Millisecond} },
		"window: want 1 to 4 windows":                    func(c *backtest.SuggestConfig) { c.Windows = nil },
		"methods":                                        func(c *backtest.SuggestConfig) { c.Exempt = []string{"B AD"} },
	} {
		c := good
		change(&c)
		if _, err := backtest.Suggest(t.Context(), c, reader(nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := backtest.Suggest(t.Context(), good, reader(nil)); !errors.Is(err, backtest.ErrEmpty) {
		t.Errorf("got %v", err)
	}
	broken := errors.New("broken")
	if _, err := backtest.Suggest(t.Context(), good, func(context.Context, func(*events.Record) error) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
