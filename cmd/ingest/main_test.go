package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/testenv"
)

// TestWithoutALimiter runs the service where nobody decides: requests pass,
// and what passed is reported before the service ends.
func TestWithoutALimiter(t *testing.T) {
	url := testenv.NATS(t)
	js, err := jetstream.New(testenv.Connect(t, url))
	if err != nil {
		t.Fatal(err)
	}
	names := events.Names{Prefix: "edge"}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: names.ReportsStream(), Subjects: []string{names.Reports(0)}})
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()

	t.Setenv("WEIR_PREFIX", "edge")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"--http-addr", addr, "--nats", url}) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get("http://" + addr + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("not ready: ", err)
		}
	}
	resp, err := http.Post("http://"+addr+"/v1/check", "application/json", strings.NewReader(`{"tenant":"acme","id":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"verdict":"allow","reason":"timeout"`) {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != 1 {
		t.Errorf("reported %+v, %v; want 1", info, err)
	}
}

func TestFaultsAreNamed(t *testing.T) {
	url := testenv.NATS(t)
	for _, tt := range []struct{ args, want string }{
		{"--http-addr :0", "--insecure"},
		{"--on-error maybe", `--on-error must be one of "allow","deny" but got "maybe"`},
		{"--http-addr 127.0.0.1:0 --nats ftp://x", "NATS URL"},
		{"--http-addr 127.0.0.1:0 --gateway a.b --shards 101 --nats " + url, "name: want 1 to 64 characters"},
		{"--http-addr 127.0.0.1:0 --gateway a.b --shards 101 --nats " + url, "shards: want 1 to 100"},
	} {
		err := run(t.Context(), strings.Fields(tt.args))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
}
