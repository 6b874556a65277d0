package pg

import (
	"encoding/json"
	"regexp"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

// textCondition is a name, an operator and, but for exists, a value.
var textCondition = regexp.MustCompile(`^\s*([^\s=!<>]+)\s*(<=|>=|!=|=|<|>|\s(?:not in|in|prefix|any_of|all_of|none_of|contains|jsonpath|exists)(?:\s|$))\s*(.*?)\s*$`)

// ParseCondition reads a condition as a person types it: status>=500,
// method in GET,HEAD, attrs.addresses[*].city any_of Mumbai,Pune. What a column
// holds decides what a value is; of attrs, whatever is JSON is taken as such.
func ParseCondition(text string) (Condition, error) {
	parts := textCondition.FindStringSubmatch(text)
	if parts == nil {
		return Condition{}, &events.FieldError{Field: "where", Value: text,
			Want: "a comparison such as status>=500, 'method in GET,HEAD', 'path prefix /api/' or 'attrs.plan=free'"}
	}
	name, value := parts[1], parts[3]
	c := Condition{Op: strings.TrimSpace(parts[2])}
	literal := jsonOr
	if p, ok := strings.CutPrefix(name, attrsPrefix); ok {
		c.Attr = p
	} else {
		col, err := findColumn("where", name)
		if err != nil {
			return Condition{}, err
		}
		c.Col, literal = name, col.literal
	}
	switch c.Op {
	case "exists":
		c.Value = json.RawMessage(value)
	case "contains":
		c.Value = jsonOr(value)
	case "in", "not in", "any_of", "all_of", "none_of":
		values := strings.Split(value, ",")
		for i, v := range values {
			values[i] = string(literal(strings.TrimSpace(v)))
		}
		c.Value = json.RawMessage("[" + strings.Join(values, ",") + "]")
	default:
		c.Value = literal(value)
	}
	return c, nil
}

// literal is a typed value as JSON of the column's type, for parseValue to
// judge.
func (c column) literal(text string) json.RawMessage {
	if text == "null" || c.kind == kindNumber || c.kind == kindBool {
		return jsonOr(text)
	}
	return jsonString(text)
}

// jsonOr is JSON as it is, and other text as a string of JSON.
func jsonOr(text string) json.RawMessage {
	if json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	return jsonString(text)
}
