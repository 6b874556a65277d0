package gateway_test

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/testenv"
)

// That a gateway of one tenant asks NATS for nothing else is seen to where it is
// let in to nothing else: in internal/access, under deployments/nats.
func TestTenant(t *testing.T) {
	nc := testenv.Connect(t, testenv.NATS(t))
	for _, tt := range []struct {
		config gateway.Config
		want   string
	}{
		{gateway.Config{Name: "shop-1", Tenant: "acme"}, "shards: want how many the limiters have"},
		{gateway.Config{Name: "shop-1", Tenant: "a.b", Shards: 1}, "tenant: want 1 to 64 characters"},
	} {
		if _, err := gateway.Connect(nc, tt.config); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.config, err, tt.want)
		}
	}
	client, err := gateway.Connect(nc, gateway.Config{Name: "shop-1", Tenant: "acme", Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const want = `tenant: want acme, the gateway's only one, found "evil"`
	if _, err := client.Check(t.Context(), gateway.Request{Tenant: "evil"}); err == nil || err.Error() != want {
		t.Errorf("a check of another tenant: %v", err)
	}
	if err := client.Report(t.Context(), gateway.Request{}, gateway.Request{Tenant: "evil"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a report of another tenant: %v", err)
	}
	if err := client.Outcome(t.Context(), gateway.Outcome{ID: "1"}, gateway.Outcome{ID: "1", Tenant: "evil"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("an outcome of another tenant: %v", err)
	}
}
