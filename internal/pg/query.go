package pg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirhq/weir/internal/events"
)

// Query asks for figures over the stored requests, or for requests. Its JSON is
// the body of POST /v1/query.
type Query struct {
	From    string      `json:"from"`     // first moment: RFC 3339, now, or back from now such as -90s, -5m, -1h, -7d; -1h when empty
	To      string      `json:"to"`       // the moment after the last; now when empty
	Tenant  string      `json:"tenant"`   // all tenants when empty
	Where   []Condition `json:"where"`    // all must hold
	GroupBy []string    `json:"group_by"` // columns, or paths such as attrs.plan
	Bucket  string      `json:"bucket"`   // also group by time, in steps such as 30s, 5m, 1h, 1d
	Zone    string      `json:"zone"`     // of the buckets, such as Asia/Kolkata; UTC when empty
	Select  []string    `json:"select"`   // measures, see measures, or columns and paths of each request; count when empty
	Order   []string    `json:"order"`    // output columns, the largest first with a leading -
	Limit   *int        `json:"limit"`    // rows at most; 100 when absent
	Next    string      `json:"next"`     // what an answer to the same query gave as next: the page after it
	WaitFor *WaitFor    `json:"wait_for"` // answer only when so much is stored
	Explain bool        `json:"explain"`  // tell how it would be answered; it is not
	Tenants []string    `json:"-"`        // those that whoever asks may learn of; all when nil
}

// Condition compares a column, or what a path into attrs leads to, with a value.
type Condition struct {
	Col   string          `json:"col,omitempty"`
	Attr  string          `json:"attr,omitempty"` // in place of col: a path such as addresses[*].city
	Op    string          `json:"op"`
	Value json.RawMessage `json:"value,omitempty"`
	Vars  json.RawMessage `json:"vars,omitempty"` // of a jsonpath
}

// Bounds of a query.
const (
	MaxQuery      = 64 << 10 // bytes of its JSON
	defaultLimit  = 100      // rows of the answer
	maxLimit      = 10_000
	maxConditions = 50
	maxOutputs    = 50   // entries of select, of group_by and of order
	maxValues     = 1000 // of one in
)

// lockTimeout is how long a query waits for whoever changes the schema or drops
// a partition.
const lockTimeout = time.Second

// QueryError says what is wrong with a query, every fault at once.
type QueryError struct{ Errs []error }

func (e *QueryError) Error() string { return errors.Join(e.Errs...).Error() }

// Unwrap returns the faults.
func (e *QueryError) Unwrap() []error { return e.Errs }

// Why a query that is right is not answered. Each passes.
var (
	ErrQueryTimeout = errors.New("the query took too long: ask for less time or fewer groups")
	ErrQueriesBusy  = errors.New("too many queries at once")
	ErrQueryLocked  = errors.New("the tables are being changed: ask again")
)

// Query answers q, whose relative times count from now. The error is a
// *QueryError if q is wrong, a *NotYetError if what it waits for does not come,
// or ErrQueryTimeout, ErrQueriesBusy or ErrQueryLocked.
func (db *DB) Query(ctx context.Context, q *Query, now time.Time) (*Answer, error) {
	began := time.Now()
	s, err := build(q, now)
	if err != nil {
		return nil, err
	}
	if q.WaitFor != nil {
		if err := db.await(ctx, q.WaitFor.Positions); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, db.queryTimeout+time.Second, ErrQueryTimeout)
	defer cancel()
	select {
	case db.queries <- struct{}{}:
		defer func() { <-db.queries }()
	case <-ctx.Done():
		return nil, ErrQueriesBusy
	}
	if err := db.tryPaths(ctx, s.jsonpaths); err != nil {
		return nil, err
	}
	a := &Answer{Source: "rows", outputs: s.outputs[:s.shown], zone: s.zone}
	err = pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// The server's own bounds hold also when we are gone.
		err := tx.QueryRow(ctx, `SELECT now() FROM set_config('statement_timeout', $1::text, true) AS s, set_config('lock_timeout', $2::text, true) AS l`,
			milliseconds(db.queryTimeout), milliseconds(lockTimeout)).Scan(&a.AsOf)
		if err != nil {
			return err
		}
		if q.Explain {
			a.Explain = &Explanation{SQL: s.sql}
			return tx.QueryRow(ctx, `EXPLAIN (FORMAT JSON) `+s.sql, s.unnamed()...).Scan(&a.Explain.Plan)
		}
		rows, err := tx.Query(ctx, s.sql, s.unnamed()...)
		if err != nil {
			return err
		}
		a.Rows, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
		return err
	})
	if err != nil {
		return nil, queryError(ctx, err)
	}
	if len(a.Rows) > s.limit {
		a.Rows = a.Rows[:s.limit]
		if a.Next, err = s.next(a.Rows[s.limit-1]); err != nil {
			return nil, fmt.Errorf("next page: %w", err)
		}
	}
	a.show()
	a.Took = time.Since(began)
	return a, nil
}

// unnamed are the statement's arguments, for a statement that the server plans
// for them and forgets: hardly one comes twice.
func (s *statement) unnamed() []any {
	return append([]any{pgx.QueryExecModeDescribeExec}, s.args...)
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// tryPaths tells what is wrong with jsonpaths, as a *QueryError.
func (db *DB) tryPaths(ctx context.Context, paths []events.FieldError) error {
	var wrong QueryError
	for _, p := range paths {
		_, err := db.pool.Exec(ctx, `SELECT $1::text::jsonpath`, p.Value)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && ofValues(pgErr) {
			p.Want = "a jsonpath such as $.addresses[*] ? (@.city == $city): " + pgErr.Message
			wrong.Errs = append(wrong.Errs, &p)
		} else if err != nil {
			return queryError(ctx, err)
		}
	}
	if len(wrong.Errs) > 0 {
		return &wrong
	}
	return nil
}

// queryError says what is to be said of an error of Postgres.
func queryError(ctx context.Context, err error) error {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pgErr.Code == "57014": // canceled
			return ErrQueryTimeout
		case pgErr.Code == "55P03": // lock not available
			return ErrQueryLocked
		case ofValues(pgErr):
			return &QueryError{Errs: []error{errors.New("query: " + pgErr.Message)}}
		}
	}
	return fmt.Errorf("query: %w", errors.Join(err, context.Cause(ctx)))
}

// ofValues tells whether an error is due to values of the query, as its text is
// ours: a sum beyond an int64, a jsonpath that is none, a variable that it lacks.
func ofValues(err *pgconn.PgError) bool {
	switch err.Code[:2] {
	case "22", // data
		"54": // limits, such as the depth of a value
		return true
	}
	return err.Code == "42601" || err.Code == "42704" // of a jsonpath: syntax, variable
}
