package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// response is an answer on its way, of which status and size are noted.
type response struct {
	http.ResponseWriter
	status   int // 0 while there is none
	bytes    int64
	hijacked bool
}

// as returns a ResponseWriter that can flush and be hijacked if the one it writes
// to can: handlers look for that.
func (w *response) as() http.ResponseWriter {
	if _, ok := w.ResponseWriter.(http.Flusher); !ok {
		return w
	}
	if _, ok := w.ResponseWriter.(http.Hijacker); !ok {
		return flusher{w}
	}
	return hijacker{flusher{w}}
}

// final is the status that the client gets: 200 where a handler says none and
// returns, 500 where it panics instead, 0 where it speaks for itself.
func (w *response) final(returned bool) int64 {
	switch {
	case w.status != 0 || w.hijacked:
		return int64(w.status)
	case returned:
		return http.StatusOK
	}
	return http.StatusInternalServerError
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols { // others come before the final one
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) begin(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *response) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// WriteString spares a copy.
func (w *response) WriteString(s string) (int, error) {
	w.begin(http.StatusOK)
	n, err := io.WriteString(w.ResponseWriter, s)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom lets the server send files its own way.
func (w *response) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, src)
	if n > 0 {
		w.begin(http.StatusOK)
	}
	w.bytes += n
	return n, err
}

// flusher is a response that can be flushed.
type flusher struct{ *response }

func (w flusher) Flush() { _ = w.FlushError() }

func (w flusher) FlushError() error {
	w.begin(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// hijacker is one that can also be taken over.
type hijacker struct{ flusher }

func (w hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = w.hijacked || err == nil
	return conn, rw, err
}
