// Package revision keeps the revisions of the policy in a KV bucket: whoever
// applies one puts it there, limiters and gateways follow the newest. A text in
// the bucket need not parse, and until there is one the built-in policy is in
// force, as revision 0.
package revision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

const (
	key     = "policy"
	history = 64 // revisions kept, the most that a bucket can
	// every is how often Next looks, and how long one look may take. A
	// revision is followed within a second.
	every = 500 * time.Millisecond
)

// Revision is a policy as it was applied. Nothing says that it parses.
type Revision struct {
	Number  uint64    // 0 is the built-in policy
	Applied time.Time // zero of the built-in policy
	Text    []byte
}

func builtIn() Revision { return Revision{Text: []byte(policy.DefaultSource())} }

// Policy parses a revision.
func (r Revision) Policy() (*policy.Policy, error) {
	p, err := policy.Parse(r.Text)
	if err != nil {
		return nil, fmt.Errorf("policy revision %d: %w", r.Number, err)
	}
	p.Revision = r.Number
	return p, nil
}

// Open applies the policy file at path, if there is one, and returns the newest
// policy.
func Open(ctx context.Context, js jetstream.JetStream, names events.Names, path string) (*policy.Policy, error) {
	if path == "" {
		newest, err := Newest(ctx, js, names)
		if err != nil {
			return nil, err
		}
		return newest.Policy()
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p, err := Apply(ctx, js, names, text)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", path, err)
	}
	return p, nil
}

// Apply parses a policy's text and, unless it is what runs already, makes it
// the newest revision. A text that does not parse changes nothing.
func Apply(ctx context.Context, js jetstream.JetStream, names events.Names, text []byte) (*policy.Policy, error) {
	p, err := policy.Parse(text)
	if err != nil {
		return nil, err
	}
	newest, err := Newest(ctx, js, names)
	if err != nil {
		return nil, err
	}
	if p.Revision = newest.Number; newest.Number > 0 && bytes.Equal(newest.Text, text) {
		return p, nil
	}
	p.Revision, err = Put(ctx, js, names, text, newest.Number)
	return p, err
}

// Newest returns the newest revision.
func Newest(ctx context.Context, js jetstream.JetStream, names events.Names) (Revision, error) {
	bucket, err := open(ctx, js, names)
	if err != nil {
		return Revision{}, err
	}
	return newest(ctx, bucket)
}

// Next returns the newest revision as soon as it is another than the one seen,
// or ctx's error. It waits for a bucket, for JetStream and for a connection
// alike: what is wrong with those is told by others.
func Next(ctx context.Context, js jetstream.JetStream, names events.Names, seen uint64) (Revision, error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var bucket jetstream.KeyValue // once it is found; kept, as each look for it is a request
	look := func() (r Revision, err error) {
		attempt, cancel := context.WithTimeout(ctx, every)
		defer cancel()
		if bucket == nil {
			if bucket, err = open(attempt, js, names); err != nil {
				return r, err
			}
		}
		if r, err = newest(attempt, bucket); err != nil {
			bucket = nil // it may be gone
		}
		return r, err
	}
	for {
		if r, err := look(); err == nil && r.Number != seen {
			return r, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Revision{}, ctx.Err()
		}
	}
}

// open returns the bucket, or nil if there is none.
func open(ctx context.Context, js jetstream.JetStream, names events.Names) (jetstream.KeyValue, error) {
	bucket, err := js.KeyValue(ctx, names.PolicyBucket())
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", names.PolicyBucket(), err)
	}
	return bucket, nil
}

// newest returns the newest revision of a bucket, which may be nil.
func newest(ctx context.Context, bucket jetstream.KeyValue) (Revision, error) {
	if bucket == nil {
		return builtIn(), nil
	}
	entry, err := bucket.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return builtIn(), nil
	}
	if err != nil {
		return Revision{}, fmt.Errorf("read policy from %s: %w", bucket.Bucket(), err)
	}
	return Revision{entry.Revision(), entry.Created().UTC(), entry.Value()}, nil
}

// History returns the revisions that are kept, the oldest first: the built-in
// policy and the last 64 that were applied.
func History(ctx context.Context, js jetstream.JetStream, names events.Names) ([]Revision, error) {
	list := []Revision{builtIn()}
	bucket, err := open(ctx, js, names)
	if err != nil {
		return nil, err
	}
	if bucket == nil {
		return list, nil
	}
	entries, err := bucket.History(ctx, key)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("read policies from %s: %w", names.PolicyBucket(), err)
	}
	for _, e := range entries {
		if e.Operation() == jetstream.KeyValuePut {
			list = append(list, Revision{e.Revision(), e.Created().UTC(), e.Value()})
		}
	}
	return list, nil
}

// ErrChanged says that another revision was applied meanwhile.
var ErrChanged = errors.New("another policy was applied meanwhile")

// Put makes a text the newest revision, whose number it returns, if the newest
// so far is the one expected. It is ErrChanged if not. That the text parses is
// for the caller to see to.
func Put(ctx context.Context, js jetstream.JetStream, names events.Names, text []byte, expected uint64) (uint64, error) {
	bucket, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: names.PolicyBucket(), Description: "versioned policies", History: history, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return 0, fmt.Errorf("make bucket %s: %w", names.PolicyBucket(), err)
	}
	var number uint64
	if expected == 0 {
		number, err = bucket.Create(ctx, key, text)
	} else {
		number, err = bucket.Update(ctx, key, text, expected)
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); errors.Is(err, jetstream.ErrKeyExists) ||
		ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return 0, fmt.Errorf("%w: revision %d is no more the newest", ErrChanged, expected)
	}
	if err != nil {
		return 0, fmt.Errorf("put policy into %s: %w", names.PolicyBucket(), err)
	}
	return number, nil
}
