package answer

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

// Headers are the kinds of headers that tell of a limit, beside Retry-After.
type Headers uint8

// The kinds of headers. Their times are in seconds, rounded up.
const (
	XRateLimit Headers = 1 << iota // X-RateLimit-Limit, -Remaining and -Reset, which most clients know
	IETF                           // RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers

	AllHeaders = XRateLimit | IETF
)

var headerNames = map[string]Headers{"x-ratelimit": XRateLimit, "ietf": IETF, "none": 0}

// UnmarshalText reads a list such as x-ratelimit,ietf, or none.
func (k *Headers) UnmarshalText(text []byte) error {
	*k = 0
	for word := range strings.SplitSeq(string(text), ",") {
		kind, ok := headerNames[strings.TrimSpace(word)]
		if !ok {
			return &events.FieldError{Field: "headers", Value: word, Want: "x-ratelimit, ietf, both with a comma between, or none"}
		}
		*k |= kind
	}
	return nil
}

// SetLimits tells of the rule that bound a request, if any did, and when one
// that is denied may come again. The names are spelled as they are usually
// written.
func SetLimits(h http.Header, d *events.Decision, kinds Headers) {
	if d.Verdict == events.Deny && (d.RetryAfterMS > 0 || undecided(d)) {
		h["Retry-After"] = []string{decimal(max(seconds(d.RetryAfterMS), 1))}
	}
	if d.Rule == "" || kinds == 0 {
		return
	}
	name := appendString(make([]byte, 0, 64), d.Rule)
	policy := appendParam(name, 'q', d.Limit)
	if d.WindowMS > 0 { // else it is a ban
		policy = appendParam(policy, 'w', max(seconds(d.WindowMS), 1))
	}
	reset := seconds(cmp.Or(d.ResetMS, d.RetryAfterMS))
	limit, remaining := decimal(d.Limit), decimal(d.Remaining)
	values := [...]string{limit, remaining, decimal(reset), string(policy), ""}
	left := appendParam(name, 'r', d.Remaining)
	// Who can never pass is not told of a time at which more can.
	never := d.Verdict == events.Deny && d.RetryAfterMS == 0
	if !never {
		left = appendParam(left, 't', reset)
	}
	values[4] = string(left)
	if kinds&XRateLimit != 0 {
		h["X-RateLimit-Limit"] = values[0:1:1]
		h["X-RateLimit-Remaining"] = values[1:2:2]
		if !never {
			h["X-RateLimit-Reset"] = values[2:3:3]
		}
	}
	if kinds&IETF != 0 {
		h["RateLimit-Policy"] = values[3:4:4]
		h["RateLimit"] = values[4:5:5]
	}
}

// seconds rounds up.
func seconds(ms int64) int64 {
	if ms <= 0 {
		return 0
	}
	return (ms-1)/1000 + 1
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// maxInteger is the largest Integer of a structured field (RFC 9651, 3.3.1).
const maxInteger = 999_999_999_999_999

func appendParam(dst []byte, name byte, value int64) []byte {
	return strconv.AppendInt(append(dst, ';', name, '='), min(value, maxInteger), 10)
}

// appendString appends a String of a structured field (RFC 9651, 3.3.3), which
// is ASCII alone: bytes beyond are written as %XX.
func appendString(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c > '~':
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
