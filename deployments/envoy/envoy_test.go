// Package envoy_test reads the example configuration as Envoy does.
package envoy_test

import (
	"os"
	"testing"
	"time"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	filter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	manager "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	mutation "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	upstream "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

// The example says what Envoy's own definitions take, and what this service
// can answer.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	object, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	var config bootstrap.Bootstrap
	if err := protojson.Unmarshal(object, &config); err != nil {
		t.Fatal(err)
	}
	valid(t, &config)
	clusters := map[string]bool{}
	for _, cluster := range config.GetStaticResources().GetClusters() {
		clusters[cluster.GetName()] = true
		for _, options := range cluster.GetTypedExtensionProtocolOptions() {
			mustUnpack(t, options, &upstream.HttpProtocolOptions{})
		}
	}
	var http manager.HttpConnectionManager
	mustUnpack(t, config.GetStaticResources().GetListeners()[0].GetFilterChains()[0].GetFilters()[0].GetTypedConfig(), &http)
	mustUnpack(t, http.GetEarlyHeaderMutationExtensions()[0].GetTypedConfig(), &mutation.HeaderMutation{})
	var limits filter.RateLimit
	mustUnpack(t, http.GetHttpFilters()[0].GetTypedConfig(), &limits)
	mustUnpack(t, http.GetHttpFilters()[1].GetTypedConfig(), &router.Router{})
	if err := events.CheckToken("domain", limits.GetDomain()); err != nil {
		t.Error(err)
	}
	if got, least := limits.GetTimeout().AsDuration(), policy.Default().Timeout; got <= least || got > time.Second {
		t.Errorf("Envoy waits %v, the policy %v", got, least)
	}
	if name := limits.GetRateLimitService().GetGrpcService().GetEnvoyGrpc().GetClusterName(); !clusters[name] {
		t.Errorf("there is no cluster %q", name)
	}
}

// mustUnpack reads what stands in an extension's configuration.
func mustUnpack(t *testing.T, packed *anypb.Any, into validator) {
	t.Helper()
	if err := packed.UnmarshalTo(into); err != nil {
		t.Fatal(err)
	}
	valid(t, into)
}

type validator interface {
	proto.Message
	ValidateAll() error
}

func valid(t *testing.T, m validator) {
	t.Helper()
	if err := m.ValidateAll(); err != nil {
		t.Error(err)
	}
}
