package testenv_test

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/internal/testenv"
)

func TestEveryTestHasADatabaseOfItsOwn(t *testing.T) {
	first, second := testenv.Postgres(t), testenv.Postgres(t)
	if first == second {
		t.Fatal("two tests got one database")
	}
	for _, dsn := range []string{first, second} {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		var name string
		_, err = conn.Exec(t.Context(), "CREATE TABLE mine ()")
		err = errors.Join(err, conn.QueryRow(t.Context(), "SELECT current_database()").Scan(&name))
		if err := errors.Join(err, conn.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
		want, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if "/"+name != want.Path {
			t.Errorf("connected to %s, want %s", name, want.Path)
		}
	}
}

func TestNATSServesMessagesAndStreams(t *testing.T) {
	conn := testenv.Connect(t, testenv.NATS(t))
	js, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AccountInfo(); err != nil {
		t.Fatalf("JetStream: %v", err)
	}
}

func TestProcess(t *testing.T) {
	script := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ntrap 'echo drained; exit 0' TERM\necho ready\nwhile :; do sleep 0.02; done\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ready := func(p *testenv.Process) {
		testenv.Eventually(t, 10*time.Second, func() error {
			if p.Output() != "ready\n" {
				return errors.New("it said " + p.Output())
			}
			return nil
		})
	}
	stopped, killed := testenv.Start(t, script), testenv.Start(t, script)
	ready(stopped)
	ready(killed)
	if err := stopped.Stop(); err != nil || stopped.Output() != "ready\ndrained\n" {
		t.Errorf("Stop = %v after %q", err, stopped.Output())
	}
	killed.Kill()
	if killed.Output() != "ready\n" {
		t.Errorf("a killed program said %q", killed.Output())
	}
}

func TestRedisAndItsCluster(t *testing.T) {
	for name, client := range map[string]redis.UniversalClient{
		"single":  redis.NewClient(&redis.Options{Addr: strings.TrimPrefix(testenv.Redis(t), "redis://")}),
		"cluster": redis.NewClusterClient(&redis.ClusterOptions{Addrs: testenv.RedisCluster(t)}),
	} {
		for i := range 100 { // on every node
			if n, err := client.Incr(t.Context(), fmt.Sprint("key", i)).Result(); n != 1 || err != nil {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}
