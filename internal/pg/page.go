package pg

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
)

// term is an output that rows are ordered by. What is not known comes last.
type term struct {
	output int
	falls  bool // the largest first
	always bool // it is known of every row
}

func (t term) direction() string {
	switch {
	case t.falls && t.always:
		return ` DESC` // without more words, for an index to serve it
	case t.falls:
		return ` DESC NULLS LAST`
	}
	return ``
}

// further compares what comes later with what comes before it.
func (t term) further() string {
	if t.falls {
		return ` <`
	}
	return ` >`
}

// orders sets the order. Ties are broken so that no two rows share a place.
func (b *builder) orders(by []string, each bool) {
	for i, text := range by {
		field := "order[" + strconv.Itoa(i) + "]"
		name, falls := strings.CutPrefix(text, "-")
		if !falls {
			name = strings.TrimPrefix(name, "+")
		}
		at := b.indexOf(name)
		if at < 0 {
			if len(b.outputs) > 0 {
				b.fault(unknown(field, text, "an output of the query", b.names()))
			}
			continue
		}
		b.orderBy(at, falls)
	}
	switch {
	case each:
		falls := len(b.order) == 0 || b.order[len(b.order)-1].falls
		b.orderBy(b.indexOf("ts"), falls)
		b.orderBy(b.indexOf("id"), falls)
		return
	case len(by) == 0 && b.indexOf("bucket") < 0 && len(b.outputs) > b.groups:
		b.orderBy(b.groups, true)
	}
	for i := range b.groups {
		b.orderBy(i, false)
	}
}

func (b *builder) orderBy(output int, falls bool) {
	if slices.ContainsFunc(b.order, func(t term) bool { return t.output == output }) {
		return // the first one has settled it
	}
	name := b.outputs[output].name
	b.order = append(b.order, term{output, falls, name == "ts" || name == "id" || name == "bucket"})
}

func (b *builder) names() []string {
	names := make([]string, len(b.outputs))
	for i, o := range b.outputs {
		names[i] = o.name
	}
	return names
}

// page says where a further page begins. It holds the first page's range, as
// relative times move on, and the place of the last row before: rows that come
// meanwhile shift nothing.
type page struct {
	From  time.Time         `json:"f"`
	To    time.Time         `json:"t"`
	Query uint64            `json:"q"` // a hash of the query that it is of
	After []json.RawMessage `json:"a"` // what the row's order is by
}

// begin reads where the page begins.
func (b *builder) begin(q *Query) {
	same := *q
	same.Next, same.Limit, same.WaitFor, same.Explain = "", nil, nil, false
	text, err := json.Marshal(same)
	if err != nil {
		b.fault(&events.FieldError{Field: "where", Want: "values of JSON"})
		return
	}
	h := fnv.New64a()
	_, _ = h.Write(text)
	b.page.Query = h.Sum64()
	if q.Next == "" {
		return
	}
	var p page
	text, err = base64.RawURLEncoding.DecodeString(q.Next)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil || p.Query != h.Sum64() || p.After == nil {
		b.fault(&events.FieldError{Field: "next", Value: q.Next, Want: "what the answer to the same query gave as next"})
		return
	}
	b.page = p
}

// after returns what holds of the rows of the page, if it is a further one.
func (b *builder) after() string {
	if b.page.After == nil {
		return ``
	}
	wrong := &events.FieldError{Field: "next", Value: "places of another order", Want: "what the answer to the same query gave as next"}
	if len(b.page.After) != len(b.order) {
		b.fault(wrong)
		return ``
	}
	values := make([]string, len(b.order)) // empty: not known
	for i, t := range b.order {
		raw := b.page.After[i]
		if bytes.Equal(raw, []byte("null")) {
			continue
		}
		k := b.outputs[t.output].kind
		value, err := placeValue(k, raw)
		if err != nil {
			b.fault(wrong)
			return ``
		}
		values[i] = b.arg(value, sqlTypes[k])
	}
	where := ` WHERE ` + b.beyond(values, 0)
	if first := b.order[0]; first.always && values[0] != "" {
		// The same again, for an index to begin there.
		where += ` AND ` + place(first.output) + first.further() + `= ` + values[0]
	}
	return where
}

// beyond says that a row comes after the place, of whose terms those before i
// are equal.
func (b *builder) beyond(values []string, i int) string {
	if i == len(b.order) {
		return `FALSE`
	}
	t := b.order[i]
	c := place(t.output)
	if values[i] == "" {
		return `(` + c + ` IS NULL AND ` + b.beyond(values, i+1) + `)`
	}
	further := c + t.further() + ` ` + values[i]
	if !t.always {
		further += ` OR ` + c + ` IS NULL`
	}
	return `(` + further + ` OR ` + c + ` = ` + values[i] + ` AND ` + b.beyond(values, i+1) + `)`
}

// placeValue reads a value as next writes it.
func placeValue(k kind, raw json.RawMessage) (any, error) {
	switch k {
	case kindShare:
		var f float64
		err := json.Unmarshal(raw, &f)
		return f, err
	case kindJSON:
		k = kindText // as it is put out
	}
	return column{kind: k}.parseValue("next", raw)
}

// next returns where the page after a row begins.
func (s *statement) next(row []any) (string, error) {
	p := s.page
	p.After = make([]json.RawMessage, len(s.order))
	for i, t := range s.order {
		value := row[t.output]
		if number, ok := value.(int64); ok && s.outputs[t.output].kind == kindID {
			value = idgen.ID(number).String()
		}
		text, err := json.Marshal(value)
		if err != nil {
			return "", err
		}
		p.After[i] = text
	}
	text, err := json.Marshal(p)
	return base64.RawURLEncoding.EncodeToString(text), err
}
