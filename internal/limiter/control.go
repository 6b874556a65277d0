package limiter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/policy"
)

const (
	// maxAsked bounds the explains and commands that wait: people ask them.
	maxAsked = 64
	// maxControls is how many controls are remembered, so that a command that
	// comes again is not done again.
	maxControls = 1024
	// maxOverrides bounds the overrides by hand that are in force: all are looked
	// at with each sweep, and read again at a start.
	maxOverrides = 1000
)

// done is a command that is done and will be answered.
type done struct {
	reply    string // may be empty
	controls []events.Control
}

// takeAsked takes explains and commands, until stop is called.
func (o *owner) takeAsked() (stop func(), err error) {
	explains, err := o.nc.ChanSubscribe(o.config.Names.Explains(o.config.Shard), o.asked)
	if err != nil {
		return nil, fmt.Errorf("take explains: %w", err)
	}
	commands, err := o.nc.ChanSubscribe(o.config.Names.Commands(o.config.Shard), o.asked)
	if err != nil {
		return nil, fmt.Errorf("take commands: %w", err)
	}
	return func() { _, _ = explains.Unsubscribe(), commands.Unsubscribe() }, nil // they fail only if the connection is closed
}

// serve answers an explain or does what a command asks for.
func (o *owner) serve(ctx context.Context, m *nats.Msg) error {
	now, err := o.now()
	if err != nil {
		return err
	}
	if o.config.Names.IsCommand(m.Subject) {
		return o.command(ctx, now, m)
	}
	r, err := o.read(m.Subject, m.Data)
	if err != nil {
		o.problem(m, http.StatusBadRequest, err)
		return nil
	}
	x, err := o.decider.Explain(ctx, now, &r)
	if err != nil {
		o.problem(m, http.StatusServiceUnavailable, fmt.Errorf("the windows cannot be asked: %w", err))
		return nil
	}
	text := marshal(x)
	if int64(len(text)) > o.nc.MaxPayload() {
		o.problem(m, http.StatusBadRequest, errors.New("what the rules count by is larger than one message of NATS"))
		return nil
	}
	return o.reply(m.Reply, text)
}

// command does what a command asks for and records it. It is answered when the
// journal has it. One that comes again is answered again.
func (o *owner) command(ctx context.Context, now time.Time, m *nats.Msg) error {
	tenant, c, err := o.readCommand(m)
	if err != nil {
		o.problem(m, http.StatusBadRequest, err)
		return nil
	}
	if c.Kind == events.CommandList {
		return o.reply(m.Reply, marshal(events.CommandAnswer{Controls: o.overridesOf(tenant, now)}))
	}
	var list []events.Control
	for _, before := range o.controls {
		if before.Tenant == tenant && before.ID == c.ID {
			list = append(list, before)
		}
	}
	if len(list) > 0 && (list[0].Kind != c.Kind || c.Rule != "" && list[0].Rule != c.Rule) {
		o.problem(m, http.StatusBadRequest, &events.FieldError{Field: "id", Value: c.ID, Want: fmt.Sprintf(
			"another one: this was a command of kind %s for rule %s; each command has an id of its own", list[0].Kind, list[0].Rule)})
		return nil
	}
	if list == nil {
		if list, err = o.controlsOf(now, tenant, &c); err != nil {
			o.problem(m, http.StatusBadRequest, err)
			return nil
		}
		if status, err := o.do(ctx, now, list); err != nil {
			o.problem(m, status, err)
			return nil
		}
	}
	o.block.done = append(o.block.done, done{m.Reply, list})
	return o.send()
}

// readCommand decodes a command and holds it to its bounds.
func (o *owner) readCommand(m *nats.Msg) (tenant string, c events.Command, err error) {
	origin, err := o.config.Names.ParseCommand(m.Subject)
	if err != nil {
		return "", c, err
	}
	if err := o.owns(origin); err != nil {
		return "", c, err
	}
	c, err = events.DecodeCommand(m.Data)
	return origin.Tenant, c, err
}

// controlsOf makes of a command what is done to each key that it names: of one
// rule, or of all whose keys have as many values.
func (o *owner) controlsOf(now time.Time, tenant string, c *events.Command) ([]events.Control, error) {
	control := events.Control{Kind: c.Kind, ID: c.ID, Tenant: tenant, By: c.By, Policy: o.policy.Revision, At: now}
	if c.Kind == events.ControlOverride {
		if err := o.limit(&control, c); err != nil {
			return nil, err
		}
	}
	rules := o.policy.Rules(tenant)
	var names []string
	var list []events.Control
	for _, rule := range rules {
		names = append(names, rule.Name)
		if c.Rule != "" && c.Rule != rule.Name {
			continue
		}
		key, err := rule.KeyOf(c.Key)
		switch {
		case err == nil:
			control.Rule, control.Key = rule.Name, key
			list = append(list, control)
		case c.Rule != "":
			return nil, err
		}
	}
	inForce := func(held events.Control) bool { return held.Rule == control.Rule && held.Key == control.Key }
	switch {
	case len(list) > 0:
	case c.Rule == "":
		return nil, &events.FieldError{Field: "key", Value: strings.Join(c.Key, ", "), Want: "values of a rule's key; the tenant has the rules " + strings.Join(names, ", ")}
	default:
		return nil, &events.FieldError{Field: "rule", Value: c.Rule, Want: "a rule of the tenant's: " + strings.Join(names, ", ")}
	}
	if c.Kind == events.ControlLift && !slices.ContainsFunc(o.overridesOf(tenant, now), inForce) {
		return nil, &events.FieldError{Field: "key", Value: strings.Join(c.Key, ", "), Want: "a key of rule " + c.Rule + " that has an override in force"}
	}
	return list, nil
}

// limit puts the limit that a command asks for into a control. What holds for
// longer than the journal keeps it would be forgotten.
func (o *owner) limit(control *events.Control, c *events.Command) error {
	limit, window, err := policy.ParseLimit(c.Limit)
	if err != nil || limit == policy.Unlimited {
		return &events.FieldError{Field: "limit", Value: c.Limit, Want: "units per time, such as 3000/min or 100 per 30s, or 0; unlimited is for the policy file"}
	}
	most := o.config.JournalAge - recoveryMargin
	if window > most {
		return &events.FieldError{Field: "limit", Value: c.Limit, Want: fmt.Sprintf("a window of at most %v, as long as the journal keeps what was charged", most)}
	}
	control.Limit, control.WindowMS, control.Until = limit, window.Milliseconds(), c.Until.UTC().Truncate(time.Microsecond)
	if latest := control.At.Add(most); !control.Until.After(control.At) || control.Until.After(latest) {
		return &events.FieldError{Field: "until", Value: c.Until.Format(time.RFC3339), Want: fmt.Sprintf(
			"a time after %s and up to %s, as long as the journal keeps it; what lasts longer belongs into the policy file",
			control.At.Format(time.RFC3339), latest.Format(time.RFC3339))}
	}
	if n := len(o.decider.Overrides(control.At)); n >= maxOverrides {
		return fmt.Errorf("%d overrides are in force, as many as there can be; what lasts belongs into the policy file", n)
	}
	return nil
}

// do does what a command asks for and puts it into the block. The error bears
// an HTTP status; then nothing is recorded.
func (o *owner) do(ctx context.Context, now time.Time, list []events.Control) (status int, err error) {
	var body []byte
	block := o.appender.Next()
	for i := range list {
		body = append(events.AppendRecord(body, &events.Record{Control: &list[i]}), '\n')
		list[i].Block = block
	}
	if len(body) > o.maxBody {
		return http.StatusBadRequest, errors.New("the command is larger than one message of the journal")
	}
	for i := range list {
		if err := o.decider.Apply(ctx, &list[i]); err != nil {
			return http.StatusServiceUnavailable, fmt.Errorf("the windows cannot be asked: %w", err)
		}
	}
	for i := range list {
		c := &list[i]
		o.remember(*c)
		o.log.Info("done by hand", zap.String("kind", string(c.Kind)), zap.String("tenant", c.Tenant), zap.String("rule", c.Rule),
			zap.String("key", c.Key), zap.String("by", c.By))
	}
	o.noteOverrides(now)
	o.block.body = append(o.block.body, body...)
	o.block.records += len(list)
	return 0, nil
}

// remember keeps a control for commands that come again.
func (o *owner) remember(c events.Control) {
	if len(o.controls) >= maxControls {
		o.controls = slices.Delete(o.controls, 0, 1)
	}
	o.controls = append(o.controls, c)
}

// overridesOf returns those of a tenant's that are in force.
func (o *owner) overridesOf(tenant string, now time.Time) []events.Control {
	return slices.DeleteFunc(o.decider.Overrides(now), func(c events.Control) bool { return c.Tenant != tenant })
}

// noteOverrides has the blocks to come name the oldest that holds an override in
// force: whoever reads them later needs no more.
func (o *owner) noteOverrides(now time.Time) {
	var oldest uint64
	for _, c := range o.decider.Overrides(now) {
		if oldest == 0 || c.Block < oldest {
			oldest = c.Block
		}
	}
	o.appender.Overrides(oldest)
}

// longestOverride returns for how long an admission can have a say under an
// override in force: its window, and the part more that buckets take.
func (o *owner) longestOverride() time.Duration {
	return longestOf(o.decider.Overrides(o.config.Clock()))
}

func longestOf(overrides []events.Control) (longest time.Duration) {
	for _, c := range overrides {
		window := time.Duration(c.WindowMS) * time.Millisecond
		longest = max(longest, window+window/policy.Buckets+time.Microsecond)
	}
	return longest
}

// recoverOverrides puts in force again what was made by hand and has not ended,
// however long ago: the last block names the oldest that holds such a one.
func (o *owner) recoverOverrides(ctx context.Context, j *journal.Journal, extent journal.Extent) error {
	if extent.Blocks == 0 {
		return nil
	}
	from := extent.First // if what stands last is no block
	err := j.Read(ctx, journal.Start{Seq: extent.Last}, extent.Last, func(b journal.Block) error {
		from = b.Overrides
		return nil
	})
	if err != nil || from == 0 {
		return err
	}
	return j.Read(ctx, journal.Start{Seq: max(from, extent.First)}, extent.Last, func(b journal.Block) error {
		b.Controls(func(r *events.Record) {
			if r.Control.Kind != events.ControlReset && sound(r) { // a reset is for the windows, which come later
				o.decider.Replay(r)
			}
		})
		return nil
	})
}

// tell answers the commands of a block that is stored, and tells gateways what
// they may no more rely on.
func (o *owner) tell(b *block) error {
	for _, d := range b.done {
		for i := range d.controls {
			c := &d.controls[i]
			notice := marshal(events.Notice{Kind: c.Kind, Tenant: c.Tenant, Rule: c.Rule, Key: c.Key})
			if err := o.publish(o.config.Names.Notice(c.Tenant), notice); err != nil {
				return err
			}
		}
		if err := o.reply(d.reply, marshal(events.CommandAnswer{Controls: d.controls})); err != nil {
			return err
		}
	}
	clear(b.done)
	b.done = b.done[:0]
	return nil
}

// tellOfPolicy tells gateways under which revision is decided from now on.
func (o *owner) tellOfPolicy(revision uint64) {
	notice := marshal(events.Notice{Kind: events.NoticePolicy, Revision: revision})
	if err := o.nc.Publish(o.config.Names.NoticeToAll(), notice); err != nil {
		o.log.Warn("gateways are not told of the policy", zap.Error(err))
	}
}

// reply answers whoever waits.
func (o *owner) reply(to string, text []byte) error {
	if to == "" {
		return nil
	}
	return o.publish(to, text)
}

// owns tells whether the subject of a message names the shard of its tenant.
func (l *Limiter) owns(origin events.Origin) error {
	if own := events.Shard(origin.Tenant, l.config.Shards); origin.Shard != own {
		return &events.FieldError{Field: "subject's shard", Value: strconv.Itoa(origin.Shard),
			Want: fmt.Sprintf("%d: tenant %s is there, of %d shards", own, origin.Tenant, l.config.Shards)}
	}
	return nil
}

func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("limiter: " + err.Error()) // plain data
	}
	return text
}
