package limiter

import (
	"bytes"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
)

// headerRoom is what headers take of a message at most.
const headerRoom = 4 << 10

// errTooLarge says that a request's record is more than one message can carry:
// many rules count by something long. What it was charged is lost to its keys.
var errTooLarge = errors.New("the request and what its rules count by are larger than one message of the journal")

// block is records that go to the journal as one message, and the decisions
// that go out once it is there. Without records it holds answers that wait for
// the blocks before it.
type block struct {
	body    []byte // records, one a line
	records int
	answers []answer
	text    []byte // the answers' decisions
	done    []done // commands that are answered once it is stored
	sent    time.Time
	size    int  // bytes that it takes in the queue
	early   bool // decisions of it went out before it was stored
}

// blockBytes is about what a block takes in the queue besides its bytes.
const blockBytes = 512

// answer is a decision that goes out once its record is in the journal.
type answer struct {
	subject  string // of the gateway
	reply    string // of whoever asked, besides; may be empty
	from, to int    // in the block's text
}

// add puts what became of a request into the block. When it does not fit any
// more, what is there is sent first.
func (o *owner) add(e *entry) error {
	if e.drop {
		return nil
	}
	r := &e.record
	r.Decision.Degraded = o.degraded
	b := o.block
	from := len(b.body)
	b.body = append(events.AppendRecord(b.body, r), '\n')
	if len(b.body)-from > o.maxBody {
		b.body = b.body[:from]
		return o.addTooLarge(e)
	}
	if len(b.body) > o.maxBody {
		record := b.body[from:]
		b.body = b.body[:from]
		if err := o.send(); err != nil {
			return err
		}
		b = o.block
		b.body = append(b.body, record...)
	}
	b.records++
	if r.Refused != nil {
		return nil
	}
	o.metrics.count(&r.Decision)
	o.decision = events.AppendDecision(o.decision[:0], &r.Decision)
	d := decided{r.Decision.Verdict, o.decision}
	if !e.known {
		o.seen.add(e.id, o.appender.Next(), o.last, d)
	}
	reply := ""
	if e.check != nil {
		reply = e.check.Reply
	}
	o.answer(&r.Request, reply, d)
	return nil
}

// addTooLarge tells whoever asks that a request is too large, and records a
// report as one that cannot be read.
func (o *owner) addTooLarge(e *entry) error {
	if e.check != nil {
		o.refuse(e.check, errTooLarge)
		return nil
	}
	o.metrics.refused.WithLabelValues("report").Inc()
	payload := events.AppendRequest(nil, &e.record.Request)
	e.record = events.Record{Refused: &events.Refusal{Subject: e.subject, Payload: payload, Error: errTooLarge.Error(), At: o.last}}
	return o.add(e)
}

// answer lets a decision out with the block.
func (o *owner) answer(r *events.Request, reply string, d decided) {
	b := o.block
	from := len(b.text)
	b.text = append(b.text, d.text...)
	b.answers = append(b.answers, answer{o.subject(d.verdict, r), reply, from, len(b.text)})
}

// send has the journal store the block after those before it; then its
// decisions go out.
func (o *owner) send() error {
	b := o.block
	if b.records == 0 && len(b.answers)+len(b.done) == 0 {
		return nil
	}
	o.block = o.fresh()
	if b.sent = time.Now(); b.records > 0 {
		o.metrics.block.Observe(float64(b.records))
		o.appender.Send(b.body, b.records, o.reportSeq)
		o.unsaved += b.records
	}
	if o.degraded {
		if err := o.release(b); err != nil {
			return err
		}
		if b.records == 0 && len(b.done) == 0 {
			o.recycle(b)
			return nil
		}
	}
	b.size = blockBytes + len(b.body) + len(b.text)
	o.queue = append(o.queue, b)
	o.queued += b.size
	switch {
	case o.degraded:
	case b.records == 0 && len(o.queue) == 1:
		return o.pop() // nothing that it waits for
	case len(o.queue) == 1:
		o.late.Reset(o.config.DegradeAfter)
	}
	return nil
}

// stored lets out the decisions of the first blocks with records, n of them,
// and of those that waited for them.
func (o *owner) stored(n int) error {
	for len(o.queue) > 0 && (n > 0 || o.queue[0].records == 0) {
		if o.queue[0].records > 0 {
			o.metrics.append.Observe(time.Since(o.queue[0].sent).Seconds())
			n--
		}
		if err := o.pop(); err != nil {
			return err
		}
	}
	if o.degraded && len(o.queue) == 0 {
		o.degraded = false
		o.metrics.degraded.Set(0)
		o.log.Info("the journal has all that was decided")
	}
	if !o.degraded && len(o.queue) > 0 {
		o.late.Reset(time.Until(o.queue[0].sent.Add(o.config.DegradeAfter)))
	} else {
		o.late.Stop()
	}
	return nil
}

// pop lets out the first block's decisions, tells of what was done by hand, and
// leaves it behind.
func (o *owner) pop() error {
	b := o.queue[0]
	if err := o.release(b); err != nil {
		return err
	}
	if err := o.tell(b); err != nil {
		return err
	}
	o.queued -= b.size
	o.queue[0] = nil
	if len(o.queue) == 1 {
		o.queue = o.queue[:0]
	} else {
		o.queue = o.queue[1:]
	}
	o.recycle(b)
	return nil
}

// recycle keeps a block's memory for another one.
func (o *owner) recycle(b *block) {
	if len(o.free) < 2*underWay {
		*b = block{body: b.body[:0], text: b.text[:0], answers: b.answers[:0], done: b.done[:0]}
		o.free = append(o.free, b)
	}
}

// fresh returns an empty block.
func (o *owner) fresh() *block {
	last := len(o.free) - 1
	if last < 0 {
		return new(block)
	}
	b := o.free[last]
	o.free = o.free[:last]
	return b
}

// degrade lets decisions out before the journal has them, until it has all.
func (o *owner) degrade() error {
	if !o.lease.held() {
		return errLeaseLost
	}
	o.degraded = true
	o.metrics.degraded.Set(1)
	o.log.Error("degraded: decisions go out before the journal has them", zap.Duration("after", o.config.DegradeAfter))
	for _, b := range o.queue {
		if err := o.release(b); err != nil {
			return err
		}
		o.queued -= b.size
		b.size = blockBytes + len(b.body)
		o.queued += b.size
	}
	return nil
}

// leave waits for what is being decided, and tells of what was answered and
// will never be in the journal.
func (o *owner) leave() {
	if o.deciding {
		err := <-o.decided // of what will not be answered
		o.log.Debug("decided in vain", zap.Int("requests", len(o.batch)), zap.Error(err))
	}
	lost := 0
	for _, b := range o.queue {
		if b.early && b.records > 0 {
			lost++
		}
	}
	if lost > 0 {
		o.metrics.lost.Add(float64(lost))
		o.log.Error("decisions went out that may not be in the journal", zap.Int("blocks", lost))
	}
	o.metrics.degraded.Set(0)
	o.metrics.backlog.Set(0)
}

// release lets out a block's decisions, if that is yet to be done.
func (o *owner) release(b *block) error {
	if o.degraded && !o.lease.held() {
		return errLeaseLost // the journal may be another one's by now
	}
	for i := range b.answers {
		a := &b.answers[i]
		decision := b.text[a.from:a.to]
		if o.degraded {
			decision = marked(decision)
		}
		if err := o.publish(a.subject, decision); err != nil {
			return err
		}
		if a.reply != "" {
			if err := o.publish(a.reply, decision); err != nil {
				return err
			}
		}
	}
	b.early = b.early || o.degraded && len(b.answers) > 0
	clear(b.answers)
	b.answers = b.answers[:0]
	if o.degraded {
		b.text = nil // the block may wait for long
	}
	return nil
}

// degradedMark is how a decision says that it is given before the journal had
// it.
var degradedMark = []byte(`,"degraded":true`)

// marked returns the decision with the mark.
func marked(decision []byte) []byte {
	if bytes.Contains(decision, degradedMark) {
		return decision
	}
	end := len(decision) - 1
	return append(append(decision[:end:end], degradedMark...), '}')
}

// publish sends a decision. A gateway that does not get it has its on_error,
// and can ask again: it is in the journal.
func (o *owner) publish(subject string, decision []byte) error {
	err := o.nc.Publish(subject, decision)
	if err != nil && !o.nc.IsClosed() {
		o.metrics.unsent.Inc()
		o.log.Debug("decision not sent", zap.String("subject", subject), zap.Error(err))
		return nil
	}
	return err
}

// subject returns where a gateway follows its decisions.
func (o *owner) subject(v events.Verdict, r *events.Request) string {
	key := address{v, r.Tenant, r.Gateway}
	if s, ok := o.subjects[key]; ok {
		return s
	}
	if len(o.subjects) >= maxSubjects {
		clear(o.subjects)
	}
	s := o.config.Names.Decision(v, r.Tenant, r.Gateway)
	key = address{v, string([]byte(r.Tenant)), string([]byte(r.Gateway))} // not the payload's memory
	o.subjects[key] = s
	return s
}

// address is what a decision's subject is made of.
type address struct {
	verdict         events.Verdict
	tenant, gateway string
}

// maxSubjects bounds the subjects that are kept ready.
const maxSubjects = 10_000
