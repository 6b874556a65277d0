package backtest

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Suggestions are limits under which few keys would have been denied. Their JSON is
// read by scripts and stays stable.
type Suggestions struct {
	Tenant   string       `json:"tenant"`
	Source   string       `json:"source"` // that it was read from: journal or postgres
	From     time.Time    `json:"from"`   // first moment asked for
	Until    time.Time    `json:"until"`  // the moment after the last
	First    time.Time    `json:"first"`  // request, UTC
	Last     time.Time    `json:"last"`
	Requests int64        `json:"requests"` // denied ones have asked, too
	Late     int64        `json:"late"`     // reports that came too late to be charged: left out
	Share    float64      `json:"share"`    // of the keys that may be denied
	Limits   []Suggestion `json:"limits"`   // by key of the rule, then by window
	Missing  []string     `json:"missing"`  // keys that no request has
	Policy   string       `json:"policy"`   // with a rule for each limit that may deny first
}

// Suggestion is a limit, with the evidence.
type Suggestion struct {
	By         string       `json:"by"` // key of the rule
	WindowMS   int64        `json:"window_ms"`
	Limit      int64        `json:"limit"`
	Keys       int64        `json:"keys"`
	KeysDenied int64        `json:"keys_denied"` // at least once
	Requests   int64        `json:"requests"`    // that have the key
	Denied     int64        `json:"denied"`      // of them
	HighestUse Distribution `json:"highest_use"`
	Top        []Key        `json:"top"` // the keys denied most, equal ones by name
}

// Distribution is of the most that keys asked for in any one window, in units: so
// many percent of the keys asked for no more.
type Distribution struct {
	P50  int64 `json:"p50"`
	P90  int64 `json:"p90"`
	P99  int64 `json:"p99"`
	P999 int64 `json:"p999"`
	Max  int64 `json:"max"`
}

// count counts requests.
func (s *Suggestions) count(at time.Time, count int64) {
	if s.Requests == 0 || at.Before(s.First) {
		s.First = at
	}
	if at.After(s.Last) {
		s.Last = at
	}
	s.Requests += count
}

// suggestedRule is a rule as a policy file has it.
type suggestedRule struct {
	by     string
	limit  int64
	window time.Duration
	note   string
}

func (s *Suggestion) rule() suggestedRule {
	return suggestedRule{by: s.By, limit: s.Limit, window: time.Duration(s.WindowMS) * time.Millisecond,
		note: fmt.Sprintf("denies %s of %s, %s of %s", grouped(s.KeysDenied), counted(s.Keys, "key"), grouped(s.Denied), counted(s.Requests, "request"))}
}

// rules returns those of the limits that may deny first.
func (s *Suggestions) rules() (list []suggestedRule) {
	for i := range s.Limits {
		rule, idle := s.Limits[i].rule(), false
		for j := range s.Limits {
			tight := s.Limits[j].rule()
			idle = idle || j != i && tight.by == rule.by && rule.limit >= tight.limit*int64((rule.window+tight.window-1)/tight.window)
		}
		if !idle {
			list = append(list, rule)
		}
	}
	return list
}

// policyText is a policy of one tenant's rules.
func policyText(tenant string, exempt []string, rules []suggestedRule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\ntenants:\n  %q:\n    rules:\n", tenant)
	for _, r := range rules {
		name := strings.NewReplacer(",", "-", "/", "-").Replace(r.by)
		fmt.Fprintf(&b, "      - name: %s-%s\n", name, span(r.window))
		fmt.Fprintf(&b, "        limit: %s", per(strconv.FormatInt(r.limit, 10), r.window))
		if r.note != "" {
			fmt.Fprintf(&b, "  # %s", r.note)
		}
		fmt.Fprintf(&b, "\n        key: [%s]\n", strings.ReplaceAll(r.by, ",", ", "))
		if len(exempt) > 0 {
			fmt.Fprintf(&b, "        exempt: { methods: [%s] }\n", strings.Join(exempt, ", "))
		}
	}
	return b.String()
}

// WriteText writes the limits and the evidence for a person.
func (s *Suggestions) WriteText(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s of tenant %s, %s to %s UTC, from %s\n", counted(s.Requests, "request"), s.Tenant,
		s.First.Format(time.DateTime), s.Last.Format(time.DateTime), sources[s.Source])
	if s.Late > 0 {
		fmt.Fprintf(&b, "Left out: %s that came more than a window late\n", counted(s.Late, "report"))
	}
	fmt.Fprintf(&b, "Limits that would have denied at most %s%% of the keys, from the most that keys asked for in any one window:\n",
		strconv.FormatFloat(100*s.Share, 'f', -1, 64))
	for i := 0; i < len(s.Limits); {
		n := i
		t := table{header: []string{"WINDOW", "P50", "P90", "P99", "P99.9", "MAX", "LIMIT", "KEYS DENIED", "REQUESTS DENIED"}}
		for ; n < len(s.Limits) && s.Limits[n].By == s.Limits[i].By; n++ {
			t.rows = append(t.rows, s.Limits[n].row())
		}
		fmt.Fprintf(&b, "\nBy %s, %s:\n", s.Limits[i].By, counted(s.Limits[i].Keys, "key"))
		if err := t.write(&b); err != nil {
			return err
		}
		for ; i < n; i++ {
			if err := s.Limits[i].keyTable(&b, s.First.Year() != s.Last.Year()); err != nil {
				return err
			}
		}
	}
	for _, by := range s.Missing {
		fmt.Fprintf(&b, "\nBy %s: no request has that.\n", by)
	}
	if len(s.Limits) > 0 {
		fmt.Fprintf(&b, "\nAs a policy, for weir policy lint, without rules that never deny first:\n\n%s", s.Policy)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (s *Suggestion) row() []string {
	row := []string{span(time.Duration(s.WindowMS) * time.Millisecond)}
	for _, n := range []int64{s.HighestUse.P50, s.HighestUse.P90, s.HighestUse.P99, s.HighestUse.P999, s.HighestUse.Max} {
		row = append(row, grouped(n))
	}
	return append(row, s.per(), grouped(s.KeysDenied)+" ("+share(s.KeysDenied, s.Keys)+")",
		grouped(s.Denied)+" ("+share(s.Denied, s.Requests)+")")
}

// span is a window as people write it: 1m, not 1m0s.
func span(window time.Duration) string {
	text := window.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-len("0s")]
		}
	}
	return text
}

func (s *Suggestion) per() string {
	return per(grouped(s.Limit), time.Duration(s.WindowMS)*time.Millisecond)
}

// keyTable writes the keys that the limit denies.
func (s *Suggestion) keyTable(b *bytes.Buffer, years bool) error {
	if len(s.Top) == 0 {
		return nil
	}
	t := table{header: []string{"KEY", "ADMITTED", "DENIED", "FIRST DENIED", "LAST DENIED", "HIGHEST USE"}}
	for i := range s.Top {
		k := &s.Top[i]
		t.rows = append(t.rows, []string{short(printable(k.Key)), grouped(k.Admitted), grouped(k.Denied),
			moment(k.FirstDenied, years), moment(k.LastDenied, years), grouped(k.HighestUse)})
	}
	fmt.Fprintf(b, "\n%s denies %s%s:\n", s.per(), counted(s.KeysDenied, "key"), cut(s.KeysDenied, len(s.Top), ". The %d it denies most"))
	return t.write(b)
}
