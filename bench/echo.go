package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// sample is a check and its decision as they were on the wire. The echo sends
// these very bytes to and fro, but for the id.
type sample struct {
	check, decision     []byte
	checkID, decisionID int // where the id begins
}

const (
	echoAsk    = "echo.check.0." + tenant + "." + gatewayName // as long as what it stands for
	echoAnswer = "echo.decision.allow." + tenant + "." + gatewayName
	recordID   = 0
)

// record listens to one check and its decision.
func record(ctx context.Context, nc *nats.Conn, check asker) (sample, error) {
	var s sample
	heard := make(chan *nats.Msg, 2)
	for _, subject := range []string{"weir.check.>", "weir.decision.>"} {
		sub, err := nc.ChanSubscribe(subject, heard)
		if err != nil {
			return s, err
		}
		defer sub.Unsubscribe() //nolint:errcheck // nothing was asked for but this one
	}
	if err := nc.Flush(); err != nil {
		return s, err
	}
	if err := check(ctx, recordID); err != nil {
		return s, err
	}
	for s.check == nil || s.decision == nil {
		select {
		case m := <-heard:
			at := bytes.Index(m.Data, []byte(`"`+id(recordID)+`"`)) + 1
			if at == 0 {
				return s, fmt.Errorf("no id in %s: %s", m.Subject, m.Data)
			}
			if strings.HasPrefix(m.Subject, "weir.check.") {
				s.check, s.checkID = m.Data, at
			} else {
				s.decision, s.decisionID = m.Data, at
			}
		case <-time.After(answerWithin):
			return s, fmt.Errorf("heard no check and decision within %v", answerWithin)
		}
	}
	return s, nil
}

// serveEcho answers every request with a decision's bytes.
func serveEcho(nc *nats.Conn, s sample) error {
	answer := bytes.Clone(s.decision)
	_, err := nc.Subscribe(echoAsk, func(m *nats.Msg) {
		copy(answer[s.decisionID:], m.Data[s.checkID:s.checkID+idLength])
		_ = nc.Publish(echoAnswer, answer) // who asked gets no answer, and says so
	})
	if err != nil {
		return err
	}
	return nc.Flush()
}

// echo asks as the gateway's client does, with as little around it as can be:
// it publishes, and waits for the answer that bears its id.
type echo struct {
	nc     *nats.Conn
	sample sample

	mu      sync.Mutex // guards waiting
	waiting map[string]chan struct{}
}

func newEcho(nc *nats.Conn, s sample) (*echo, error) {
	e := &echo{nc: nc, sample: s, waiting: make(map[string]chan struct{})}
	if _, err := nc.Subscribe(echoAnswer, e.answered); err != nil {
		return nil, err
	}
	return e, nc.Flush()
}

func (e *echo) answered(m *nats.Msg) {
	at := m.Data[e.sample.decisionID : e.sample.decisionID+idLength]
	e.mu.Lock()
	defer e.mu.Unlock()
	if ready, ok := e.waiting[string(at)]; ok {
		delete(e.waiting, string(at))
		close(ready)
	}
}

func (e *echo) ask(ctx context.Context, n int64) error {
	name := id(n)
	ready := make(chan struct{})
	e.mu.Lock()
	e.waiting[name] = ready
	e.mu.Unlock()
	payload := bytes.Clone(e.sample.check)
	copy(payload[e.sample.checkID:], name)
	if err := e.nc.Publish(echoAsk, payload); err != nil {
		return err
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
