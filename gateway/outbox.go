package gateway

import (
	"runtime"
	"sync"

	"github.com/nats-io/nats.go"
)

// outbox sends the checks that many goroutines ask at once together. An answer
// from the limiter wakes many of them, and each would have the connection
// written to for itself, which is most of what a check costs a gateway.
type outbox struct {
	nc   *nats.Conn
	lost func(outgoing) // is told of those that could not be sent

	mu      sync.Mutex // guards the rest
	waiting []outgoing // those since the first, who is about to send them: as many as ask in that moment
	spare   []outgoing // memory for the next
}

// outgoing is a check to be sent.
type outgoing struct {
	ticket  ticket
	waiter  *waiter
	subject string
	payload []byte
}

// send sends a check, or leaves it to another goroutine that is about to.
func (o *outbox) send(m outgoing) {
	o.mu.Lock()
	o.waiting = append(o.waiting, m)
	first := len(o.waiting) == 1
	o.mu.Unlock()
	if !first {
		return
	}
	runtime.Gosched() // those who are about to ask do so now
	o.mu.Lock()
	batch := o.waiting
	o.waiting, o.spare = o.spare, nil
	o.mu.Unlock()
	for i := range batch {
		if err := o.nc.Publish(batch[i].subject, batch[i].payload); err != nil {
			o.lost(batch[i])
		}
	}
	clear(batch)
	o.mu.Lock()
	o.spare = batch[:0]
	o.mu.Unlock()
}
