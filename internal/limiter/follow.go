package limiter

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/policy"
)

// policyEvery is how often the newest policy is looked for.
const policyEvery = 500 * time.Millisecond

// decide owns the shard until ctx ends, under the newest policy: when there is
// a newer one, what was taken is committed under the old one, and the windows
// are rebuilt from the journal for the new one's rules. No count is lost, also
// not when a window gets longer.
func (l *Limiter) decide(ctx context.Context, lease *lease) error {
	for ctx.Err() == nil {
		running, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- newOwner(l, lease).run(running) }()
		newer := l.awaitPolicy(ctx, done)
		stop()
		if newer == nil {
			return <-done
		}
		if err := <-done; err != nil {
			return err
		}
		l.log.Info("policy changed", zap.Uint64("from", l.config.Policy.Revision), zap.Uint64("to", newer.Revision))
		l.config.Policy = newer
	}
	return nil
}

// awaitPolicy returns a newer policy as soon as there is one, or nil when ctx
// or the owner has ended. One that cannot be decided under is told of once.
func (l *Limiter) awaitPolicy(ctx context.Context, done chan error) *policy.Policy {
	tick := time.NewTicker(policyEvery)
	defer tick.Stop()
	seen := l.config.Policy.Revision
	for {
		select {
		case <-tick.C:
		case err := <-done:
			done <- err // for whoever waits for the end
			return nil
		case <-ctx.Done():
			return nil
		}
		attempt, cancel := context.WithTimeout(ctx, policyEvery)
		current, err := CurrentPolicy(attempt, l.js, l.config.Names)
		cancel()
		if err != nil || current.Revision == seen {
			continue // what is wrong with NATS is told by others
		}
		seen = current.Revision
		p, err := policy.Parse(current.Text)
		if err == nil {
			p.Revision = current.Revision
			config := l.config
			config.Policy = p
			err = config.Validate()
		}
		if err == nil {
			return p
		}
		l.metrics.refusedPolicies.Inc()
		l.log.Error("a policy is refused, the last good one stays", zap.Uint64("revision", current.Revision), zap.Error(err))
	}
}
