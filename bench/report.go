package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// report is what one run of the program found.
type report struct {
	Machine machine `json:"machine"`
	Tables  []table `json:"tables"`
}

// table is one measurement.
type table struct {
	Title string `json:"title"`
	Bare  string `json:"bare"` // what Weir is compared with
	Rows  []row  `json:"rows"`
}

// row compares one figure. All are medians of the rounds, so that Ratio need
// not be Weir divided by Bare: it is the median of each round's.
type row struct {
	Case   string  `json:"case"`
	What   string  `json:"what"`
	Unit   unit    `json:"unit"`
	Bare   float64 `json:"bare"`
	Weir   float64 `json:"weir"`
	Ratio  float64 `json:"ratio"`
	Least  float64 `json:"ratio_least"` // of the rounds
	Most   float64 `json:"ratio_most"`
	Aim    string  `json:"aim,omitempty"`
	Missed bool    `json:"missed,omitempty"`
}

type unit string

const (
	perSecond unit = "1/s"
	seconds   unit = "s"
	ofMemory  unit = "B"
	each      unit = "1" // of a request
	requested unit = "requests"
)

// aim is what a ratio should be (atLeast, below), or Weir's figure (least, most);
// the zero value is no aim.
type aim struct{ atLeast, below, least, most float64 }

// pair is what one round measured.
type pair struct{ bare, weir float64 }

func compare(where, what string, u unit, rounds []pair, a aim) row {
	var bare, weir, ratio []float64
	for _, p := range rounds {
		bare, weir, ratio = append(bare, p.bare), append(weir, p.weir), append(ratio, p.weir/p.bare)
	}
	r := row{Case: where, What: what, Unit: u, Bare: median(bare), Weir: median(weir), Ratio: median(ratio),
		Least: slices.Min(ratio), Most: slices.Max(ratio)}
	if a.atLeast > 0 {
		r.Aim, r.Missed = fmt.Sprint("≥ ", a.atLeast), r.Ratio < a.atLeast
	}
	if a.below > 0 {
		r.Aim, r.Missed = fmt.Sprint("< ", a.below), r.Ratio >= a.below
	}
	if a.least > 0 {
		r.Aim, r.Missed = "≥ "+u.format(a.least), r.Weir < a.least
	}
	if a.most > 0 {
		r.Aim, r.Missed = "≤ "+u.format(a.most), r.Weir > a.most
	}
	return r
}

// pairs puts together what both sides measured, by rounds.
func pairs(bare, weir []float64) []pair {
	all := make([]pair, len(bare))
	for i := range bare {
		all[i] = pair{bare[i], weir[i]}
	}
	return all
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (u unit) format(v float64) string {
	switch {
	case u == seconds && v < 1e-5:
		return fmt.Sprintf("%.0fns", v*1e9)
	case u == seconds:
		return time.Duration(v * 1e9).Round(time.Microsecond).String()
	case u == each:
		return fmt.Sprintf("%.1f", v)
	case u == requested:
		return fmt.Sprintf("%.0f", v)
	case u == ofMemory:
		return fmt.Sprintf("%.1f B", v)
	}
	return fmt.Sprintf("%.0f/s", v)
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) writeTables(w io.Writer) error {
	m := &r.Machine
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "%s, %d cores; %s, NATS %s, Postgres %s, Redis %s, ratelimit %s; %s\n", m.CPU, m.Cores, m.Go, m.NATS, m.Postgres, m.Redis, m.Ratelimit, m.Date.Format(time.RFC3339))
	if m.LoadBefore != "" {
		fmt.Fprintf(out, "load averages %s before, %s after\n", m.LoadBefore, m.LoadAfter)
	}
	for _, t := range r.Tables {
		fmt.Fprintf(out, "\n%s\n\n", t.Title)
		fmt.Fprintf(out, "case\twhat\t%s\tweir\tratio\tof the rounds\taim\t\n", t.Bare)
		for i, row := range t.Rows {
			where := row.Case
			if i > 0 && t.Rows[i-1].Case == where {
				where = ""
			}
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%.2f\t%.2f to %.2f\t%s\t%s\n", where, row.What, row.Unit.format(row.Bare), row.Unit.format(row.Weir),
				row.Ratio, row.Least, row.Most, row.Aim, row.outcome())
		}
	}
	return out.Flush()
}

func (r *row) outcome() string {
	switch {
	case r.Aim == "":
		return ""
	case r.Missed:
		return "not met"
	}
	return "met"
}
