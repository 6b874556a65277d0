// Package accesslog reads the access logs of web servers as requests: the
// common and the combined log format of nginx and Apache, and the JSON lines
// of nginx, Caddy and Traefik, plain or gzipped, also mixed in one file.
//
// What may hold secrets is left out: the query of a path and of a referer.
// Texts are cut to the bounds of package events, so that a request passes
// events.Request.Validate as soon as it has a tenant and a gateway. A log
// says nothing about either.
package accesslog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

// MaxLine is the longest line that is read, in bytes, its end included.
const MaxLine = 64 << 10

// maxQuoted is how much of a bad line is kept, in bytes.
const maxQuoted = 200

// Line is one line of a log.
type Line struct {
	Number  int // from 1, of the text and not of its compressed form; 0 of one that was parsed alone
	Request events.Request
	Tenant  string // whose it is, as the log says; not yet held against what a tenant may be
	Asked   string // the id under which Weir was asked whether the request may pass; empty: it was not asked
	Decided bool   // and it answered
}

// Fields are the names of JSON fields that a log of one's own making has.
type Fields struct {
	User   string // who makes the request; default: the usual names
	Tenant string // whose request it is; default: weir_tenant
}

// LineError is a line that could not be read. Reading goes on after it.
type LineError struct {
	Line int    // from 1; 0 of a line that was parsed alone
	Text string // the line, cut, as valid UTF-8
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

func (e *LineError) Unwrap() error { return e.Err }

// ErrTooLong says that a line is longer than MaxLine.
var ErrTooLong = fmt.Errorf("want a line of at most %d bytes", MaxLine)

// Reader reads one log.
type Reader struct {
	lines *bufio.Reader
	line  int
}

// Open opens a log for NewReader; "-" is the standard input, which is left
// open when the log is closed.
func Open(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	return os.Open(path)
}

// NewReader returns a reader of the log that r yields, gzipped or not. The
// error is that of the first read or of a broken gzip header.
func NewReader(r io.Reader) (*Reader, error) {
	lines := bufio.NewReaderSize(r, MaxLine)
	magic, err := lines.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(lines)
		if err != nil {
			return nil, err
		}
		lines = bufio.NewReaderSize(unzipped, MaxLine)
	}
	return &Reader{lines: lines}, nil
}

// Next returns the next line that is not blank. The error is a *LineError for
// one that cannot be read, after which Next goes on, io.EOF at the end, or
// what the log's own reader said, which ends it.
func (r *Reader) Next() (Line, error) {
	for {
		text, err := r.read()
		switch {
		case errors.Is(err, io.EOF):
			return Line{}, io.EOF
		case errors.Is(err, ErrTooLong):
			r.line++
			return Line{}, r.bad(text, err)
		case err != nil:
			return Line{}, fmt.Errorf("after line %d: %w", r.line, err)
		}
		r.line++
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		line, err := parse(string(text), Fields{})
		if err != nil {
			return Line{}, r.bad(text, err)
		}
		line.Number = r.line
		return line, nil
	}
}

// read returns one line, which the next read overwrites; of one that is too
// long the first bytes, and ErrTooLong.
func (r *Reader) read() ([]byte, error) {
	text, err := r.lines.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		start := bytes.Clone(text[:maxQuoted])
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.lines.ReadSlice('\n')
		}
		return start, ErrTooLong // what else ended the line, the next read meets again
	case errors.Is(err, io.EOF) && len(text) > 0:
		return text, nil // the last line has no end
	}
	return text, err // of a line that broke off, the error counts
}

func (r *Reader) bad(text []byte, err error) *LineError {
	return badLine(r.line, text, err)
}

func badLine(number int, text []byte, err error) *LineError {
	return &LineError{Line: number, Text: clean(string(text[:min(len(text), maxQuoted)]), maxQuoted), Err: err}
}

// Parse reads one line, of at most MaxLine bytes. The error is a *LineError.
func Parse(text []byte, fields Fields) (Line, error) {
	line, err := parse(string(bytes.TrimSpace(text)), fields)
	if err != nil {
		return Line{}, Bad(text, err)
	}
	return line, nil
}

// Bad returns what is wrong with a line that was read alone.
func Bad(text []byte, err error) *LineError { return badLine(0, text, err) }

func parse(line string, fields Fields) (Line, error) {
	if strings.HasPrefix(line, "{") {
		return parseJSON(line, fields)
	}
	request, err := parseCommon(line)
	return Line{Request: request}, err
}

// fault says what is wrong with a field of a line.
func fault(field, value, want string) error {
	return &events.FieldError{Field: field, Value: value, Want: want}
}

// present returns what a log says, or nothing for its sign for nothing.
func present(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

// beforeQuery cuts off the query and the fragment of a URL.
func beforeQuery(url string) string {
	if i := strings.IndexAny(url, "?#"); i >= 0 {
		return url[:i]
	}
	return url
}
