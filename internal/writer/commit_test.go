package writer_test

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// lossyProxy stands before Postgres and returns its URL. Of every other COMMIT
// the outcome is lost: the server commits, the client sees the connection end.
func (e *env) lossyProxy() (address string, lost *atomic.Int32) {
	e.Helper()
	u, err := url.Parse(e.url)
	if err != nil {
		e.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.Fatal(err)
	}
	p := &proxy{server: u.Host}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(client) })
		}
	})
	e.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	u.Host = l.Addr().String()
	return u.String(), &p.lost
}

type proxy struct {
	server  string
	commits atomic.Int32
	lost    atomic.Int32
}

// serve passes on one connection until it ends or loses a COMMIT's outcome.
func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	var deaf atomic.Bool // the server's next words are lost
	var answers sync.WaitGroup
	answers.Go(func() {
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil || deaf.Load() {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	defer answers.Wait()
	defer server.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("commit\x00")) && p.commits.Add(1)%2 == 0 {
			deaf.Store(true)
			p.lost.Add(1)
			_, _ = io.Copy(server, bytes.NewReader(buf[:n]))
			answers.Wait() // until it has said something
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A COMMIT whose outcome nobody hears is settled by the cursor.
func TestCommitsOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	through, lost := e.lossyProxy()
	w := e.start(through)
	for range 40 {
		e.blocks(1, 20)
		e.caughtUp()
	}
	e.everyRecordOnce()
	// Not if it takes a COMMIT of its own for another writer's. Of the last one it
	// may still have to learn.
	e.eventually("the writer knows of every row", func() bool { return w.metric(t, "rows_total") == float64(e.appended) })
	if err := w.stop(); err != nil { // before the proxy goes
		t.Error(err)
	}
	if n := lost.Load(); n < 10 {
		t.Errorf("the outcome of only %d COMMITs was lost", n)
	}
}
