package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/testenv"
)

// What a running system has recorded, under another policy and for suggestions:
// from the journal, and from Postgres once that has more.
func TestHistory(t *testing.T) {
	t.Parallel()
	s := up(t, filepath.Join(t.TempDir(), "weir"), "--policy", patient(t))
	data := "--data=" + s.data
	for want, args := range map[string][]string{
		"weir: no request was recorded from ":                             {"backtest", "--since=1h"},
		"weir: no request was recorded of tenant acme from ":              {"suggest", "--tenant=acme"},
		"weir query --from=-7d --by tenant":                               {"suggest", "--from=postgres"},
		`--since: want a time such as 2026-12-31T00:00:00Z, or a while`:   {"backtest", "--since=soon"},
		`--since: want a time before 20`:                                  {"suggest", "--since=1h", "--until=2h"},
		`--share: want a share such as 0.1%, found "few"`:                 {"suggest", "--share=few"},
		`key: want user, api_key, ip, identity, gateway,`:                 {"suggest", "--by=usr"},
		`--top: want 0 or more, found -1`:                                 {"suggest", "--top=-1"},
		`--from must be one of "auto","journal","postgres" but got "log"`: {"suggest", "--from=log"},
	} {
		if out, err := weir(t, append(args, data)...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%q: %v\n%s\nwant %s", args, err, out, want)
		}
	}
	for user, asks := range map[string]int{"42": 20, "43": 3, "44": 1} {
		for range asks {
			if status, _ := s.check(t, user); status != http.StatusOK {
				t.Fatalf("user %s: %d", user, status)
			}
		}
	}
	testenv.Eventually(t, 30*time.Second, func() error {
		if n := s.counts(t); n != 24 {
			return fmt.Errorf("%d rows, want 24", n)
		}
		return nil
	})
	policyFile := filepath.Join(t.TempDir(), "new.yaml")
	backtests := func(from string) {
		t.Helper()
		limits, err := weir(t, "suggest", data, "--share=40%", "--window=1m", "--yaml")
		if err != nil || !strings.Contains(limits, "limit: 3/min  # denies 1 of 3 keys, 17 of 24 requests") {
			t.Fatalf("%v\n%s", err, limits)
		}
		if err := os.WriteFile(policyFile, []byte(limits), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := weir(t, "policy", "lint", policyFile); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		out, err := weir(t, "backtest", data, "--policy", policyFile, "--since=1d", "--json")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var got struct {
			backtested
			Source      string
			NewlyDenied int64 `json:"newly_denied"`
			Same        int64
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if got.Source != from || got.Requests != 24 || got.NewlyDenied != 17 || got.Same != 7 || got.Rules[0].Denied != 17 || got.Rules[0].Top[0].Key != "42" {
			t.Errorf("%s", out)
		}
	}
	backtests("journal")

	nc := testenv.Connect(t, s.addresses.NATS)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), events.Names{Prefix: events.DefaultPrefix}.JournalStream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeKeep(2)); err != nil {
		t.Fatal(err)
	}
	backtests("postgres")
	out, err := weir(t, "backtest", data, "--since=1d", "--from=journal")
	if err != nil || !strings.Contains(out, "2 requests of tenant acme") {
		t.Errorf("%v\n%s", err, out)
	}
}
