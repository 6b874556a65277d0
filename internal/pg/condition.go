package pg

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

// operators are what a condition on a column takes, by the column's kind.
var (
	orderOperators = []string{"=", "!=", "<", "<=", ">", ">=", "in", "not in"}
	textOperators  = append(orderOperators[:len(orderOperators):len(orderOperators)], "prefix")
	jsonOperators  = []string{"=", "!=", "contains", "jsonpath"}
)

func (k kind) operators() []string {
	switch k {
	case kindText:
		return textOperators
	case kindJSON:
		return jsonOperators
	}
	return orderOperators
}

// comparisons are the SQL of operators that compare two values.
var comparisons = map[string]string{"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

// condition adds what must hold for a request to be counted. What is not known
// of a request is neither equal nor unequal to anything.
func (b *builder) condition(field string, c Condition) {
	if c.Vars != nil && c.Op != "jsonpath" {
		b.fault(&events.FieldError{Field: field + ".vars", Value: string(c.Vars), Want: "no vars but with jsonpath"})
	}
	if c.Attr != "" {
		if c.Col != "" {
			b.fault(&events.FieldError{Field: field + ".col", Value: c.Col, Want: "col or attr, not both"})
		}
		b.attr(field, c)
		return
	}
	col, err := findColumn(field+".col", c.Col)
	if err != nil {
		b.fault(err)
		return
	}
	op, known := c.Op, col.kind.operators()
	if !slices.Contains(known, op) {
		b.fault(unknown(field+".op", op, "for "+col.sql+" one of "+strings.Join(known, ", "), known))
		return
	}
	if len(c.Value) == 0 {
		b.fault(&events.FieldError{Field: field + ".value", Want: "a value"})
		return
	}
	switch {
	case bytes.Equal(c.Value, []byte("null")):
		b.null(field, col, op)
	case col.kind == kindJSON:
		b.json(field, col, c)
	case op == "in", op == "not in":
		b.in(field, col, op == "not in", c.Value)
	case op == "prefix":
		value, err := col.parseValue(field+".value", c.Value)
		b.fault(err)
		b.where = append(b.where, `starts_with(`+col.sql+`, `+b.arg(value, "text")+`)`)
	case col.kind == kindInet && (op == "=" || op == "!="):
		b.network(field, col, c)
	default:
		value, err := col.parseValue(field+".value", c.Value)
		b.fault(err)
		b.where = append(b.where, col.sql+` `+comparisons[op]+` `+b.arg(value, sqlTypes[col.kind]))
	}
}

// null compares with null, which only = and != do: not known, or known.
func (b *builder) null(field string, col column, op string) {
	switch op {
	case "=":
		b.where = append(b.where, col.sql+` IS NULL`)
	case "!=":
		b.where = append(b.where, col.sql+` IS NOT NULL`)
	default:
		b.fault(&events.FieldError{Field: field + ".value", Value: "null", Want: "null only with = or !="})
	}
}

// network compares an address: it equals a network that contains it.
func (b *builder) network(field string, col column, c Condition) {
	value, err := col.parseValue(field+".value", c.Value)
	b.fault(err)
	within := col.sql + ` <<= ` + b.arg(value, sqlTypes[col.kind])
	if c.Op == "!=" {
		within = `NOT ` + within
	}
	b.where = append(b.where, within)
}

// list reads the values of a condition that takes several.
func (b *builder) list(field string, raw json.RawMessage) []json.RawMessage {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 || len(list) > maxValues {
		b.fault(&events.FieldError{Field: field + ".value", Value: string(raw), Want: fmt.Sprintf("a list of 1 to %d values", maxValues)})
		return nil
	}
	return list
}

func (b *builder) in(field string, col column, not bool, raw json.RawMessage) {
	var values reflect.Value
	for i, item := range b.list(field, raw) {
		value, err := col.parseValue(field+".value["+strconv.Itoa(i)+"]", item)
		if err != nil {
			b.fault(err)
			continue
		}
		if !values.IsValid() {
			values = reflect.MakeSlice(reflect.SliceOf(reflect.TypeOf(value)), 0, 1)
		}
		values = reflect.Append(values, reflect.ValueOf(value))
	}
	if !values.IsValid() {
		return // every one is a fault
	}
	equal := ` = ANY (`
	if col.kind == kindInet {
		equal = ` <<= ANY (`
	}
	condition := col.sql + equal + b.arg(values.Interface(), sqlTypes[col.kind]+"[]") + `)`
	if not {
		condition = `NOT ` + condition
	}
	b.where = append(b.where, condition)
}

// json adds a condition on a column of JSON. A jsonpath is tried by itself
// before the query, for its faults to be told with the field that has them.
func (b *builder) json(field string, col column, c Condition) {
	switch c.Op {
	case "contains":
		b.where = append(b.where, col.sql+` @> `+b.arg(string(c.Value), "jsonb"))
	case "jsonpath":
		text, err := column{kind: kindText}.parseValue(field+".value", c.Value)
		if err != nil {
			b.fault(err)
			return
		}
		b.jsonpaths = append(b.jsonpaths, events.FieldError{Field: field + ".value", Value: text.(string)})
		if c.Vars == nil {
			b.where = append(b.where, col.sql+` @? `+b.arg(text, "jsonpath"))
			return
		}
		var vars map[string]json.RawMessage
		if err := json.Unmarshal(c.Vars, &vars); err != nil || vars == nil {
			b.fault(&events.FieldError{Field: field + ".vars", Value: string(c.Vars), Want: `an object such as {"city":"Pune"}, for $city in the path`})
		}
		b.where = append(b.where, `jsonb_path_exists(`+col.sql+`, `+b.arg(text, "jsonpath")+`, `+b.arg(string(c.Vars), "jsonb")+`, true)`)
	default: // = and != compare with null alone
		b.fault(&events.FieldError{Field: field + ".value", Value: string(c.Value), Want: "null; contains looks into " + col.sql})
	}
}
