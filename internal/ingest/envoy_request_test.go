package ingest_test

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
)

// Whatever is asked becomes valid checks, one for each descriptor, that lose no
// entry. What is refused as wrong, before anything is charged, is so for its domain,
// its counts and its keys, never for values.
func TestEnvoyTakesWholeRequests(t *testing.T) {
	odd := rapid.StringOf(rapid.SampledFrom([]rune("ab?/\"\\\n\x00\x01é\u2028%:")))
	oddKey := rapid.StringOf(rapid.SampledFrom([]rune("ab?/\"\\\n\x01é\u2028")))
	key := rapid.OneOf(rapid.SampledFrom([]string{"user", "api_key", "ip", "method", "host", "path", "route"}),
		rapid.SampledFrom(slices.Sorted(maps.Keys(attributes))), oddKey)
	address := rapid.SampledFrom([]string{"192.0.2.7", "2001:db8::7", "2001:db8::/64", ""})
	value := rapid.OneOf(odd, odd, odd, rapid.SampledFrom([]string{strings.Repeat("x", 1025), strings.Repeat("é\"", 9000)}), address)
	domain := rapid.SampledFrom([]string{"acme", "acme", "acme", "", "acme.eu"})
	entries := rapid.Custom(func(t *rapid.T) (all []string) {
		for _, key := range rapid.SliceOfNDistinct(key, 0, 4, rapid.ID).Draw(t, "keys") {
			all = append(all, key, value.Draw(t, "value"))
		}
		return all
	})
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		request := &rls.RateLimitRequest{Domain: domain.Draw(t, "domain"), HitsAddend: rapid.Uint32().Draw(t, "hits")}
		for range rapid.IntRange(0, 2).Draw(t, "descriptors") {
			d := descriptor(entries.Draw(t, "entries")...)
			if rapid.Bool().Draw(t, "own") {
				adding(rapid.Uint64Range(0, 1<<32+1).Draw(t, "hits"), d)
			}
			request.Descriptors = append(request.Descriptors, d)
		}
		asked := make(chan events.Request, 32)
		s := deciding(allowed)
		s.check = func(_ context.Context, r events.Request) (events.Decision, error) {
			asked <- r
			return allowed, nil
		}
		limits := ingest.NewRateLimits(usual, s)
		response, err := limits.ShouldRateLimit(context.Background(), request)
		if err != nil {
			if status.Code(err) != codes.InvalidArgument || len(asked) > 0 {
				t.Fatalf("%v, after %d checks", err, len(asked))
			}
			for _, d := range request.GetDescriptors() {
				for _, e := range d.GetEntries() {
					e.Value = "x"
				}
			}
			if _, err := limits.ShouldRateLimit(context.Background(), request); err == nil {
				t.Fatal("refused for a value")
			}
			return
		}
		taken++
		if n := len(request.GetDescriptors()); len(asked) != n || len(response.GetStatuses()) != n {
			t.Fatalf("%d descriptors, %d checks, %d statuses", n, len(asked), len(response.GetStatuses()))
		}
		left := map[string]int{}
		for _, d := range request.GetDescriptors() {
			for _, e := range d.GetEntries() {
				if !attributes[e.GetKey()] {
					left[e.GetKey()]++
				}
			}
		}
		close(asked)
		for r := range asked {
			r.Gateway = "edge"
			r.APIKey = events.HashAPIKey(r.APIKey)
			if err := r.Validate(); err != nil {
				t.Errorf("%v of %+v", err, r)
			}
			attrs := map[string]string{}
			if r.Attrs != "" {
				if err := json.Unmarshal([]byte(r.Attrs), &attrs); err != nil {
					t.Errorf("%v in %s", err, r.Attrs)
				}
			}
			for key := range attrs {
				left[key]--
			}
		}
		for key, n := range left {
			if n != 0 {
				t.Errorf("%q is in %d entries more than it is in attrs", key, n)
			}
		}
	})
	if taken == 0 {
		t.Error("no request was taken")
	}
}

// attributes are the keys that stand for one of a request's own.
var attributes = map[string]bool{
	"user": true, "user_id": true, "api_key": true, "ip": true, "remote_address": true, "masked_remote_address": true,
	"method": true, ":method": true, "host": true, ":authority": true, "path": true, ":path": true, "route": true,
}
