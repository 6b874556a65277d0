package pg

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// WaitFor says how far the rows have to be before a query is answered. As JSON
// it is one position, a list of them, or "now": as far as the journals and the
// outcomes' stream reach when the query comes. A decision that somebody has seen
// is in its journal, so now waits for its row.
type WaitFor struct {
	Now       bool // whoever can ask the broker puts positions in its place
	Positions []Position
}

// Position is a place in a shard's journal, or in the stream of outcomes.
type Position struct {
	Shard  int    `json:"shard"`            // or OutcomesShard
	Seq    uint64 `json:"seq"`              // of the last block that must be stored
	Stream int64  `json:"stream,omitempty"` // the journal's identity; whichever it is when 0
}

const (
	maxPositions = events.MaxShards + 1 // all shards and the outcomes
	// maxWaiting bounds the queries that wait: each looks at the cursors now and
	// then, on the connections that store rows.
	maxWaiting = 16
)

// UnmarshalJSON reads the forms that there are. The error is a *FieldError.
func (w *WaitFor) UnmarshalJSON(text []byte) error {
	if string(text) == `"now"` {
		w.Now = true
		return nil
	}
	if bytes.HasPrefix(text, []byte("{")) {
		text = append(append([]byte("["), text...), ']')
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&w.Positions); err != nil {
		return &events.FieldError{Field: "wait_for", Value: string(text), Want: `"now", or positions such as {"shard":0,"seq":1234}`}
	}
	return nil
}

func (w *WaitFor) validate() error {
	if w.Now {
		return &events.FieldError{Field: "wait_for", Value: "now", Want: `positions such as {"shard":0,"seq":1234}: nobody here can ask the broker`}
	}
	if len(w.Positions) > maxPositions {
		return &events.FieldError{Field: "wait_for", Value: strconv.Itoa(len(w.Positions)), Want: fmt.Sprintf("at most %d positions", maxPositions)}
	}
	for _, p := range w.Positions {
		if p.Shard < OutcomesShard || p.Shard >= events.MaxShards {
			return &events.FieldError{Field: "wait_for.shard", Value: strconv.Itoa(p.Shard), Want: fmt.Sprintf("0 to %d, or %d for outcomes", events.MaxShards-1, OutcomesShard)}
		}
	}
	return nil
}

// NotYetError says that rows a query waited for were not stored in time.
type NotYetError struct {
	Wanted Position
	Stored uint64 // the last block that is
}

func (e *NotYetError) Error() string {
	return fmt.Sprintf("not yet stored: %s is at %d, %d is waited for", logOf(e.Wanted.Shard), e.Stored, e.Wanted.Seq)
}

// await waits until every position is stored, for as long as a query may take.
func (db *DB) await(ctx context.Context, positions []Position) error {
	select {
	case db.waiting <- struct{}{}:
		defer func() { <-db.waiting }()
	default:
		return ErrQueriesBusy
	}
	const most = 200 * time.Millisecond
	pace := 5 * time.Millisecond
	look := time.NewTimer(0)
	defer look.Stop()
	enough := time.After(db.queryTimeout)
	for _, p := range positions {
		for {
			c, _, err := db.Cursor(ctx, p.Shard)
			if err != nil {
				return queryError(ctx, err)
			}
			if c.LastSeq >= p.Seq && (p.Stream == 0 || p.Stream == c.Stream) {
				break
			}
			look.Reset(pace)
			pace = min(2*pace, most)
			select {
			case <-look.C:
			case <-enough:
				return &NotYetError{p, c.LastSeq}
			case <-ctx.Done():
				return queryError(ctx, ctx.Err())
			}
		}
	}
	return nil
}
