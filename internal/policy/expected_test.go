package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

const samples = "../../../shared/data/"

// sample reads the requests of the sample log, in a stable sort by time.
func sample(t *testing.T, name string) (requests []events.Request) {
	t.Helper()
	log, err := accesslog.Open(samples + name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}()
	r, err := accesslog.NewReader(log)
	if err != nil {
		t.Fatal(err)
	}
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.SortStableFunc(requests, func(a, b events.Request) int { return a.Time.Compare(b.Time) })
			return requests
		}
		if err != nil {
			t.Fatal(err)
		}
		requests = append(requests, line.Request)
	}
}

// TestExpectedFigures holds log, policy and windows together against what an
// independent program computed.
func TestExpectedFigures(t *testing.T) {
	text, err := os.ReadFile(samples + "expected.json")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no sample beside the project")
	}
	if err != nil {
		t.Fatal(err)
	}
	var expected struct {
		Log   string
		Lines int
		Cases []struct {
			Limit      int64
			WindowS    int `json:"window_s"`
			Key        string
			Exempt     []string `json:"exempt_methods"`
			Allowed    int
			Denied     int
			Exempted   int `json:"exempt"`
			MostDenied []struct {
				IP     string
				Denied int
			} `json:"most_denied"`
		}
	}
	if err := json.Unmarshal(text, &expected); err != nil {
		t.Fatal(err)
	}
	requests := sample(t, expected.Log)
	if len(requests) != expected.Lines || len(expected.Cases) == 0 {
		t.Fatalf("%d requests, want %d; %d cases", len(requests), expected.Lines, len(expected.Cases))
	}
	for _, c := range expected.Cases {
		limit := fmt.Sprintf("%d/%ds", c.Limit, c.WindowS)
		t.Run(limit, func(t *testing.T) {
			exempt, err := json.Marshal(c.Exempt) // which is YAML too
			if err != nil {
				t.Fatal(err)
			}
			p := parse(t, withRule("name: r", "limit: "+limit, "key: ["+c.Key+"]", "exempt: { methods: "+string(exempt)+" }"))
			if p.LongestWindow() != time.Duration(c.WindowS)*time.Second {
				t.Fatalf("window %v", p.LongestWindow())
			}
			allowed, exempted, denied := decide(requests, p)
			total := 0
			for _, n := range denied {
				total += n
			}
			if allowed != c.Allowed || total != c.Denied || exempted != c.Exempted {
				t.Errorf("%d allowed, %d denied, %d exempt; want %d, %d, %d", allowed, total, exempted, c.Allowed, c.Denied, c.Exempted)
			}
			for _, most := range c.MostDenied {
				if denied[most.IP] != most.Denied {
					t.Errorf("%s denied %d times, want %d", most.IP, denied[most.IP], most.Denied)
				}
			}
		})
	}
}

// decide counts what a policy does to requests.
func decide(requests []events.Request, p *policy.Policy) (allowed, exempted int, denied map[string]int) {
	denied = map[string]int{}
	windows := window.NewMemory()
	var m policy.Matches
	for i := range requests {
		requests[i].Tenant = "acme"
		p.Match(&requests[i], requests[i].Time, &m)
		if m.Reason == events.ReasonExempt {
			exempted++
			continue
		}
		batch := make([]window.Request, 1)
		for _, c := range m.Charges {
			batch[0].Charges = append(batch[0].Charges,
				window.Charge{Key: []byte(c.Key), Cost: c.Cost, Limit: c.Rule.Limit, Window: c.Rule.Window})
		}
		if err := windows.Decide(context.Background(), requests[i].Time, batch); err == nil && batch[0].Admitted {
			allowed++
		} else {
			denied[m.Charges[0].Key]++
		}
	}
	return allowed, exempted, denied
}
