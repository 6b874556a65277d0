package limiter

import (
	"context"

	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/revision"
)

// decide owns the shard until ctx ends, under the newest policy: when there is
// a newer one, what was taken is committed under the old one, and the windows
// are rebuilt from the journal for the new one's rules. No count is lost, also
// not when a window gets longer.
func (l *Limiter) decide(ctx context.Context, lease *lease) error {
	for ctx.Err() == nil {
		running, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			defer stop() // nobody waits for a policy then
			done <- newOwner(l, lease).run(running)
		}()
		newer := l.awaitPolicy(running)
		stop()
		if err := <-done; newer == nil || err != nil {
			return err
		}
		l.log.Info("policy changed", zap.Uint64("from", l.config.Policy.Revision), zap.Uint64("to", newer.Revision))
		l.config.Policy = newer
	}
	return nil
}

// awaitPolicy returns a newer policy as soon as there is one, or nil when ctx
// ends. One that cannot be decided under is told of once.
func (l *Limiter) awaitPolicy(ctx context.Context) *policy.Policy {
	seen := l.config.Policy.Revision
	for {
		newest, err := revision.Next(ctx, l.js, l.config.Names, seen)
		if err != nil {
			return nil
		}
		seen = newest.Number
		p, err := newest.Policy()
		if err == nil {
			config := l.config
			config.Policy = p
			err = config.Validate()
		}
		if err == nil {
			return p
		}
		l.metrics.refusedPolicies.Inc()
		l.log.Error("a policy is refused, the last good one stays", zap.Uint64("revision", newest.Number), zap.Error(err))
	}
}
