package bus_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/weirhq/weir/internal/bus"
)

// start runs a NATS server until it is shut down or the test ends.
func start(t *testing.T, opts server.Options) *server.Server {
	t.Helper()
	opts.Host, opts.NoSigs, opts.NoLog = "127.0.0.1", true, true
	srv, err := server.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return srv
}

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return port
}

func address(port int) string { return "nats://127.0.0.1:" + strconv.Itoa(port) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still not: ", what)
		}
	}
}

func TestConnectWaitsForTheServer(t *testing.T) {
	port := freePort(t)
	core, logs := observer.New(zap.WarnLevel)
	type result struct {
		nc  *nats.Conn
		err error
	}
	got := make(chan result, 1)
	go func() {
		nc, err := bus.Connect(t.Context(), address(port), bus.Credentials{}, "waiter", zap.New(core))
		got <- result{nc, err}
	}()
	eventually(t, "a failed attempt is logged", func() bool { return logs.FilterMessage("no connection yet").Len() > 0 })
	start(t, server.Options{Port: port})
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.nc.Close()
	if r.nc.Opts.Name != "waiter" {
		t.Errorf("the connection's name is %q", r.nc.Opts.Name)
	}
}

func TestConnectionComesBack(t *testing.T) {
	port := freePort(t)
	srv := start(t, server.Options{Port: port})
	core, logs := observer.New(zap.InfoLevel)
	nc, err := bus.Connect(t.Context(), address(port), bus.Credentials{}, "stayer", zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub, err := nc.SubscribeSync("still.here")
	if err != nil {
		t.Fatal(err)
	}
	srv.Shutdown()
	srv.WaitForShutdown()
	eventually(t, "the loss is logged", func() bool { return logs.FilterMessage("connection lost").Len() > 0 })
	if err := nc.Publish("still.here", []byte("too late")); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Errorf("Publish without a connection: %v, want it refused at once", err)
	}
	start(t, server.Options{Port: port})
	eventually(t, "the return is logged", func() bool { return logs.FilterMessage("connected again").Len() > 0 })
	if err := nc.Publish("still.here", []byte("now")); err != nil {
		t.Fatal(err)
	}
	msg, err := sub.NextMsg(10 * time.Second)
	if err != nil || string(msg.Data) != "now" {
		t.Errorf("received %v, %v; want now", msg, err)
	}
}

func TestConnectGivesUp(t *testing.T) {
	secured := start(t, server.Options{Port: server.RANDOM_PORT, Username: "weir", Password: "right"})
	closed := address(freePort(t))
	for _, tt := range []struct {
		name, url string
		want      []string
	}{
		{"wrong password", strings.Replace(secured.ClientURL(), "://", "://weir:wr0ng@", 1), []string{"nats://…@127.0.0.1", "Authorization Violation"}},
		{"the context ends", closed, []string{closed, "no servers available"}},
		{"several, the context ends", closed + "," + strings.Replace(closed, "://", "://weir:wr0ng@", 1), []string{closed + ",nats://…@127.0.0.1", "no servers available"}},
		{"no host", "nats://", []string{"want one such as nats://127.0.0.1:4222"}},
		{"nothing", "", []string{"want one such as nats://127.0.0.1:4222"}},
		{"no port", "nats://weir:wr0ng@127.0.0.1:nats", []string{"want one such as", "nats://…@127.0.0.1:nats"}},
		{"another scheme", "http://weir:wr0ng@127.0.0.1:4222", []string{"want nats, tls, ws or wss"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			core, logs := observer.New(zap.DebugLevel)
			nc, err := bus.Connect(ctx, tt.url, bus.Credentials{}, "loser", zap.New(core))
			if err == nil {
				nc.Close()
				t.Fatal("connected")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			var told strings.Builder
			told.WriteString(err.Error())
			for _, entry := range logs.All() {
				told.WriteString(entry.Message + entry.ContextMap()["url"].(string))
			}
			if strings.Contains(told.String(), "wr0ng") {
				t.Errorf("the password is told: %s", told.String())
			}
		})
	}
}
