package pg

import (
	"encoding/json"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

// textOps are the comparisons as a person types them, the longer ones first.
var textOps = []string{"!=", "<=", ">=", "=", "<", ">"}

// ParseCondition reads a condition as a person types it: status>=500,
// "method in GET,HEAD", user_id=null.
func ParseCondition(text string) (Condition, error) {
	if col, list, ok := strings.Cut(text, " in "); ok {
		c, err := findColumn("where", strings.TrimSpace(col))
		if err != nil {
			return Condition{}, err
		}
		values := strings.Split(list, ",")
		for i, v := range values {
			values[i] = string(c.literal(strings.TrimSpace(v)))
		}
		return Condition{Col: c.name, Op: "in", Value: json.RawMessage("[" + strings.Join(values, ",") + "]")}, nil
	}
	at := strings.IndexAny(text, "!<>=")
	if at < 0 {
		return Condition{}, &events.FieldError{Field: "where", Value: text, Want: "a comparison such as status>=500 or 'method in GET,HEAD'"}
	}
	c, err := findColumn("where", strings.TrimSpace(text[:at]))
	if err != nil {
		return Condition{}, err
	}
	for _, op := range textOps {
		if value, ok := strings.CutPrefix(text[at:], op); ok {
			return Condition{Col: c.name, Op: op, Value: c.literal(strings.TrimSpace(value))}, nil
		}
	}
	return Condition{}, &events.FieldError{Field: "where", Value: text, Want: "one of = != < <= > >= or in"}
}

// literal is a typed value as JSON of the column's type, for parseValue to
// judge.
func (c column) literal(text string) json.RawMessage {
	if text == "null" || (c.kind == kindNumber || c.kind == kindBool) && json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		panic("pg: " + err.Error()) // a string
	}
	return quoted
}
