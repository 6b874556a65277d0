package pg

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

// queryFields are the names in a query's JSON.
var queryFields = []string{"from", "to", "tenant", "where", "group_by", "bucket", "zone", "select", "order", "limit", "next", "wait_for", "explain",
	"col", "attr", "op", "value", "vars", "shard", "seq", "stream"}

// DecodeQuery reads a query. The error names the field that is wrong.
func DecodeQuery(r io.Reader) (*Query, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	var q *Query
	if err := d.Decode(&q); err != nil {
		return nil, queryFault(err)
	}
	if q == nil {
		return nil, queryFault(errors.New("found null"))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &QueryError{Errs: []error{errors.New("want one JSON object and nothing after it")}}
	}
	return q, nil
}

// queryFault turns an error of encoding/json into one that names the field and
// the nearest known one.
func queryFault(err error) error {
	if name, ok := strings.CutPrefix(err.Error(), `json: unknown field "`); ok {
		name = strings.TrimSuffix(name, `"`)
		return &QueryError{Errs: []error{unknown("query", name, "a known field", queryFields)}}
	}
	if typeErr, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &QueryError{Errs: []error{&events.FieldError{Field: typeErr.Field, Value: typeErr.Value, Want: "JSON that fits " + typeErr.Type.String()}}}
	}
	if fieldErr, ok := errors.AsType[*events.FieldError](err); ok {
		return &QueryError{Errs: []error{fieldErr}}
	}
	return &QueryError{Errs: []error{fmt.Errorf("want a JSON object: %w", err)}}
}
