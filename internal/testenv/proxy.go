package testenv

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Passing is a message on its way between a NATS client and its server.
type Passing struct {
	ToServer bool
	Subject  string
	Payload  []byte // without headers
}

// Fate is what becomes of a message.
type Fate struct {
	After   []time.Duration // it arrives after these times, once for each; none: it is lost
	Instead []byte          // arrives in place of the payload, of a message without headers
	Cut     bool            // the connection breaks before it would arrive
}

// Arrives is the fate of a message that nothing happens to.
var Arrives = Fate{After: []time.Duration{0}}

// Proxy stands between NATS clients and their server until the test ends, and
// asks what is to become of each message; fate is called by several goroutines.
// It returns the URL to connect to.
func Proxy(tb testing.TB, server string, fate func(Passing) Fate) string {
	tb.Helper()
	u, err := url.Parse(server)
	if err != nil {
		tb.Fatal(err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var all sync.WaitGroup
	done := make(chan struct{})
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			all.Go(func() { relay(client, u.Host, fate, done) })
		}
	})
	tb.Cleanup(func() {
		close(done)
		listener.Close()
		all.Wait()
	})
	return "nats://" + listener.Addr().String()
}

// relay carries one connection until either side or the test ends it.
func relay(client net.Conn, addr string, fate func(Passing) Fate, done <-chan struct{}) {
	var dialer net.Dialer
	server, err := dialer.Dial("tcp", addr)
	if err != nil {
		_ = client.Close()
		return
	}
	ended := make(chan struct{})
	end := sync.OnceFunc(func() {
		close(ended)
		_ = client.Close()
		_ = server.Close()
	})
	var both sync.WaitGroup
	both.Go(func() {
		defer end()
		(&carrier{to: server, toServer: true, fate: fate}).carry(client)
	})
	both.Go(func() {
		defer end()
		(&carrier{to: client, fate: fate}).carry(server)
	})
	select {
	case <-ended:
	case <-done:
		end()
	}
	both.Wait()
}

// carrier carries one direction of a connection.
type carrier struct {
	toServer bool
	fate     func(Passing) Fate

	mu sync.Mutex // guards to: frames stay whole
	to net.Conn
}

func (c *carrier) write(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.to.Write(frame) // a connection that has ended is seen by whoever reads
}

// carry reads the NATS client protocol: lines, of which those of messages are
// followed by as many bytes as their last word says.
func (c *carrier) carry(from io.Reader) {
	r := bufio.NewReaderSize(from, 64<<10)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		if len(words) < 3 || !strings.HasSuffix(strings.ToUpper(words[0]), "MSG") && !strings.HasSuffix(strings.ToUpper(words[0]), "PUB") {
			c.write([]byte(line))
			continue
		}
		size, err := strconv.Atoi(words[len(words)-1])
		if err != nil {
			return
		}
		body := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		if !c.pass(words, line, body) {
			return
		}
	}
}

// pass lets one message have its fate, and tells whether the connection lives.
func (c *carrier) pass(words []string, line string, body []byte) bool {
	m := Passing{ToServer: c.toServer, Subject: words[1], Payload: body[:len(body)-2]}
	headers := words[0][0] == 'H' || words[0][0] == 'h'
	if headers { // of the size that the last word but one says
		if n, err := strconv.Atoi(words[len(words)-2]); err == nil && n <= len(m.Payload) {
			m.Payload = m.Payload[n:]
		}
	}
	f := c.fate(m)
	if f.Cut {
		return false
	}
	frame := append([]byte(line), body...)
	if f.Instead != nil && !headers {
		words[len(words)-1] = strconv.Itoa(len(f.Instead))
		frame = fmt.Appendf(nil, "%s\r\n%s\r\n", strings.Join(words, " "), f.Instead)
	}
	for _, after := range f.After {
		if after == 0 {
			c.write(frame)
		} else {
			time.AfterFunc(after, func() { c.write(frame) })
		}
	}
	return true
}
