package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/testenv"
)

// TestWithoutALimiter runs the service where nobody decides: what becomes of a
// request is what the policy, or a flag in its place, says, and it is reported
// before the service ends.
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
	t.Setenv("WEIR_PREFIX", "edge")
	for i, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{nil, http.StatusOK, `"verdict":"allow","reason":"timeout"`},
		{[]string{"--on-error", "deny", "--timeout", "1ms"}, http.StatusTooManyRequests, `"verdict":"deny","reason":"timeout"`},
	} {
		status, body := checkOnce(t, append(tt.args, "--nats", url))
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%v: %d %s", tt.args, status, body)
		}
		if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != uint64(i+1) {
			t.Errorf("reported %+v, %v; want %d", info, err, i+1)
		}
	}
}

// checkOnce runs the service for one check.
func checkOnce(t *testing.T, args []string) (status int, answer string) {
	t.Helper()
	addr := testenv.FreeAddr(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, append(args, "--http-addr", addr, "--grpc-addr", "127.0.0.1:0")) }()
	testenv.Eventually(t, 10*time.Second, func() error { return ready(addr) })
	resp, err := http.Post("http://"+addr+"/v1/check", "application/json", strings.NewReader(`{"tenant":"acme"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func ready(addr string) error {
	resp, err := http.Get("http://" + addr + "/readyz")
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func TestFaultsAreNamed(t *testing.T) {
	for _, tt := range []struct {
		args string
		want []string
	}{
		{"--on-error maybe", []string{`--on-error must be one of "allow","deny" but got "maybe"`}},
		{"--headers all", []string{"--headers: headers: want x-ratelimit, ietf"}},
		{"--http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0 --nats ftp://x", []string{"NATS URL"}},
		{"--tokens nowhere --tls-cert x --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0", []string{"--tokens: open ", "--tls-cert, --tls-key: want both or neither"}},
		{"--http-addr :0 --grpc-addr :0 --trusted-proxies some --gateway a.b --shards 101 --timeout=-1s", []string{
			"--http-addr: want a loopback host", "--grpc-addr: want a loopback host", "--trusted-proxies: proxies: want",
			"name: want 1 to 64 characters", "shards: want 1 to 100", "timeout: want a positive duration",
		}},
	} {
		err := run(t.Context(), strings.Fields(tt.args))
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", tt.args, err, want)
			}
		}
	}
}
