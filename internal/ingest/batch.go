package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
)

const (
	maxBatchBody = 10 << 20        // bytes
	maxBatch     = 10_000          // in one body
	maxBodies    = 8               // in memory at once
	bodyWait     = 5 * time.Second // for one of those places
	storeTimeout = 10 * time.Second
)

// kind is a kind of events that many of may come in one body and that are stored.
type kind[E any] struct {
	name   string // in the plural
	decode func(payload []byte, strict bool, grant *access.Grant) (E, error)
	store  func(context.Context, ...E) error
	stored prometheus.Counter
}

// storing answers a POST of newline-delimited JSON, a JSON array, or one object.
// All events are stored, or none is if one is wrong.
func storing[E any](s *Server, k kind[E]) func(http.ResponseWriter, *http.Request) int {
	return func(w http.ResponseWriter, r *http.Request) int {
		if !s.takeBody(r.Context()) {
			return later(w, "Too many "+k.name+" arrive at once.")
		}
		defer func() { <-s.bodies }()
		var body bytes.Buffer
		if code := readBody(w, r, &body, maxBatchBody); code != 0 {
			return code
		}
		asked, err := asks(r, "strict")
		if err != nil {
			return s.refuseCheck(w, err)
		}
		batch := batch[E]{kind: k, strict: s.config.Strict || asked["strict"], grant: access.Of(r.Context())}
		if err := batch.read(body.Bytes()); err != nil {
			return refuse(w, http.StatusRequestEntityTooLarge, err.Error())
		}
		if len(batch.faults) > 0 {
			for _, err := range batch.errs {
				s.metrics.refuse(err)
			}
			return refuseFaults(w, statusOf(errors.Join(batch.errs...)), batch.summary(), batch.faults)
		}
		ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
		defer cancel()
		if err := k.store(ctx, batch.events...); err != nil {
			if r.Context().Err() != nil {
				return statusGone
			}
			return later(w, "Not all "+k.name+" are stored: "+err.Error()+". Those that have an id can be sent again without counting twice.")
		}
		k.stored.Add(float64(len(batch.events)))
		w.Header()["Content-Type"] = jsonType
		_, _ = io.WriteString(w, `{"stored":`+strconv.Itoa(len(batch.events))+"}\n") // a client that went away may send all again
		return http.StatusOK
	}
}

// report reads one report. It finds what the gateway's client would, early
// enough to be told together with what cannot be read.
func report(payload []byte, strict bool, grant *access.Grant) (events.Request, error) {
	r, err := events.DecodeRequest(payload, strict)
	if err == nil {
		r.Tenant, err = grant.Tenant(r.Tenant)
	}
	if err != nil {
		return r, err
	}
	return r, validate(r)
}

// someName stands for the gateway's own, which is filled in later.
const someName = "ingest"

// validate finds what the gateway's client would. Who the gateway is, and the
// API key's hash, are the client's to put in.
func validate(r events.Request) error {
	r.Gateway, r.APIKey = someName, ""
	return r.Validate()
}

// outcome reads one outcome, like report.
func outcome(payload []byte, strict bool, grant *access.Grant) (events.Outcome, error) {
	o, err := events.DecodeOutcome(payload, strict)
	if err == nil {
		o.Tenant, err = grant.Tenant(o.Tenant)
	}
	if err != nil {
		return o, err
	}
	valid := o
	valid.Gateway = someName
	return o, valid.Validate()
}

// takeBody waits for a place to read a body into.
func (s *Server) takeBody(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, bodyWait)
	defer cancel()
	select {
	case s.bodies <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// batch is what one body holds.
type batch[E any] struct {
	kind[E]
	strict bool
	grant  *access.Grant
	events []E
	errs   []error         // one for each event that is wrong
	faults []problem.Fault // all that is wrong with them
}

// place is where in a body an event stands: a line, an index, or neither for
// the only one.
type place struct{ line, index int }

// only is the place of the only event.
var only = place{index: -1}

func (p place) String() string {
	switch {
	case p.line > 0:
		return "line " + strconv.Itoa(p.line) + ": "
	case p.index >= 0:
		return "index " + strconv.Itoa(p.index) + ": "
	}
	return ""
}

// errTooMany tells of more than maxBatch.
var errTooMany = fmt.Errorf("the body holds more than the %d that are taken at once", maxBatch)

// read takes a body apart. What is wrong with single events is kept in
// faults; the error is errTooMany.
func (b *batch[E]) read(body []byte) error {
	switch text := bytes.TrimSpace(body); {
	case len(text) == 0:
		b.refuse(only, &events.FieldError{Want: b.name + " as JSON objects: one, several as lines, or as an array"})
		return nil
	case text[0] == '[':
		return b.readArray(body)
	case json.Valid(body):
		return b.add(only, body)
	}
	line := 0
	for text := range bytes.SplitSeq(body, []byte("\n")) {
		line++
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		if err := b.add(place{line: line}, text); err != nil {
			return err
		}
	}
	return nil
}

// readArray stops at what is no JSON: what comes after it cannot be told apart.
func (b *batch[E]) readArray(body []byte) error {
	in := json.NewDecoder(bytes.NewReader(body))
	_, _ = in.Token() // the bracket that body begins with
	var text json.RawMessage
	i := 0
	for ; in.More(); i++ {
		if err := in.Decode(&text); err != nil {
			b.refuse(place{index: i}, stopped(body, in, "JSON ("+err.Error()+")"))
			return nil //nolint:nilerr // it is told as a fault
		}
		if err := b.add(place{index: i}, text); err != nil {
			return err
		}
	}
	if _, err := in.Token(); err != nil {
		b.refuse(place{index: i}, stopped(body, in, "a comma or the end of the array"))
	} else if rest := bytes.TrimSpace(body[in.InputOffset():]); len(rest) > 0 {
		b.refuse(only, &events.FieldError{Value: string(rest), Want: "nothing after the array"})
	}
	return nil
}

// stopped shows what stands where an array's reading stopped.
func stopped(body []byte, in *json.Decoder, want string) error {
	return &events.FieldError{Value: string(body[min(in.InputOffset(), int64(len(body))):]), Want: want}
}

// add takes one event. The error is errTooMany.
func (b *batch[E]) add(at place, text []byte) error {
	if len(b.events)+len(b.errs) == maxBatch {
		return errTooMany
	}
	event, err := b.decode(text, b.strict, b.grant)
	if err != nil {
		b.refuse(at, err)
		return nil
	}
	b.events = append(b.events, event)
	return nil
}

func (b *batch[E]) refuse(at place, err error) {
	b.errs = append(b.errs, fmt.Errorf("%v%w", at, err))
	for _, f := range faultsOf(err) {
		f.Line = at.line
		if at.line == 0 && at.index >= 0 {
			f.Index = &at.index
		}
		b.faults = append(b.faults, f)
	}
}

func (b *batch[E]) summary() string {
	first := b.errs[0].Error()
	if total := len(b.errs) + len(b.events); total > 1 {
		return fmt.Sprintf("%d of %d %s are wrong and none is stored. The first: %s", len(b.errs), total, b.name, first)
	}
	return first
}
