package pg

import (
	"regexp"
	"slices"
	"strconv"

	"github.com/weirhq/weir/internal/events"
)

// measures are what select takes, with x for a column or a path into attrs.
var measures = []string{"count", "rate", "deny_share", "sum(x)", "avg(x)", "min(x)", "max(x)", "distinct(x)", "p50(x)", "p90(x)", "p99(x)"}

var (
	measureCall = regexp.MustCompile(`^(\w+(?:\.\d)?)\((.+)\)$`)
	percentile  = regexp.MustCompile(`^p([1-9]\d?(?:\.\d)?)$`)
)

// measure adds one figure over the requests of each group.
func (b *builder) measure(field, text string) {
	switch text {
	case "count":
		b.output(field, text, `coalesce(sum(count), 0)::bigint`, kindNumber)
		return
	case "rate":
		b.output(field, text, `coalesce(sum(count), 0)::float8 / extract(epoch FROM `+b.span+`)::float8`, kindShare)
		return
	case "deny_share":
		b.output(field, text, `coalesce(sum(count) FILTER (WHERE verdict = 'deny'), 0)::float8 / sum(count)::float8`, kindShare)
		return
	}
	call := measureCall.FindStringSubmatch(text)
	if call == nil {
		b.fault(unknown(field, text, "a measure", measures))
		return
	}
	function := call[1]
	share := percentile.FindStringSubmatch(function)
	if share == nil && !slices.Contains(measures, function+"(x)") {
		b.fault(&events.FieldError{Field: field, Value: text, Want: "a measure; the nearest is " + nearest(function+"(x)", measures)})
		return
	}
	c, err := b.operand(field, call[2], function != "distinct")
	if err != nil {
		b.fault(err)
		return
	}
	number := c.kind == kindNumber || c.kind == kindShare
	switch {
	case function == "distinct":
		b.output(field, text, `count(DISTINCT `+c.sql+`)`, kindNumber)
	case (function == "min" || function == "max") && c.kind == kindTime:
		b.output(field, text, function+`(`+c.sql+`)`, kindTime)
	case !number:
		b.fault(&events.FieldError{Field: field, Value: text, Want: "a column of numbers in the brackets"})
	case share != nil:
		percent, _ := strconv.ParseFloat(share[1], 64) // the expression lets nothing else through
		b.output(field, text, `percentile_cont(`+b.arg(percent/100, "float8")+`) WITHIN GROUP (ORDER BY `+c.sql+`)::float8`, kindShare)
	case function == "avg":
		b.output(field, text, `avg(`+c.sql+`)::float8`, kindShare)
	default: // sum, min, max
		b.output(field, text, function+`(`+c.sql+`)::`+sqlTypes[c.kind], c.kind)
	}
}

// bucket groups by time. Steps of whole days follow the days of the zone, 23
// and 25 hours long where clocks are set; shorter ones begin where the zone's
// clocks show a multiple of them.
func (b *builder) bucket(q *Query) {
	if q.Zone != "" && q.Bucket == "" {
		b.fault(&events.FieldError{Field: "zone", Value: q.Zone, Want: "a bucket too: only buckets heed a zone"})
	}
	if q.Bucket == "" {
		return
	}
	step, err := parseSpan(q.Bucket)
	if err != nil {
		b.fault(&events.FieldError{Field: "bucket", Value: q.Bucket, Want: "a span such as 30s, 5m, 1h or 1d"})
		return
	}
	width := `make_interval(secs => ` + b.arg(step.Seconds(), "float8") + `)`
	// Counted from a Monday, so that days and weeks begin where people expect them.
	start := `date_bin(` + width + `, ts, '2001-01-01T00:00:00Z')`
	end := start + ` + ` + width
	if q.Zone != "" {
		if b.zone, err = parseZone(q.Zone); err != nil {
			b.fault(err)
			return
		}
		zone := b.arg(q.Zone, "text")
		local := `ts AT TIME ZONE ` + zone
		bin := `date_bin(` + width + `, ` + local + `, timestamp '2001-01-01')`
		if step%day == 0 {
			start = bin + ` AT TIME ZONE ` + zone
			end = `((` + start + `) AT TIME ZONE ` + zone + ` + ` + width + `) AT TIME ZONE ` + zone
		} else {
			start = `ts - ((` + local + `) - ` + bin + `)`
			end = start + ` + ` + width
		}
	}
	b.output("bucket", "bucket", start, kindTime)
	b.span = `least(` + end + `, ` + b.to + `) - greatest(` + start + `, ` + b.from + `)`
}
