package pg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirhq/weir/internal/idgen"
)

// Query asks for figures over the stored requests. Its JSON is the body of
// POST /v1/query.
type Query struct {
	From    string      `json:"from"`     // first moment: RFC 3339, now, or back from now such as -90s, -5m, -1h, -7d; -1h when empty
	To      string      `json:"to"`       // the moment after the last; now when empty
	Tenant  string      `json:"tenant"`   // all tenants when empty
	Where   []Condition `json:"where"`    // all must hold
	GroupBy []string    `json:"group_by"` // columns
	Bucket  string      `json:"bucket"`   // also group by time, in steps such as 30s, 5m, 1h, 1d
	Select  []string    `json:"select"`   // count, deny_share, or sum, avg, min, max, p50, p90, p99 of a column; count when empty
	Order   []string    `json:"order"`    // output columns, the largest first with a leading -
	Limit   *int        `json:"limit"`    // rows at most; 100 when absent
}

// Condition compares a column with a value.
type Condition struct {
	Col   string          `json:"col"`
	Attr  string          `json:"attr"` // not served yet, to be told from a misspelling
	Op    string          `json:"op"`
	Value json.RawMessage `json:"value"`
}

// Bounds of a query.
const (
	MaxQuery      = 64 << 10 // bytes of its JSON
	defaultLimit  = 100      // rows of the answer
	maxLimit      = 10_000
	maxConditions = 50
	maxOutputs    = 50   // columns of the answer
	maxValues     = 1000 // of one in
)

// DecodeQuery reads a query. The error names the field that is wrong.
func DecodeQuery(r io.Reader) (*Query, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	var q Query
	if err := d.Decode(&q); err != nil {
		return nil, queryFault(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &QueryError{Errs: []error{errors.New("want one JSON object and nothing after it")}}
	}
	return &q, nil
}

// QueryError says what is wrong with a query, every fault at once.
type QueryError struct{ Errs []error }

func (e *QueryError) Error() string { return errors.Join(e.Errs...).Error() }

// Unwrap returns the faults.
func (e *QueryError) Unwrap() []error { return e.Errs }

// ErrQueryTimeout says that a query took longer than it may.
var ErrQueryTimeout = errors.New("the query took too long: ask for less time or fewer groups")

// ErrQueriesBusy says that as many queries run as may, and none ended in time.
var ErrQueriesBusy = errors.New("too many queries at once")

// Answer is what a query gives.
type Answer struct {
	Columns []string  // names of the output: bucket, groups, measures
	Rows    [][]any   // values in the order of Columns
	Source  string    // rows: computed from every request
	AsOf    time.Time // the moment, by the database's clock, whose rows it shows
}

// MarshalJSON writes the rows as objects by column name, in the columns' order.
func (a *Answer) MarshalJSON() ([]byte, error) {
	names := make([][]byte, len(a.Columns))
	for i, name := range a.Columns {
		names[i], _ = json.Marshal(name) // a string
	}
	b := []byte(`{"rows":[`)
	for i, row := range a.Rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		for j, value := range row {
			text, err := json.Marshal(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", a.Columns[j], err)
			}
			if j > 0 {
				b = append(b, ',')
			}
			b = append(append(append(b, names[j]...), ':'), text...)
		}
		b = append(b, '}')
	}
	b = append(append(b, `],"source":"`...), a.Source...)
	b = append(b, `","as_of":"`...)
	return append(a.AsOf.UTC().AppendFormat(b, time.RFC3339Nano), `"}`...), nil
}

// Query answers q, whose relative times count from now. The error is a
// *QueryError if q is wrong, ErrQueryTimeout or ErrQueriesBusy if the database
// has too much to do for it.
func (db *DB) Query(ctx context.Context, q *Query, now time.Time) (*Answer, error) {
	s, err := build(q, now)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, db.queryTimeout+time.Second, ErrQueryTimeout)
	defer cancel()
	select {
	case db.queries <- struct{}{}:
		defer func() { <-db.queries }()
	case <-ctx.Done():
		return nil, ErrQueriesBusy
	}
	a := &Answer{Columns: s.columns, Rows: [][]any{}, Source: "rows"}
	err = pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// The server's own bound holds also when we are gone.
		err := tx.QueryRow(ctx, `SELECT now() FROM set_config('statement_timeout', $1::text, true)`,
			fmt.Sprint(db.queryTimeout.Milliseconds())).Scan(&a.AsOf)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, s.sql, s.args...)
		if err != nil {
			return err
		}
		a.Rows, err = pgx.AppendRows(a.Rows, rows, s.scan)
		return err
	})
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code {
		case "57014": // canceled
			return nil, ErrQueryTimeout
		case "22003": // a sum beyond an int64
			return nil, &QueryError{Errs: []error{errors.New("select: " + pgErr.Message)}}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("query: %w", errors.Join(err, context.Cause(ctx)))
	}
	return a, nil
}

// scan reads one row of the answer.
func (s *statement) scan(row pgx.CollectableRow) ([]any, error) {
	values, err := row.Values()
	for i, v := range values {
		switch v := v.(type) {
		case int64:
			if s.kinds[i] == kindID {
				values[i] = idgen.ID(v).String()
			}
		case netip.Prefix:
			if v.IsSingleIP() {
				values[i] = v.Addr()
			}
		case time.Time:
			values[i] = v.UTC()
		}
	}
	return values, err
}
