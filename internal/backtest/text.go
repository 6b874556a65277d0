package backtest

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/weirhq/weir/internal/policy"
)

const maxKey = 40 // characters of a key that are printed

// WriteText writes the report for a person, some 90 columns wide. What logs
// brought in is printed so that it cannot drive a terminal.
func (r *Report) WriteText(w io.Writer) error {
	var b bytes.Buffer
	r.summary(&b)
	if err := r.ruleTable(&b); err != nil {
		return err
	}
	for i := range r.Rules {
		keys := r.keyTable
		if r.History != nil {
			keys = r.changeTable
		}
		if err := keys(&b, &r.Rules[i]); err != nil {
			return err
		}
	}
	if err := r.thenTable(&b); err != nil {
		return err
	}
	if r.BadLines > 0 {
		fmt.Fprintf(&b, "\n%s%s:\n", counted(r.BadLines, "bad line"), cut(r.BadLines, len(r.Bad), ", the first %d"))
		for _, bad := range r.Bad {
			fmt.Fprintf(&b, "  %s:%d: %s\n", bad.Log, bad.Line, printable(bad.Error))
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (r *Report) summary(b *bytes.Buffer) {
	fmt.Fprintf(b, "%s of tenant %s, %s to %s UTC\n", counted(r.Requests, "request"), r.Tenant,
		r.First.Format(time.DateTime), r.Last.Format(time.DateTime))
	fmt.Fprintf(b, "%s admitted, %s denied (%s), %s exempt, %s without a rule; ", grouped(r.Admitted),
		grouped(r.Denied), share(r.Denied, r.Requests), grouped(r.Exempt), grouped(r.NoRule))
	if r.History == nil {
		fmt.Fprintln(b, counted(r.BadLines, "bad line"))
		return
	}
	fmt.Fprintf(b, "from %s\n", sources[r.Source])
	fmt.Fprintf(b, "%s newly denied (%s), %s newly admitted (%s), %s as they were decided\n", grouped(r.NewlyDenied),
		share(r.NewlyDenied, r.Requests), grouped(r.NewlyAdmitted), share(r.NewlyAdmitted, r.Requests), grouped(r.Same))
	if r.Late > 0 {
		fmt.Fprintf(b, "Left out: %s that came more than a window late\n", counted(r.Late, "report"))
	}
}

// sources are what records may be read from, in words.
var sources = map[string]string{"journal": "the journal", "postgres": "Postgres"}

func (r *Report) ruleTable(b *bytes.Buffer) error {
	if len(r.Rules) == 0 {
		fmt.Fprintf(b, "\nThe policy has no rule for tenant %s.\n", r.Tenant)
		return nil
	}
	var others int64
	for i := range r.Rules {
		others += r.Rules[i].DeniedByOthers
	}
	t := table{header: []string{"RULE", "LIMIT", "REQUESTS"}}
	if r.History == nil {
		t.header = append(t.header, "ADMITTED")
	}
	t.header = append(t.header, "DENIED", "SHARE")
	if others > 0 {
		t.header = append(t.header, "BY OTHERS")
	}
	if r.History != nil {
		t.header = append(t.header, "NEWLY DENIED", "NEWLY ADMITTED")
	}
	t.header = append(t.header, "KEYS DENIED", "LIMIT FOR ALL")
	for i := range r.Rules {
		rule := &r.Rules[i]
		requests := rule.Admitted + rule.Denied + rule.DeniedByOthers
		name := rule.Rule
		if rule.Shadow {
			name += " (shadow)"
		}
		row := []string{name, rule.per(rule.Limit), grouped(requests)}
		if r.History == nil {
			row = append(row, grouped(rule.Admitted))
		}
		row = append(row, grouped(rule.Denied), share(rule.Denied, requests))
		if others > 0 {
			row = append(row, grouped(rule.DeniedByOthers))
		}
		if r.History != nil {
			row = append(row, grouped(rule.NewlyDenied), grouped(rule.NewlyAdmitted))
		}
		enough := "any"
		if rule.LimitForAll > 0 {
			enough = rule.per(rule.LimitForAll)
		}
		t.rows = append(t.rows, append(row, grouped(rule.KeysDenied)+" of "+grouped(rule.Keys), enough))
	}
	b.WriteByte('\n')
	return t.write(b)
}

// moment is how the report shows when something was.
func (r *Report) moment(t time.Time) string { return moment(t, r.First.Year() != r.Last.Year()) }

// moment shows when something was, with the year where that may not be clear.
func moment(t time.Time, years bool) string {
	switch {
	case t.IsZero():
		return "-"
	case years:
		return t.Format(time.DateTime)
	}
	return t.Format("Jan _2 15:04:05")
}

// changeTable writes the rule's keys for which something changes.
func (r *Report) changeTable(b *bytes.Buffer, rule *Rule) error {
	if len(rule.Changed) == 0 {
		return nil
	}
	t := table{header: []string{"KEY", "SAME", "NEWLY DENIED", "NEWLY ADMITTED", "FIRST DENIED", "LAST DENIED", "HIGHEST USE"}}
	for i := range rule.Changed {
		k := &rule.Changed[i]
		t.rows = append(t.rows, []string{short(printable(k.Key)), grouped(k.Same), grouped(k.NewlyDenied), grouped(k.NewlyAdmitted),
			r.moment(k.FirstNewlyDenied), r.moment(k.LastNewlyDenied), grouped(k.HighestUse)})
	}
	fmt.Fprintf(b, "\nRule %s %s%s:\n", rule.Rule, r.change(rule), cut(rule.KeysChanged, len(t.rows), ". The %d with the most changes"))
	return t.write(b)
}

// change says to whom a rule changes something, and to whom first.
func (r *Report) change(rule *Rule) string {
	var parts []string
	if rule.KeysNewlyDenied > 0 {
		verb := "newly denies"
		if rule.Shadow {
			verb = "would newly deny"
		}
		parts = append(parts, fmt.Sprintf("%s %s, %s first at %s", verb, counted(rule.KeysNewlyDenied, "key"),
			short(printable(rule.FirstKey)), r.moment(rule.FirstNewlyDenied)))
	}
	if rule.KeysNewlyAdmitted > 0 {
		parts = append(parts, "admits more to "+counted(rule.KeysNewlyAdmitted, "key"))
	}
	return strings.Join(parts, "; ")
}

// thenTable writes what was denied, by the rules that did it.
func (r *Report) thenTable(b *bytes.Buffer) error {
	if r.History == nil || len(r.Then) == 0 {
		return nil
	}
	t := table{header: []string{"RULE", "DENIED THEN", "STILL DENIED", "NEWLY ADMITTED", "KEYS ADMITTED MORE"}}
	for i := range r.Then {
		w := &r.Then[i]
		name := w.Rule
		if name == "" {
			name = "(none known)"
		}
		t.rows = append(t.rows, []string{name, grouped(w.Denied), grouped(w.Denied - w.NewlyAdmitted), grouped(w.NewlyAdmitted),
			grouped(w.KeysNewlyAdmitted) + " of " + grouped(w.Keys)})
	}
	fmt.Fprintf(b, "\nWhat was denied then:\n")
	return t.write(b)
}

// keyTable writes the rule's keys that were denied.
func (r *Report) keyTable(b *bytes.Buffer, rule *Rule) error {
	t := table{header: []string{"KEY", "ADMITTED", "DENIED", "FIRST DENIED", "LAST DENIED", "HIGHEST USE"}}
	for i := range rule.Top {
		k := &rule.Top[i]
		if k.Denied == 0 {
			break
		}
		t.rows = append(t.rows, []string{short(printable(k.Key)), grouped(k.Admitted), grouped(k.Denied),
			r.moment(k.FirstDenied), r.moment(k.LastDenied), grouped(k.HighestUse)})
	}
	if len(t.rows) == 0 {
		return nil
	}
	verb := "denied"
	if rule.Shadow {
		verb = "would have denied"
	}
	fmt.Fprintf(b, "\nRule %s %s %s%s:\n", rule.Rule, verb, counted(rule.KeysDenied, "key"),
		cut(rule.KeysDenied, len(t.rows), ". The %d it denied most"))
	return t.write(b)
}

// per words a limit as a policy has it.
func (r *Rule) per(limit int64) string {
	switch limit {
	case 0:
		return "0"
	case policy.Unlimited:
		return "unlimited"
	}
	return per(grouped(limit), time.Duration(r.WindowMS)*time.Millisecond)
}

// per words a number of units in a window.
func per(limit string, window time.Duration) string {
	for _, unit := range []struct {
		name   string
		length time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"min", time.Minute}, {"s", time.Second}} {
		switch {
		case window == unit.length:
			return limit + "/" + unit.name
		case window%unit.length == 0:
			return fmt.Sprintf("%s per %d%s", limit, window/unit.length, unit.name[:1])
		}
	}
	return fmt.Sprintf("%s per %v", limit, window)
}

// table is a table whose first column is text and whose others are figures.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) write(w io.Writer) error {
	rows := append([][]string{t.header}, t.rows...)
	wide := 0
	for _, row := range rows {
		wide = max(wide, utf8.RuneCountInString(row[0]))
	}
	aligned := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		if _, err := fmt.Fprintf(aligned, "%-*s\t%s\t\n", wide, row[0], strings.Join(row[1:], "\t")); err != nil {
			return err
		}
	}
	return aligned.Flush()
}

// printable quotes a text that holds anything but plain characters.
func printable(s string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
	if strings.ContainsFunc(s, odd) || s != strings.TrimSpace(s) {
		return strconv.Quote(s)
	}
	return s
}

// short cuts a text to what a table has room for.
func short(s string) string {
	if runes := []rune(s); len(runes) > maxKey {
		return string(runes[:maxKey-1]) + "…"
	}
	return s
}

// grouped writes a number with a comma before every three digits.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// share writes a part in percent, and nothing as 0 that is not.
func share(part, whole int64) string {
	if part > 0 && part*2000 < whole {
		return "<0.1%"
	}
	return strconv.FormatFloat(100*float64(part)/float64(max(whole, 1)), 'f', 1, 64) + "%"
}

// counted writes how many things there are.
func counted(n int64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return grouped(n) + " " + thing
}

// cut says which ones are shown if not all of n are.
func cut(n int64, shown int, which string) string {
	if int64(shown) == n {
		return ""
	}
	return fmt.Sprintf(which, shown)
}
