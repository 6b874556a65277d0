package pg

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"github.com/weirhq/weir/internal/idgen"
)

// Answer is what a query gives.
type Answer struct {
	Rows    [][]any       // values in the order of Columns
	Source  string        // rows: computed from every request
	AsOf    time.Time     // the moment, by the database's clock, whose rows it shows
	Took    time.Duration // from the question to the last row
	Next    string        // asks for the rows after these; empty if there are none
	Explain *Explanation  // in place of rows, if that was asked for

	outputs []output
	zone    *time.Location
}

// Explanation tells how a query is answered.
type Explanation struct {
	SQL  string          `json:"sql"`  // what came with the query is not in it
	Plan json.RawMessage `json:"plan"` // as Postgres' EXPLAIN tells it
}

// Columns names the outputs: bucket, groups and measures, or what was selected.
func (a *Answer) Columns() []string {
	names := make([]string, len(a.outputs))
	for i, o := range a.outputs {
		names[i] = o.name
	}
	return names
}

// show makes the values what they are to be seen as, and drops those that are
// not.
func (a *Answer) show() {
	for i, row := range a.Rows {
		row = row[:len(a.outputs)]
		a.Rows[i] = row
		for j, v := range row {
			o := a.outputs[j]
			switch v := v.(type) {
			case int64:
				if o.kind == kindID {
					row[j] = idgen.ID(v).String()
				}
			case string:
				if o.kind == kindJSON {
					row[j] = json.RawMessage(v)
				}
			case netip.Prefix:
				if v.IsSingleIP() {
					row[j] = v.Addr()
				}
			case time.Time:
				row[j] = v.UTC()
				if o.name == "bucket" {
					row[j] = v.In(a.zone)
				}
			}
		}
	}
}

// MarshalJSON writes the rows as objects by column name, in the columns' order.
func (a *Answer) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`{"rows":[`)
	if err := a.objects(&b, ","); err != nil {
		return nil, err
	}
	tail, err := json.Marshal(struct {
		Source  string       `json:"source"`
		AsOf    time.Time    `json:"as_of"`
		TookMS  float64      `json:"took_ms"`
		Next    string       `json:"next,omitempty"`
		Explain *Explanation `json:"explain,omitempty"`
	}{a.Source, a.AsOf.UTC(), float64(a.Took.Microseconds()) / 1000, a.Next, a.Explain})
	if err != nil {
		return nil, err
	}
	b.WriteString(`],`)
	b.Write(tail[1:])
	return b.Bytes(), nil
}

// WriteNDJSON writes an object a line.
func (a *Answer) WriteNDJSON(w io.Writer) error {
	var b bytes.Buffer
	if err := a.objects(&b, "\n"); err != nil {
		return err
	}
	if len(a.Rows) > 0 {
		b.WriteByte('\n')
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (a *Answer) objects(b *bytes.Buffer, between string) error {
	names := make([][]byte, len(a.outputs))
	for i, o := range a.outputs {
		names[i] = jsonString(o.name)
	}
	for i, row := range a.Rows {
		if i > 0 {
			b.WriteString(between)
		}
		b.WriteByte('{')
		for j, value := range row {
			text, err := json.Marshal(value)
			if err != nil {
				return fmt.Errorf("%s: %w", a.outputs[j].name, err)
			}
			if j > 0 {
				b.WriteByte(',')
			}
			b.Write(names[j])
			b.WriteByte(':')
			b.Write(text)
		}
		b.WriteByte('}')
	}
	return nil
}

// WriteCSV writes a line of names and a line for each row (RFC 4180, but with
// line feeds). What is not known is empty.
func (a *Answer) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write(a.Columns()); err != nil {
		return err
	}
	for _, row := range a.Rows {
		cells := make([]string, len(row))
		for i, v := range row {
			cells[i] = csvCell(v)
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func csvCell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case json.RawMessage:
		return string(v)
	}
	return fmt.Sprint(v)
}
