package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/weirhq/weir/internal/events"
)

const (
	maxReportBody   = 10 << 20        // bytes
	maxReports      = 10_000          // in one body
	maxReportBodies = 8               // in memory at once
	bodyWait        = 5 * time.Second // for one of those places
	storeTimeout    = 10 * time.Second
)

// reports answers POST /v1/reports: newline-delimited JSON, a JSON array, or
// one object. All are stored, or none is if one is wrong.
func (s *Server) reports(w http.ResponseWriter, r *http.Request) int {
	if code := onlyPOST(w, r); code != 0 {
		return code
	}
	if !s.takeBody(r.Context()) {
		return later(w, "Too many reports arrive at once.")
	}
	defer func() { <-s.bodies }()
	var body bytes.Buffer
	if code := readBody(w, r, &body, maxReportBody); code != 0 {
		return code
	}
	strict, err := s.strict(r)
	if err != nil {
		return s.refuseCheck(w, err)
	}
	batch := batch{strict: strict}
	if err := batch.read(body.Bytes()); err != nil {
		return refuse(w, http.StatusRequestEntityTooLarge, err.Error())
	}
	if len(batch.faults) > 0 {
		for _, err := range batch.errs {
			s.metrics.refuse(err)
		}
		return refuseFaults(w, batch.summary(), batch.faults)
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	if err := s.gateway.Report(ctx, batch.requests...); err != nil {
		if r.Context().Err() != nil {
			return statusGone
		}
		return later(w, "Not all reports are stored: "+err.Error()+". Those that have an id can be sent again without counting twice.")
	}
	s.metrics.stored.Add(float64(len(batch.requests)))
	w.Header()["Content-Type"] = jsonType
	_, _ = io.WriteString(w, `{"stored":`+strconv.Itoa(len(batch.requests))+"}\n") // a client that went away may send all again
	return http.StatusOK
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
type batch struct {
	strict   bool
	requests []events.Request
	errs     []error // one for each request that is wrong
	faults   []fault // all that is wrong with them
}

// place is where in a body a request stands: a line, an index, or neither for
// the only one.
type place struct{ line, index int }

// only is the place of the only request.
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

// errTooMany tells of more than maxReports.
var errTooMany = fmt.Errorf("the body holds more than the %d reports that are taken at once", maxReports)

// read takes a body apart. What is wrong with single requests is kept in
// faults; the error is errTooMany.
func (b *batch) read(body []byte) error {
	switch text := bytes.TrimSpace(body); {
	case len(text) == 0:
		b.refuse(only, &events.FieldError{Want: "a request as a JSON object, several as lines or as an array"})
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
func (b *batch) readArray(body []byte) error {
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

// add takes one request. The error is errTooMany.
func (b *batch) add(at place, text []byte) error {
	if len(b.requests)+len(b.errs) == maxReports {
		return errTooMany
	}
	request, err := events.DecodeRequest(text, b.strict)
	if err == nil {
		err = validate(request)
	}
	if err != nil {
		b.refuse(at, err)
		return nil
	}
	b.requests = append(b.requests, request)
	return nil
}

// validate finds what the gateway's client would, early enough to be told
// together with what cannot be read. Who the gateway is, and the API key's
// hash, are the client's to put in.
func validate(r events.Request) error {
	r.Gateway, r.APIKey = "ingest", ""
	return r.Validate()
}

func (b *batch) refuse(at place, err error) {
	b.errs = append(b.errs, fmt.Errorf("%v%w", at, err))
	for _, f := range faultsOf(err) {
		f.Line = at.line
		if at.line == 0 && at.index >= 0 {
			f.Index = &at.index
		}
		b.faults = append(b.faults, f)
	}
}

func (b *batch) summary() string {
	first := b.errs[0].Error()
	if total := len(b.errs) + len(b.requests); total > 1 {
		return fmt.Sprintf("%d of %d requests are wrong and none is stored. The first: %s", len(b.errs), total, first)
	}
	return first
}
