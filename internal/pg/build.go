package pg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// statement is a query as SQL. The text is put together from this package's
// own words; whatever came with the query is in args.
type statement struct {
	sql     string
	args    []any
	columns []string // output, bucket first, then groups, then measures
	kinds   []kind
}

// builder turns a query into a statement and collects every fault.
type builder struct {
	statement
	outputs []string // expressions of columns
	where   []string
	groups  int // outputs that are groups, they come first
	faults  []error
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

func (b *builder) output(name, sql string, k kind) {
	if slices.Contains(b.columns, name) {
		b.fault(&events.FieldError{Field: "select", Value: name, Want: "every output once"})
		return
	}
	b.columns = append(b.columns, name)
	b.outputs = append(b.outputs, sql)
	b.kinds = append(b.kinds, k)
}

// build returns the statement of a query, or a *QueryError.
func build(q *Query, now time.Time) (*statement, error) {
	b := &builder{}
	b.times(q, now)
	if q.Tenant != "" {
		b.fault(events.CheckToken("tenant", q.Tenant))
		b.where = append(b.where, `tenant = `+b.arg(q.Tenant, "text"))
	}
	if len(q.Where) > maxConditions {
		b.fault(&events.FieldError{Field: "where", Value: strconv.Itoa(len(q.Where)), Want: fmt.Sprintf("at most %d conditions", maxConditions)})
		q.Where = nil
	}
	for i, c := range q.Where {
		b.condition(fmt.Sprintf("where[%d]", i), c)
	}
	b.selection(q)
	order := b.order(q.Order)
	limit := defaultLimit
	if q.Limit != nil {
		limit = *q.Limit
	}
	if limit < 1 || limit > maxLimit {
		b.fault(&events.FieldError{Field: "limit", Value: strconv.Itoa(limit), Want: fmt.Sprintf("1 to %d", maxLimit)})
	}
	if len(b.faults) > 0 {
		return nil, &QueryError{Errs: b.faults}
	}
	var sql strings.Builder
	sql.WriteString(`SELECT ` + strings.Join(b.outputs, `, `) + ` FROM requests_with_outcomes WHERE ` + strings.Join(b.where, ` AND `))
	if b.groups > 0 {
		sql.WriteString(` GROUP BY ` + places(b.groups))
	}
	sql.WriteString(` ORDER BY ` + order + ` LIMIT ` + b.arg(limit, "bigint"))
	b.sql = sql.String()
	return &b.statement, nil
}

// places lists the outputs by number: 1, 2, … n.
func places(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = strconv.Itoa(i + 1)
	}
	return strings.Join(list, `, `)
}

func (b *builder) times(q *Query, now time.Time) {
	from, err := parseMoment("from", q.From, "-1h", now)
	b.fault(err)
	to, err2 := parseMoment("to", q.To, "now", now)
	b.fault(err2)
	if err == nil && err2 == nil && !from.Before(to) {
		b.fault(&events.FieldError{Field: "from", Value: q.From, Want: "a time before to"})
	}
	// A row that counts nothing is no request: what was done to a key by hand.
	b.where = append(b.where, `ts >= `+b.arg(from, "timestamptz"), `ts < `+b.arg(to, "timestamptz"), `count > 0`)
}

// selection sets what is selected and grouped by.
func (b *builder) selection(q *Query) {
	if len(q.GroupBy)+len(q.Select) > maxOutputs {
		b.fault(&events.FieldError{Field: "select", Value: strconv.Itoa(len(q.GroupBy) + len(q.Select)), Want: fmt.Sprintf("with group_by at most %d", maxOutputs)})
		return
	}
	if q.Bucket != "" {
		step, err := parseSpan(q.Bucket)
		if err != nil {
			b.fault(&events.FieldError{Field: "bucket", Value: q.Bucket, Want: "a span such as 30s, 5m, 1h or 1d"})
		}
		// From a Monday, so that days and weeks begin where people expect them.
		b.output("bucket", `date_bin(make_interval(secs => `+b.arg(step.Seconds(), "float8")+`), ts, '2001-01-01T00:00:00Z')`, kindTime)
	}
	for i, name := range q.GroupBy {
		c, err := findColumn(fmt.Sprintf("group_by[%d]", i), name)
		if err != nil {
			b.fault(err)
			continue
		}
		b.output(c.name, c.name, c.kind)
	}
	b.groups = len(b.outputs)
	measures := q.Select
	if len(measures) == 0 {
		measures = []string{"count"}
	}
	for i, text := range measures {
		m, err := parseMeasure(fmt.Sprintf("select[%d]", i), text)
		if err != nil {
			b.fault(err)
			continue
		}
		b.output(text, m.sql, m.kind)
	}
}

// order returns what follows ORDER BY. Ties are broken by the groups, so that
// the same rows come in the same order.
func (b *builder) order(by []string) string {
	var terms []string
	if len(by) > maxOutputs {
		b.fault(&events.FieldError{Field: "order", Value: strconv.Itoa(len(by)), Want: fmt.Sprintf("at most %d", maxOutputs)})
		by = nil
	}
	for i, text := range by {
		name, direction := strings.TrimPrefix(text, "+"), ""
		if strings.HasPrefix(text, "-") {
			name, direction = text[1:], " DESC NULLS LAST"
		}
		at := indexOf(b.columns, name)
		if at < 0 {
			if len(b.columns) > 0 {
				b.fault(unknown(fmt.Sprintf("order[%d]", i), text, "an output of the query", b.columns))
			}
			continue
		}
		terms = append(terms, strconv.Itoa(at+1)+direction)
	}
	if len(by) == 0 && indexOf(b.columns, "bucket") < 0 {
		terms = append(terms, strconv.Itoa(b.groups+1)+" DESC NULLS LAST")
	}
	if b.groups > 0 {
		terms = append(terms, places(b.groups))
	}
	return strings.Join(terms, `, `)
}

func indexOf(list []string, s string) int {
	for i, have := range list {
		if have == s {
			return i
		}
	}
	return -1
}

// operators are what a condition takes, and their SQL.
var operators = map[string]string{"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "in": "= ANY"}

var operatorNames = []string{"=", "!=", "<", "<=", ">", ">=", "in"}

func (b *builder) condition(field string, c Condition) {
	if c.Attr != "" {
		b.fault(&events.FieldError{Field: field + ".attr", Value: c.Attr, Want: "no attr: this version compares columns only"})
		return
	}
	col, err := findColumn(field+".col", c.Col)
	if err != nil {
		b.fault(err)
		return
	}
	op, ok := operators[c.Op]
	if !ok {
		b.fault(unknown(field+".op", c.Op, "one of = != < <= > >= in", operatorNames))
		return
	}
	if len(c.Value) == 0 {
		b.fault(&events.FieldError{Field: field + ".value", Want: "a value"})
		return
	}
	switch {
	case c.Op == "in":
		b.in(field, col, c.Value)
	case bytes.Equal(c.Value, []byte("null")):
		b.null(field, col, c.Op)
	case col.kind == kindInet && (c.Op == "=" || c.Op == "!="):
		b.network(field, col, c)
	default:
		value, err := col.parseValue(field+".value", c.Value)
		b.fault(err)
		b.where = append(b.where, col.name+` `+op+` `+b.arg(value, sqlTypes[col.kind]))
	}
}

// null compares with null, which only = and != do.
func (b *builder) null(field string, col column, op string) {
	switch op {
	case "=":
		b.where = append(b.where, col.name+` IS NULL`)
	case "!=":
		b.where = append(b.where, col.name+` IS NOT NULL`)
	default:
		b.fault(&events.FieldError{Field: field + ".value", Value: "null", Want: "null only with = or !="})
	}
}

// network compares an address: it equals a network that contains it.
func (b *builder) network(field string, col column, c Condition) {
	value, err := col.parseValue(field+".value", c.Value)
	b.fault(err)
	within := col.name + ` <<= ` + b.arg(value, sqlTypes[col.kind])
	if c.Op == "!=" {
		within = `NOT ` + within
	}
	b.where = append(b.where, within)
}

func (b *builder) in(field string, col column, raw json.RawMessage) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 || len(list) > maxValues {
		b.fault(&events.FieldError{Field: field + ".value", Value: string(raw), Want: fmt.Sprintf("a list of 1 to %d values", maxValues)})
		return
	}
	var values reflect.Value
	for i, item := range list {
		value, err := col.parseValue(fmt.Sprintf("%s.value[%d]", field, i), item)
		if err != nil {
			b.fault(err)
			return
		}
		if i == 0 {
			values = reflect.MakeSlice(reflect.SliceOf(reflect.TypeOf(value)), 0, len(list))
		}
		values = reflect.Append(values, reflect.ValueOf(value))
	}
	b.where = append(b.where, col.name+` = ANY (`+b.arg(values.Interface(), sqlTypes[col.kind]+"[]")+`)`)
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

// queryFault turns an error of encoding/json into one that names the field and
// the nearest known one.
func queryFault(err error) error {
	known := []string{"from", "to", "tenant", "where", "group_by", "bucket", "select", "order", "limit", "col", "op", "value"}
	if name, ok := strings.CutPrefix(err.Error(), `json: unknown field "`); ok {
		name = strings.TrimSuffix(name, `"`)
		return &QueryError{Errs: []error{unknown("query", name, "a known field", known)}}
	}
	if typeErr, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &QueryError{Errs: []error{&events.FieldError{Field: typeErr.Field, Value: typeErr.Value, Want: "JSON that fits " + typeErr.Type.String()}}}
	}
	return &QueryError{Errs: []error{fmt.Errorf("want a JSON object: %w", err)}}
}
