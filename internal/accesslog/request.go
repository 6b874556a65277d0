package accesslog

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weirhq/weir/internal/events"
)

// Bounds of texts in attrs, in bytes: a JSON string takes at most two for each
// of a clean text, so that attrs stay below events.MaxAttrs.
const (
	maxAttr = 1 << 10 // of a referer or a user agent
	maxOdd  = 256     // of a client that is no address, or a request line that is none
)

// entry is what a log line says of one request, as text. What is empty is not
// known.
type entry struct {
	client    string
	user      string
	time      time.Time
	line      string // METHOD URL PROTOCOL; or else:
	method    string
	url       string
	host      string
	status    string
	bytesIn   string
	bytesOut  string
	latency   time.Duration
	referer   string
	userAgent string
}

// request makes a valid request of an entry.
func (e *entry) request() (r events.Request, err error) {
	if year := e.time.UTC().Year(); year < 2000 || year > 2091 {
		return r, fault("time", e.time.Format(time.RFC3339), "a time from 2000 to 2091")
	}
	r.Time = e.time.UTC().Truncate(time.Microsecond)
	if r.Status, err = number("status", e.status, 999); err != nil {
		return r, err
	}
	if r.BytesIn, err = number("bytes", e.bytesIn, events.MaxBytes); err != nil {
		return r, err
	}
	if r.BytesOut, err = number("bytes", e.bytesOut, events.MaxBytes); err != nil {
		return r, err
	}
	r.LatencyUS = min(max(e.latency.Microseconds(), 0), events.MaxLatency)

	a := attrs{}
	method, url := e.method, e.url
	if e.line != "" {
		var ok bool
		if method, url, ok = splitRequest(e.line); !ok {
			a.RequestLine = clean(beforeQuery(e.line), maxOdd)
		}
	}
	r.Method = events.Cut(method, events.MaxName)
	r.Host = events.Cut(events.Host(cmp.Or(hostOf(url), e.host)), events.MaxName)
	r.Path = events.Cut(events.Resolve(events.Path(beforeQuery(url))), events.MaxPath)
	r.User = events.Cut(e.user, events.MaxName)
	if r.IP = address(e.client); !r.IP.IsValid() {
		a.ClientHost = clean(e.client, maxOdd)
	}
	a.Referer = clean(beforeQuery(e.referer), maxAttr)
	a.UserAgent = clean(e.userAgent, maxAttr)
	r.Attrs = a.text()
	return r, nil
}

// attrs is what a log tells beyond a request's own fields.
type attrs struct {
	Referer     string `json:"referer,omitempty"`
	UserAgent   string `json:"user_agent,omitempty"`
	ClientHost  string `json:"client_host,omitempty"`  // a client that is no address
	RequestLine string `json:"request_line,omitempty"` // one that is not HTTP
}

func (a attrs) text() string {
	if a == (attrs{}) {
		return ""
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(a); err != nil {
		panic("accesslog: " + err.Error()) // strings, into memory
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// number reads a whole number; nothing is 0.
func number(field, text string, most int64) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, fault(field, text, "a whole number from 0 to "+strconv.FormatInt(most, 10))
	}
	return n, nil
}

// splitRequest splits a request line. A path may hold blanks; HTTP/0.9 has no
// protocol.
func splitRequest(line string) (method, url string, ok bool) {
	method, url, ok = strings.Cut(line, " ")
	if !ok || method == "" {
		return "", "", false
	}
	for i := range len(method) {
		if c := method[i]; (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-' && c != '_' {
			return "", "", false
		}
	}
	if i := strings.LastIndex(url, " HTTP/"); i >= 0 {
		url = url[:i]
	}
	return method, url, true
}

// hostOf returns the host of a URL that names one, as in a request to a proxy.
func hostOf(url string) string {
	for _, scheme := range []string{"http://", "https://"} {
		if rest, ok := strings.CutPrefix(beforeQuery(url), scheme); ok {
			host, _, _ := strings.Cut(rest, "/")
			return host[strings.LastIndexByte(host, '@')+1:]
		}
	}
	return ""
}

// address reads an IP address, also one in brackets or with a zone.
func address(text string) netip.Addr {
	text = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return addr.WithZone("").Unmap()
}

// clean cuts a text that people read, in which control characters become
// U+FFFD too.
func clean(s string, most int) string {
	for i := range len(s) {
		if s[i] < ' ' {
			s = strings.Map(func(r rune) rune {
				if r < ' ' {
					return utf8.RuneError
				}
				return r
			}, s)
			break
		}
	}
	return events.Cut(s, most)
}
