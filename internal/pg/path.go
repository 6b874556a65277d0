package pg

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

// attrsPrefix makes a path into attrs a name, beside those of columns.
const attrsPrefix = "attrs."

const (
	maxPath  = 256 // bytes of a path
	maxSteps = 16
)

// path leads into attrs: addresses[*].city. What it leads to is found as
// jsonpath finds it (its lax mode): a list counts as its elements.
type path []step

// step is a member of an object, or, without a name, all elements of a list.
type step struct {
	member string
	all    bool
}

// parsePath reads members joined by dots, each of which may be quoted as in
// JSON, with [*] after one that is a list.
func parsePath(field, text string) (path, error) {
	wrong := func() (path, error) {
		return nil, &events.FieldError{Field: field, Value: text, Want: `a path into attrs such as plan, address.city, addresses[*].city or "odd name".x`}
	}
	if len(text) > maxPath || strings.IndexByte(text, 0) >= 0 {
		return wrong()
	}
	var p path
	for rest := text; ; {
		s, after, ok := cutMember(rest)
		if !ok || len(p) >= maxSteps {
			return wrong()
		}
		p, rest = append(p, s), after
		for {
			if after, ok = strings.CutPrefix(rest, "[*]"); !ok {
				break
			}
			p, rest = append(p, step{all: true}), after
		}
		if rest == "" {
			return p, nil
		}
		if rest, ok = strings.CutPrefix(rest, "."); !ok {
			return wrong()
		}
	}
}

// cutMember reads the name of a member, and returns what follows it.
func cutMember(text string) (s step, rest string, ok bool) {
	if strings.HasPrefix(text, `"`) {
		d := json.NewDecoder(strings.NewReader(text))
		err := d.Decode(&s.member)
		return s, text[min(int(d.InputOffset()), len(text)):], err == nil && strings.IndexByte(s.member, 0) < 0
	}
	end := strings.IndexAny(text, `."[]`)
	if end < 0 {
		end = len(text)
	}
	return step{member: text[:end]}, text[end:], end > 0
}

// each tells whether the path may lead to several values of one request.
func (p path) each() bool { return slices.ContainsFunc(p, func(s step) bool { return s.all }) }

// members are the names, for the operators #> and #>>.
func (p path) members() []string {
	list := make([]string, len(p))
	for i, s := range p {
		list[i] = s.member
	}
	return list
}

// from writes the path as jsonpath that begins at root.
func (p path) from(root string) string {
	b := []byte(root)
	for _, s := range p {
		if s.all {
			b = append(b, "[*]"...)
		} else {
			b = append(append(b, '.'), jsonString(s.member)...)
		}
	}
	return string(b)
}

// around wraps a value so that attrs which contain the whole have it at the
// path.
func (p path) around(value json.RawMessage) string {
	text := string(value)
	for _, s := range slices.Backward(p) {
		if s.all {
			text = "[" + text + "]"
		} else {
			text = "{" + string(jsonString(s.member)) + ":" + text + "}"
		}
	}
	return text
}

// jsonString quotes a string as JSON and jsonpath do alike.
func jsonString(s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic("pg: " + err.Error()) // a string
	}
	return text
}

// pathLiteral writes a JSON value as jsonpath has it: a string, a number, true,
// false or null.
func pathLiteral(field string, raw json.RawMessage) (string, error) {
	var value any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		return "", &events.FieldError{Field: field, Value: string(raw), Want: "a JSON value"}
	}
	switch v := value.(type) {
	case string:
		if strings.IndexByte(v, 0) >= 0 {
			return "", &events.FieldError{Field: field, Value: string(raw), Want: "text without NUL"}
		}
		return string(jsonString(v)), nil
	case json.Number:
		if _, err := v.Float64(); err != nil || len(v) > 40 {
			return "", &events.FieldError{Field: field, Value: string(raw), Want: "a number of at most 40 characters that a float64 can hold"}
		}
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	case nil:
		return "null", nil
	}
	return "", &events.FieldError{Field: field, Value: string(raw), Want: "a string, a number, true, false or null; contains takes objects and lists"}
}

// attrOperators are what a condition on a path takes.
var attrOperators = []string{"=", "!=", "<", "<=", ">", ">=", "any_of", "all_of", "none_of", "prefix", "contains", "exists"}

// attr adds a condition on what a path leads to. It holds if it holds for one of
// the values there; != and none_of, if there is a value and none is equal.
// Whatever comes with the query is in the value of a parameter: the jsonpath
// that is asked for, which an index of attrs serves.
func (b *builder) attr(field string, c Condition) {
	p, err := parsePath(field+".attr", c.Attr)
	b.fault(err)
	if !slices.Contains(attrOperators, c.Op) {
		b.fault(unknown(field+".op", c.Op, "for attr one of "+strings.Join(attrOperators, ", "), attrOperators))
		return
	}
	if len(c.Value) == 0 && c.Op != "exists" {
		b.fault(&events.FieldError{Field: field + ".value", Want: "a value"})
		return
	}
	if p == nil {
		return
	}
	here := p.from("$")
	switch c.Op {
	case "exists":
		b.exists(field, here, c.Value)
	case "contains":
		b.where = append(b.where, `attrs @> `+b.arg(p.around(c.Value), "jsonb"))
	case "=", "!=":
		literal, err := pathLiteral(field+".value", c.Value)
		b.fault(err)
		b.found(here, c.Op == "!=", []string{literal})
	case "any_of", "none_of":
		b.found(here, c.Op == "none_of", b.literals(field, c.Value))
	case "all_of":
		tests := b.literals(field, c.Value)
		for i, literal := range tests {
			tests[i] = `exists(` + p.from("@") + ` ? (@ == ` + literal + `))`
		}
		b.has(`$ ? (` + strings.Join(tests, ` && `) + `)`)
	case "prefix":
		literal, err := pathLiteral(field+".value", c.Value)
		if err == nil && literal[0] != '"' {
			err = &events.FieldError{Field: field + ".value", Value: string(c.Value), Want: "a string"}
		}
		b.fault(err)
		b.has(here + ` ? (@ starts with ` + literal + `)`)
	default: // < <= > >=
		literal, err := pathLiteral(field+".value", c.Value)
		if err == nil && slices.Contains([]string{"true", "false", "null"}, literal) {
			err = &events.FieldError{Field: field + ".value", Value: string(c.Value), Want: "a string or a number"}
		}
		b.fault(err)
		b.has(here + ` ? (@ ` + c.Op + ` ` + literal + `)`)
	}
}

// has adds that a jsonpath finds something.
func (b *builder) has(jsonpath string) {
	b.where = append(b.where, `attrs @? `+b.arg(jsonpath, "jsonpath"))
}

// found adds that one of the values is at a path, or that something is and none
// of them.
func (b *builder) found(here string, not bool, literals []string) {
	one := here + ` ? (@ == ` + strings.Join(literals, ` || @ == `) + `)`
	if not {
		b.has(here)
		b.where = append(b.where, `NOT attrs @? `+b.arg(one, "jsonpath"))
		return
	}
	b.has(one)
}

// exists adds that a path leads to something, or, with the value false, that it
// does not.
func (b *builder) exists(field, here string, raw json.RawMessage) {
	switch string(raw) {
	case "", "true":
		b.has(here)
	case "false":
		b.where = append(b.where, `(attrs @? `+b.arg(here, "jsonpath")+`) IS NOT TRUE`)
	default:
		b.fault(&events.FieldError{Field: field + ".value", Value: string(raw), Want: "true, false or nothing"})
	}
}

// literals reads a list of values.
func (b *builder) literals(field string, raw json.RawMessage) []string {
	var literals []string
	for i, item := range b.list(field, raw) {
		literal, err := pathLiteral(fmt.Sprintf("%s.value[%d]", field, i), item)
		b.fault(err)
		literals = append(literals, literal)
	}
	return literals
}

// operand is what is computed with or grouped by: a column, or a path into
// attrs as text or, where numbers are wanted, as a number. Whatever else is
// there then counts as not known.
func (b *builder) operand(field, name string, number bool) (column, error) {
	text, isPath := strings.CutPrefix(name, attrsPrefix)
	if !isPath {
		return findColumn(field, name)
	}
	p, err := parsePath(field, text)
	if err != nil {
		return column{}, err
	}
	if p.each() {
		return column{}, &events.FieldError{Field: field, Value: name, Want: "a path without [*]: a request is counted once"}
	}
	at := b.arg(p.members(), "text[]")
	if number {
		return column{`CASE WHEN jsonb_typeof(attrs #> ` + at + `) = 'number' THEN (attrs #> ` + at + `)::numeric END`, kindShare}, nil
	}
	return column{`attrs #>> ` + at, kindText}, nil
}
