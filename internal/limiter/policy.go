package limiter

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
	current, err := CurrentPolicy(ctx, js, names)
	if err != nil {
		return nil, err
	}
	if p.Revision = current.Revision; current.Revision > 0 && bytes.Equal(current.Text, text) {
		return p, nil
	}
	p.Revision, err = PutPolicy(ctx, js, names, text, current.Revision)
	return p, err
}

// LoadPolicy returns the newest revision, or the built-in policy when none was
// ever applied.
func LoadPolicy(ctx context.Context, js jetstream.JetStream, names events.Names) (*policy.Policy, error) {
	current, err := CurrentPolicy(ctx, js, names)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(current.Text)
	if err != nil {
		return nil, fmt.Errorf("policy revision %d: %w", current.Revision, err)
	}
	p.Revision = current.Revision
	return p, nil
}

// PolicyRevision is a policy as it was applied. Nothing says that it parses.
type PolicyRevision struct {
	Revision uint64    // 0 is the built-in policy
	Applied  time.Time // zero of the built-in policy
	Text     []byte
}

// CurrentPolicy returns the newest revision.
func CurrentPolicy(ctx context.Context, js jetstream.JetStream, names events.Names) (PolicyRevision, error) {
	builtIn := PolicyRevision{Text: []byte(policy.DefaultSource())}
	bucket, err := js.KeyValue(ctx, names.PolicyBucket())
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return builtIn, nil
	}
	if err != nil {
		return builtIn, fmt.Errorf("open bucket %s: %w", names.PolicyBucket(), err)
	}
	entry, err := bucket.Get(ctx, policyKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return builtIn, nil
	}
	if err != nil {
		return builtIn, fmt.Errorf("read policy from %s: %w", names.PolicyBucket(), err)
	}
	return PolicyRevision{entry.Revision(), entry.Created().UTC(), entry.Value()}, nil
}

// PolicyHistory returns the revisions that are kept, the oldest first: the
// built-in policy and the last 64 that were applied.
func PolicyHistory(ctx context.Context, js jetstream.JetStream, names events.Names) ([]PolicyRevision, error) {
	list := []PolicyRevision{{Text: []byte(policy.DefaultSource())}}
	bucket, err := js.KeyValue(ctx, names.PolicyBucket())
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return list, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", names.PolicyBucket(), err)
	}
	entries, err := bucket.History(ctx, policyKey)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("read policies from %s: %w", names.PolicyBucket(), err)
	}
	for _, e := range entries {
		if e.Operation() == jetstream.KeyValuePut {
			list = append(list, PolicyRevision{e.Revision(), e.Created().UTC(), e.Value()})
		}
	}
	return list, nil
}

// ErrPolicyChanged says that another revision was applied meanwhile.
var ErrPolicyChanged = errors.New("another policy was applied meanwhile")

// PutPolicy makes a text the newest revision, whose number it returns, if the
// newest so far is the one expected. It is ErrPolicyChanged if not. That the
// text parses is for the caller to see to.
func PutPolicy(ctx context.Context, js jetstream.JetStream, names events.Names, text []byte, expected uint64) (uint64, error) {
	bucket, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: names.PolicyBucket(), Description: "versioned policies", History: policyHistory, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return 0, fmt.Errorf("make bucket %s: %w", names.PolicyBucket(), err)
	}
	var revision uint64
	if expected == 0 {
		revision, err = bucket.Create(ctx, policyKey, text)
	} else {
		revision, err = bucket.Update(ctx, policyKey, text, expected)
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); errors.Is(err, jetstream.ErrKeyExists) ||
		ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return 0, fmt.Errorf("%w: revision %d is no more the newest", ErrPolicyChanged, expected)
	}
	if err != nil {
		return 0, fmt.Errorf("put policy into %s: %w", names.PolicyBucket(), err)
	}
	return revision, nil
}
