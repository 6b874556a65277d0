package main_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

// A log that is followed, also by one weir tail after the other, is on record line
// by line.
func TestTail(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	limitertest.Start(t, nc)
	log := write(t, "access.log", "")
	number := 0
	add := func() {
		t.Helper()
		file, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		number++
		_, err = fmt.Fprintf(file, "192.0.2.7 - - [%s] \"GET /%d HTTP/1.1\" 200 12\n", time.Now().Format("02/Jan/2006:15:04:05 -0700"), number)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	program := testenv.Build(t, "./cmd/weir")
	for range 2 {
		add()
		p := testenv.Start(t, program, "tail", "--nats", url, "--tenant", "acme", "--gateway", "web-1", "--from-start", log)
		testenv.Eventually(t, 20*time.Second, func() error {
			if n := len(limitertest.Records(t, nc)); n != number {
				return fmt.Errorf("%d records, want %d", n, number)
			}
			return nil
		})
		add()
		testenv.Eventually(t, 20*time.Second, func() error {
			if n := len(limitertest.Records(t, nc)); n != number {
				return fmt.Errorf("%d records, want %d", n, number)
			}
			return nil
		})
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if text := p.Output(); !strings.Contains(text, "Following "+log+", from byte ") || !strings.Contains(text, "  lines      2\n") {
			t.Error(text)
		}
	}
	for i, r := range limitertest.Records(t, nc) {
		if r.Request.Path != fmt.Sprint("/", i+1) || r.Request.Tenant != "acme" || r.Request.Gateway != "web-1" || r.Decision.Cost != 1 {
			t.Errorf("record %d: %+v", i, r)
		}
	}
	for _, tt := range []struct{ args, want string }{
		{"--nats " + url + " --gateway a.b " + log, "name: want 1 to 64 characters"},
		{"--nats " + url + " --tenant a.b " + log, "tenant: want 1 to 64 characters"},
		{"--nats " + url + " " + t.TempDir(), "found a directory"},
	} {
		if out, err := weir(t, append([]string{"tail"}, strings.Fields(tt.args)...)...); err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("weir tail %s: %v, %s; want %s", tt.args, err, out, tt.want)
		}
	}
}
