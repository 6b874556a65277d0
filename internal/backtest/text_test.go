package backtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/weirhq/weir/internal/backtest"
)

func text(t *testing.T, r *backtest.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestText(t *testing.T) {
	want := `8 requests of tenant acme, 2026-03-01 12:00:00 to 2026-03-01 12:00:13 UTC
5 admitted, 1 denied (12.5%), 1 exempt, 1 without a rule; 1 bad line

  RULE        LIMIT  REQUESTS  ADMITTED  DENIED  SHARE  BY OTHERS  KEYS DENIED  LIMIT FOR ALL
  client  2 per 10s         6         5       1  16.7%          0       1 of 2      3 per 10s
  path        3/min         6         5       0   0.0%          1       0 of 2          4/min

Rule client denied 1 key:
  KEY        ADMITTED  DENIED     FIRST DENIED      LAST DENIED  HIGHEST USE
  192.0.2.1         3       1  Mar  1 12:00:03  Mar  1 12:00:03            3

1 bad line:
  log-0:2: time: want a time such as [17/May/2015:10:05:03 +0000] after the user, found "line"
`
	if got := text(t, run(t, parse(t, twoRules...), 10, twoLogs...)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTextCutsLists(t *testing.T) {
	var log strings.Builder
	for i := range 24 {
		log.WriteString(line(i/2, fmt.Sprintf("192.0.2.%d", i/2), a) + "?\n")
	}
	got := text(t, run(t, parse(t, "{ name: r, limit: 1/hour, key: [ip] }"), 3, log.String()))
	for _, want := range []string{
		"\nRule r denied 12 keys. The 3 it denied most:\n  KEY", "\n  192.0.2.10 ", "\n24 bad lines, the first 10:\n", "  1/hour", "  2/hour\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n"); n != 23 {
		t.Errorf("%d lines:\n%s", n, got)
	}
}

func TestTextWithoutRules(t *testing.T) {
	got := text(t, &backtest.Report{Tenant: "acme", Requests: 1_234_567, Denied: 1, NoRule: 1_234_566, First: noon, Last: noon})
	want := `1,234,567 requests of tenant acme, 2026-03-01 12:00:00 to 2026-03-01 12:00:00 UTC
0 admitted, 1 denied (<0.1%), 0 exempt, 1,234,566 without a rule; 0 bad lines

The policy has no rule for tenant acme.
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTextOfLimits(t *testing.T) {
	for limit, window := range map[string]time.Duration{
		"1,000/s": time.Second, "1,000/min": time.Minute, "1,000/hour": time.Hour, "1,000/day": 24 * time.Hour,
		"1,000 per 90s": 90 * time.Second, "1,000 per 90m": 90 * time.Minute, "1,000 per 36h": 36 * time.Hour, "1,000 per 7d": 7 * 24 * time.Hour,
	} {
		r := &backtest.Report{Rules: []backtest.Rule{{Rule: "r", Limit: 1000, WindowMS: window.Milliseconds()}}}
		if got := text(t, r); !strings.Contains(got, "  "+limit+"  ") || !strings.HasSuffix(got, " any\n") {
			t.Errorf("%v: no %s in\n%s", window, limit, got)
		}
	}
}

// What a log brought in cannot drive the terminal, or break the table.
func TestTextIsPlain(t *testing.T) {
	odd := []string{"\x1b[31mred", "tab\there", "new\nline", "\u202eback", "broken\xff", " blank ", "\u009bcsi"}
	r := &backtest.Report{First: noon.AddDate(-1, 0, 0), Last: noon, BadLines: int64(len(odd)), Rules: []backtest.Rule{{Rule: "r", WindowMS: 1000}}}
	for _, s := range odd {
		r.Rules[0].Top = append(r.Rules[0].Top, backtest.Key{Key: s, Denied: 1, FirstDenied: noon, LastDenied: noon})
		r.Bad = append(r.Bad, backtest.BadLine{Log: "x", Line: 1, Error: s})
	}
	r.Rules[0].Top = append(r.Rules[0].Top, backtest.Key{Key: strings.Repeat("é", 100), Denied: 1})
	got := text(t, r)
	for _, c := range got {
		if c != '\n' && !unicode.IsPrint(c) {
			t.Errorf("%q in the text", c)
		}
	}
	for l := range strings.Lines(got) {
		if n := len([]rune(l)); n > 120 {
			t.Errorf("%d characters: %s", n, l)
		}
	}
	for _, want := range []string{`"\x1b[31mred"`, `" blank "`, strings.Repeat("é", 39) + "…  ", "2026-03-01 12:00:00  2026-03-01"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

func TestTextWriter(t *testing.T) {
	full := errors.New("disk full")
	if err := (&backtest.Report{}).WriteText(failing{full}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
