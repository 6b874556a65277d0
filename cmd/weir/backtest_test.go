package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testenv"
)

const perClient = `version: 1
tenants:
  "*":
    rules:
      - { name: per-client, limit: 2/min, key: [ip], exempt: { methods: [POST] } }
`

// The log's lines are out of order, and the last is none.
const shortLog = `192.0.2.1 - - [01/Mar/2026:12:00:30 +0000] "GET /a HTTP/1.1" 200 1
192.0.2.1 - - [01/Mar/2026:12:00:00 +0000] "GET /b HTTP/1.1" 200 1
192.0.2.1 - - [01/Mar/2026:12:00:59 +0000] "GET /c HTTP/1.1" 200 1
192.0.2.1 - - [01/Mar/2026:12:01:00 +0000] "GET /d HTTP/1.1" 200 1
192.0.2.1 - - [01/Mar/2026:12:00:31 +0000] "POST /e HTTP/1.1" 200 1
oops
`

// backtested is what scripts read of the answer.
type backtested struct {
	Requests, Exempt int64
	BadLines         int64 `json:"bad_lines"`
	Rules            []struct {
		Tenant, Rule           string
		Admitted, Denied, Keys int64
		Top                    []struct {
			Key              string
			Admitted, Denied int64
		}
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBacktest(t *testing.T) {
	file, log := write(t, "policy.yaml", perClient), write(t, "access.log", shortLog)
	cmd := exec.Command(testenv.Build(t, "./cmd/weir"), "backtest", "--policy", file, "--tenant", "acme", "--json", log, "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(shortLog, "192.0.2.1 ", "192.0.2.2 "))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got backtested
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("want one JSON object: %v\n%s", err, out)
	}
	if got.Requests != 10 || got.Exempt != 2 || got.BadLines != 2 || len(got.Rules) != 1 {
		t.Fatalf("%s", out)
	}
	r := got.Rules[0]
	if r.Tenant != "acme" || r.Rule != "per-client" || r.Admitted != 6 || r.Denied != 2 || r.Keys != 2 ||
		len(r.Top) != 2 || r.Top[0].Key != "192.0.2.1" || r.Top[0].Admitted != 3 || r.Top[0].Denied != 1 {
		t.Errorf("%s", out)
	}
	text, err := weir(t, "backtest", "--policy", file, log)
	if err != nil || !strings.Contains(text, "3 admitted, 1 denied (20.0%), 1 exempt") || !strings.Contains(text, log+":6: ") {
		t.Errorf("%v\n%s", err, text)
	}
}

// What an independent program computed over a real log.
func TestBacktestExpected(t *testing.T) {
	const data = "../../../shared/data/"
	text, err := os.ReadFile(data + "expected.json")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the shared data is not there")
	}
	if err != nil {
		t.Fatal(err)
	}
	var expected struct {
		Log   string
		Cases []struct {
			Limit                   int64
			Window                  int64 `json:"window_s"`
			Allowed, Denied, Exempt int64
		}
	}
	if err := json.Unmarshal(text, &expected); err != nil || len(expected.Cases) == 0 {
		t.Fatalf("expected.json: %v, %d cases", err, len(expected.Cases))
	}
	for _, c := range expected.Cases {
		file := write(t, "policy.yaml", strings.Replace(perClient, "2/min", fmt.Sprintf("%d per %ds", c.Limit, c.Window), 1))
		out, err := weir(t, "backtest", "--policy", file, "--json", data+expected.Log)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var got backtested
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if r := got.Rules[0]; r.Admitted != c.Allowed || r.Denied != c.Denied || got.Exempt != c.Exempt || got.BadLines != 0 {
			t.Errorf("want %+v, got %s", c, out)
		}
	}
}

func TestBacktestFaults(t *testing.T) {
	log := write(t, "access.log", shortLog)
	bad := write(t, "bad.yaml", strings.Replace(perClient, "2/min", "2/blink", 1))
	for want, args := range map[string][]string{
		"bad.yaml: line 5, column 36: limit: want units per time": {"--policy", bad, log},
		"none.yaml: no such file":                                 {"--policy", "none.yaml", log},
		"none.log: no such file":                                  {log, "none.log"},
		"--top: want 0 or more, found -1":                         {"--top=-1", log},
		"tenant: want 1 to 64 characters":                         {"--tenant", "a.b", log},
		"the logs are empty":                                      {os.DevNull},
		"none of 5 lines can be read, the first is " + bad + ":1": {bad},
		"is a directory":                                          {t.TempDir()},
		"want either access logs, or --since":                     {},
		"want either access logs":                                 {"--since=1h", log},
	} {
		out, err := weir(t, append([]string{"backtest"}, args...)...)
		if err == nil || !strings.HasPrefix(out, "weir: ") || !strings.Contains(out, want) {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
}
