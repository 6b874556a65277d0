package replay_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/replay"
	"github.com/weirhq/weir/internal/testenv"
)

// mustLimit runs a limiter under the built-in policy until the test ends, and
// returns a connection beside it and a client.
func mustLimit(t *testing.T) (*nats.Conn, *gateway.Client) {
	t.Helper()
	nc := testenv.Connect(t, testenv.NATS(t))
	limitertest.Start(t, nc)
	client, err := gateway.Connect(nc, gateway.Config{Name: "replay", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return nc, client
}

// records counts what the journal holds, by verdict and reason.
func records(t *testing.T, nc *nats.Conn) map[string]int64 {
	t.Helper()
	n := map[string]int64{}
	for _, r := range limitertest.Records(t, nc) {
		n[string(r.Decision.Verdict)+" "+string(r.Decision.Reason)]++
		n["all"]++
	}
	return n
}

// TestThroughALimiter replays a log of one client that asks 300 times, and
// posts 10 times, which the built-in policy exempts.
func TestThroughALimiter(t *testing.T) {
	nc, client := mustLimit(t)
	var lines []string
	for i := range 300 {
		lines = append(lines, line(i%60, "/"))
	}
	for i := range 10 {
		lines = append(lines, strings.Replace(line(i, "/"), "GET", "POST", 1))
	}
	log := mustWrite(t, lines...)
	sum, err := replay.Run(t.Context(), client, options(func(o *replay.Options) { o.Files = []string{log} }))
	if err != nil || sum.Requests != 310 || sum.Allowed != 266 || sum.Denied != 44 || sum.Exempt != 10 || sum.Timeouts+sum.Errors+sum.BadLines != 0 {
		t.Errorf("checks: %+v, %v", sum, err)
	}
	if n := records(t, nc); n["all"] != 310 || n["allow rule"] != 256 || n["deny rule"] != 44 || n["allow exempt"] != 10 {
		t.Errorf("the journal holds %v", n)
	}
	sum, err = replay.Run(t.Context(), client, options(func(o *replay.Options) { o.Files, o.Reports = []string{log}, true }))
	if err != nil || sum.Requests != 310 || sum.Reported != 310 {
		t.Errorf("reports: %+v, %v", sum, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n := records(t, nc)
		if n["all"] == 620 && n["deny rule"] == 344 && n["allow exempt"] == 20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the journal holds %v", n)
		}
	}
}

// TestRealLog replays 10,000 lines of a real web server.
func TestRealLog(t *testing.T) {
	log := filepath.Join("..", "..", "..", "shared", "data", "apache_access.log")
	if _, err := os.Stat(log); errors.Is(err, fs.ErrNotExist) {
		t.Skip("no ", log)
	}
	nc, client := mustLimit(t)
	sum, err := replay.Run(t.Context(), client, options(func(o *replay.Options) { o.Files = []string{log} }))
	if err != nil || sum.Requests != 10_000 || sum.BadLines != 0 || sum.Timeouts != 0 || sum.Errors != 0 || sum.Allowed+sum.Denied != 10_000 {
		t.Fatalf("summary %+v, %v", sum, err)
	}
	n := records(t, nc)
	if n["all"] != 10_000 || n["deny rule"] != sum.Denied || n["allow exempt"] != sum.Exempt || n["allow no_rule"] != sum.NoRule {
		t.Errorf("the journal holds %v, the summary says %+v", n, sum)
	}
	t.Logf("%d denied, %.0f requests/s", sum.Denied, sum.Rate)
}
