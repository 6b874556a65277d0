package load

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Print prints results as a table, one a line, times in milliseconds.
func Print(w io.Writer, results ...Result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "in flight\trequests\trate/s\tp50 ms\tp90\tp99\tp99.9\tmax\tallowed\tdenied\ttimeouts\tdegraded\t")
	for _, r := range results {
		l := r.Latency
		fmt.Fprintf(table, "%d\t%d\t%.0f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%d\t%d\t%d\t%d\t\n", r.InFlight, r.Requests, r.Rate,
			l.P50, l.P90, l.P99, l.P999, l.Max, r.Allowed, r.Denied, r.Timeouts, r.Degraded)
	}
	return table.Flush()
}
