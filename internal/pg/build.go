package pg

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a zone is known wherever the program runs

	"github.com/weirhq/weir/internal/events"
)

// statement is a query as SQL. The text is put together from this package's
// own words; whatever came with the query is in args.
type statement struct {
	sql       string
	args      []any
	outputs   []output
	shown     int                 // outputs of the answer; the rest are for the next page
	order     []term              // of the rows, which no two share
	limit     int                 // rows of the answer at most; the statement gives one more if there is one
	page      page                // where the next one begins, but for its place
	zone      *time.Location      // of the buckets
	jsonpaths []events.FieldError // that came with the query, to be tried before it
}

// output is one column of the statement.
type output struct {
	name string
	sql  string
	kind kind
}

// builder turns a query into a statement and collects every fault.
type builder struct {
	statement
	where    []string
	groups   int    // outputs that are groups, they come first
	from, to string // the ends of the time range
	span     string // the part of it that a group covers
	faults   []error
}

func (b *builder) fault(err error) {
	if err != nil {
		b.faults = append(b.faults, err)
	}
}

// arg adds a value and returns how the text refers to it.
func (b *builder) arg(value any, sqlType string) string {
	b.args = append(b.args, value)
	return "$" + strconv.Itoa(len(b.args)) + "::" + sqlType
}

func (b *builder) output(field, name, sql string, k kind) {
	if b.indexOf(name) >= 0 {
		b.fault(&events.FieldError{Field: field, Value: name, Want: "every output once"})
		return
	}
	b.outputs = append(b.outputs, output{name, sql, k})
}

func (b *builder) indexOf(name string) int {
	return slices.IndexFunc(b.outputs, func(o output) bool { return o.name == name })
}

// build returns the statement of a query, or a *QueryError.
func build(q *Query, now time.Time) (*statement, error) {
	b := &builder{statement: statement{zone: time.UTC, limit: defaultLimit}}
	b.begin(q)
	b.times(q, now)
	if q.Tenants != nil {
		b.where = append(b.where, `tenant = ANY (`+b.arg(q.Tenants, "text[]")+`)`)
	}
	if q.Tenant != "" {
		b.fault(events.CheckToken("tenant", q.Tenant))
		b.where = append(b.where, `tenant = `+b.arg(q.Tenant, "text"))
	}
	if len(q.Where) > maxConditions {
		b.fault(&events.FieldError{Field: "where", Value: strconv.Itoa(len(q.Where)), Want: fmt.Sprintf("at most %d conditions", maxConditions)})
	}
	for i, c := range q.Where[:min(len(q.Where), maxConditions)] {
		b.condition(fmt.Sprintf("where[%d]", i), c)
	}
	b.selection(q)
	if q.Limit != nil {
		b.limit = *q.Limit
	}
	if b.limit < 1 || b.limit > maxLimit {
		b.fault(&events.FieldError{Field: "limit", Value: strconv.Itoa(b.limit), Want: fmt.Sprintf("1 to %d", maxLimit)})
	}
	if q.WaitFor != nil {
		b.fault(q.WaitFor.validate())
	}
	after := b.after()
	if len(b.faults) > 0 {
		return nil, &QueryError{Errs: b.faults}
	}
	b.write(after)
	return &b.statement, nil
}

// write puts the statement together. Its outputs have names of their own, for
// what follows to name them whatever computes them.
func (b *builder) write(after string) {
	var expressions, names, groups, order []string
	for i, o := range b.outputs {
		expressions, names = append(expressions, o.sql), append(names, place(i))
		if i < b.groups {
			groups = append(groups, strconv.Itoa(i+1))
		}
	}
	for _, t := range b.order {
		order = append(order, place(t.output)+t.direction())
	}
	clause := func(word string, list []string, between string) string {
		if len(list) == 0 {
			return ``
		}
		return word + strings.Join(list, between)
	}
	b.sql = clause(`SELECT * FROM (SELECT `, expressions, `, `) + clause(` FROM requests_with_outcomes WHERE `, b.where, ` AND `) + clause(` GROUP BY `, groups, `, `) +
		clause(`) AS q (`, names, `, `) + `)` + after + clause(` ORDER BY `, order, `, `) + ` LIMIT ` + b.arg(b.limit+1, "bigint")
}

// place is how the statement names an output.
func place(output int) string { return "c" + strconv.Itoa(output+1) }

// times sets the range: that of the query or, if it asks for a further page,
// that of the first one.
func (b *builder) times(q *Query, now time.Time) {
	from, err := parseMoment("from", q.From, "-1h", now)
	b.fault(err)
	to, err2 := parseMoment("to", q.To, "now", now)
	b.fault(err2)
	if b.page.After != nil {
		from, to = b.page.From, b.page.To
	}
	if err == nil && err2 == nil && !from.Before(to) {
		b.fault(&events.FieldError{Field: "from", Value: q.From, Want: "a time before to"})
	}
	b.page.From, b.page.To = from, to
	b.from, b.to = b.arg(from, "timestamptz"), b.arg(to, "timestamptz")
	b.span = b.to + ` - ` + b.from
	// A row that counts nothing is no request: what was done to a key by hand.
	b.where = append(b.where, `ts >= `+b.from, `ts < `+b.to, `count > 0`)
}

// selection sets what is selected, grouped and ordered by.
func (b *builder) selection(q *Query) {
	for field, list := range map[string][]string{"select": q.Select, "group_by": q.GroupBy, "order": q.Order} {
		if len(list) > maxOutputs {
			b.fault(&events.FieldError{Field: field, Value: strconv.Itoa(len(list)), Want: fmt.Sprintf("at most %d", maxOutputs)})
			return
		}
	}
	b.bucket(q)
	for i, name := range q.GroupBy {
		b.plain(fmt.Sprintf("group_by[%d]", i), name)
	}
	b.groups = len(b.outputs)
	each := b.groups == 0 && slices.ContainsFunc(q.Select, isPlain)
	for i, text := range q.Select {
		field := fmt.Sprintf("select[%d]", i)
		switch {
		case each && (isPlain(text) || text == "count"):
			b.plain(field, text)
		case each:
			b.fault(&events.FieldError{Field: field, Value: text, Want: "a column, as others are selected: to compute something, put them into group_by"})
		case isPlain(text):
			b.fault(&events.FieldError{Field: field, Value: text, Want: "a measure: a column goes into group_by"})
		default:
			b.measure(field, text)
		}
	}
	if len(q.Select) == 0 {
		b.measure("select", "count")
	}
	b.shown = len(b.outputs)
	if each {
		b.hidden("ts")
		b.hidden("id")
	}
	b.orders(q.Order, each)
}

// isPlain tells whether an output is taken from each request as it is. count is
// a measure, unless columns stand beside it.
func isPlain(name string) bool {
	return strings.HasPrefix(name, attrsPrefix) || name != "count" && slices.ContainsFunc(catalog, func(c column) bool { return c.sql == name })
}

// plain adds an output that is taken from each request as it is.
func (b *builder) plain(field, name string) {
	c, err := b.operand(field, name, false)
	if err != nil {
		b.fault(err)
		return
	}
	if c.kind == kindJSON {
		c.sql += `::text` // every digit of its numbers
	}
	b.output(field, name, c.sql, c.kind)
}

// hidden adds a column that only orders.
func (b *builder) hidden(name string) {
	if b.indexOf(name) < 0 {
		b.plain("", name)
	}
}

// parseMoment reads from or to.
func parseMoment(field, text, otherwise string, now time.Time) (time.Time, error) {
	if text == "" {
		text = otherwise
	}
	if text == "now" {
		return now, nil
	}
	if back, ok := strings.CutPrefix(text, "-"); ok {
		if span, err := parseSpan(back); err == nil {
			return now.Add(-span), nil
		}
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1 || t.Year() > 9999 {
		return t, &events.FieldError{Field: field, Value: text, Want: "a time (RFC 3339), now, or one back from now such as -90s, -5m, -1h, -7d"}
	}
	return t, nil
}

var errSpan = errors.New("a whole number and s, m, h, d or w, at most 10 years")

// parseSpan reads a span such as 90s, 5m, 1h, 7d, 2w.
func parseSpan(text string) (time.Duration, error) {
	const most = 10 * 366 * day
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': day, 'w': 7 * day}
	if len(text) < 2 {
		return 0, errSpan
	}
	unit, ok := units[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if !ok || err != nil || n == 0 || time.Duration(n) > most/unit {
		return 0, errSpan
	}
	return time.Duration(n) * unit, nil
}

// parseZone reads the name of a time zone.
func parseZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, &events.FieldError{Field: "zone", Value: name, Want: "a time zone such as Asia/Kolkata"}
	}
	return zone, nil
}
