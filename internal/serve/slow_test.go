package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/serve"
)

// pipes is a listener whose connections are in memory, so that time can be
// that of a bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error { close(p.done); return nil }

func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// mustRun serves in the bubble until the test ends.
func mustRun(t *testing.T, handler http.HandlerFunc) pipes {
	p := pipes{make(chan net.Conn), make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve.Run(ctx, p, handler, zap.NewNop()) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p
}

// Who keeps a connection is told to leave with an answer, and not cut off with the
// next request under way.
func TestKeptConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipes{make(chan net.Conn), make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan error, 1)
		go func() {
			ended <- serve.Run(ctx, p, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), zap.NewNop())
		}()
		conn := p.dial()
		defer conn.Close()
		answers := bufio.NewReader(conn)
		for _, wantClose := range []bool{false, true} {
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: weir\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			answer, err := http.ReadResponse(answers, nil)
			if err != nil || answer.Close != wantClose {
				t.Fatalf("%v, %v; want it to tell to leave: %v", answer, err, wantClose)
			}
			stop()
			synctest.Wait()
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Whoever sends slowly, or does not read, is cut off.
func TestSlowClients(t *testing.T) {
	for _, tt := range []struct {
		name, sends string
		want        string // first line of the answer
		after       time.Duration
	}{
		{"a header that does not end", "GET / HTTP/1.1\r\nHost: weir\r\nX: ", "", 5 * time.Second},
		{"nothing", "", "", 5 * time.Second},
		{"a body that does not end", "POST / HTTP/1.1\r\nHost: weir\r\nContent-Length: 10\r\n\r\nabc", "HTTP/1.1 400 Bad Request", 30 * time.Second},
		{"chunks that do not end", "POST / HTTP/1.1\r\nHost: weir\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "HTTP/1.1 400 Bad Request", 30 * time.Second},
		{"no further request", "GET / HTTP/1.1\r\nHost: weir\r\n\r\n", "HTTP/1.1 200 OK", 2 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := mustRun(t, func(w http.ResponseWriter, r *http.Request) {
					if _, err := io.ReadAll(r.Body); err != nil {
						w.WriteHeader(http.StatusBadRequest)
					}
				})
				start, conn := time.Now(), p.dial()
				defer conn.Close()
				if _, err := io.WriteString(conn, tt.sends); err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(conn)
				if line, _, _ := strings.Cut(string(answer), "\r\n"); line != tt.want || err != nil {
					t.Errorf("got %q, %v", answer, err)
				}
				if took := time.Since(start); took < tt.after || took > tt.after+2*time.Second {
					t.Errorf("cut off after %v, want %v", took, tt.after)
				}
			})
		})
	}
	t.Run("an answer that nobody reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gaveUp := make(chan error, 1)
			p := mustRun(t, func(w http.ResponseWriter, _ *http.Request) {
				_, err := w.Write(bytes.Repeat([]byte("x"), 1<<20))
				gaveUp <- err
			})
			start, conn := time.Now(), p.dial()
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: weir\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if err := <-gaveUp; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})
}

// Proxies pass on the end user's headers, which may be as large as the proxy takes.
func TestLargeHeaders(t *testing.T) {
	for size, want := range map[int]int{60 << 10: 200, 80 << 10: 431} {
		synctest.Test(t, func(t *testing.T) {
			p := mustRun(t, func(http.ResponseWriter, *http.Request) {})
			conn := p.dial()
			defer conn.Close()
			go func() { // a pipe holds nothing: who is refused is answered before all is read
				_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: weir\r\nConnection: close\r\nCookie: "+strings.Repeat("x", size)+"\r\n\r\n")
			}()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%d bytes: %d, want %d", size, resp.StatusCode, want)
			}
		})
	}
}
