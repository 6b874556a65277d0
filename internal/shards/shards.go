// Package shards tells how many shards a system has.
//
// The first limiter says so for good: the reports stream takes the reports of
// each shard by a subject of its own, and nothing changes how many there are.
// Were two numbers in use, a tenant would be on two shards, and its windows not
// exact.
package shards

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
)

// OtherError says that a system has another number of shards than was told.
type OtherError struct{ Has, Told int }

func (e *OtherError) Error() string {
	return fmt.Sprintf("shards: want %d, as this system has since its first limiter was started, found %d", e.Has, e.Told)
}

// Find returns how many shards a system has. One whose first limiter is yet to
// be started has as many as told, where 0 says that this is not known. The
// error is an *OtherError if it has another number than told.
func Find(ctx context.Context, js jetstream.JetStream, names events.Names, told int) (int, error) {
	stream, err := js.Stream(ctx, names.ReportsStream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return told, nil
	}
	if err != nil {
		return 0, fmt.Errorf("number of shards: stream %s: %w", names.ReportsStream(), err)
	}
	has := 0
	for slices.Contains(stream.CachedInfo().Config.Subjects, names.Reports(has)) {
		has++
	}
	if told != 0 && told != has {
		return 0, &OtherError{Has: has, Told: told}
	}
	return has, nil
}
