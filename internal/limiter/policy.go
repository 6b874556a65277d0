package limiter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

const (
	policyKey     = "policy"
	policyHistory = 64 // revisions kept, the most that a bucket can
)

// OpenPolicy applies the policy file at path, if there is one, and returns the
// newest policy.
func OpenPolicy(ctx context.Context, js jetstream.JetStream, names events.Names, path string) (*policy.Policy, error) {
	if path == "" {
		return LoadPolicy(ctx, js, names)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p, err := ApplyPolicy(ctx, js, names, text)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", path, err)
	}
	return p, nil
}

// ApplyPolicy parses a policy's text and, unless it is what runs already, makes
// it the newest revision. A text that does not parse changes nothing.
func ApplyPolicy(ctx context.Context, js jetstream.JetStream, names events.Names, text []byte) (*policy.Policy, error) {
	p, err := policy.Parse(text)
	if err != nil {
		return nil, err
	}
	bucket, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: names.PolicyBucket(), Description: "versioned policies", History: policyHistory, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return nil, fmt.Errorf("make bucket %s: %w", names.PolicyBucket(), err)
	}
	current, err := bucket.Get(ctx, policyKey)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		p.Revision, err = bucket.Create(ctx, policyKey, text)
	case err != nil:
	case bytes.Equal(current.Value(), text):
		p.Revision = current.Revision()
	default:
		p.Revision, err = bucket.Update(ctx, policyKey, text, current.Revision())
	}
	if err != nil {
		return nil, fmt.Errorf("put policy into %s: %w", names.PolicyBucket(), err)
	}
	return p, nil
}

// LoadPolicy returns the newest revision, or the built-in policy when none was
// ever applied.
func LoadPolicy(ctx context.Context, js jetstream.JetStream, names events.Names) (*policy.Policy, error) {
	bucket, err := js.KeyValue(ctx, names.PolicyBucket())
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return policy.Default(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", names.PolicyBucket(), err)
	}
	entry, err := bucket.Get(ctx, policyKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return policy.Default(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read policy from %s: %w", names.PolicyBucket(), err)
	}
	p, err := policy.Parse(entry.Value())
	if err != nil {
		return nil, fmt.Errorf("policy revision %d: %w", entry.Revision(), err)
	}
	p.Revision = entry.Revision()
	return p, nil
}
