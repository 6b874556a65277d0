package accesslog

import (
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// commonTime is the time of the common log format, between brackets.
const commonTime = "02/Jan/2006:15:04:05 -0700"

// parseCommon reads a line of the common or the combined log format:
//
//	host ident user [time] "request" status bytes "referer" "user agent" …
//
// What follows is passed over, but for a decimal fraction, which is nginx's
// $request_time in seconds.
func parseCommon(line string) (events.Request, error) {
	var e entry
	var rest string
	var ok bool
	if e.client, rest, ok = strings.Cut(line, " "); ok {
		_, rest, ok = strings.Cut(rest, " ")
	}
	if !ok {
		return events.Request{}, fault("line", line, "the common or combined log format, or a JSON object")
	}
	e.client = present(e.client)
	if e.user, rest, e.time, ok = splitUser(rest); !ok {
		return events.Request{}, fault("time", rest, "a time such as [17/May/2015:10:05:03 +0000] after the user")
	}
	if e.line, rest, ok = quoted(rest); !ok {
		return events.Request{}, fault("request", rest, `a request in quotes such as "GET / HTTP/1.1"`)
	}
	e.line = present(e.line)
	e.status, rest = word(rest)
	e.bytesOut, rest = word(rest)
	if e.status == "" || e.bytesOut == "" {
		return events.Request{}, fault("status", e.status, "a status and a number of bytes after the request")
	}
	e.status, e.bytesOut = present(e.status), present(e.bytesOut)
	for _, text := range []*string{&e.referer, &e.userAgent} {
		if s, after, ok := quoted(rest); ok {
			*text, rest = present(s), after
		}
	}
	e.latency = requestTime(rest)
	return e.request()
}

// splitUser returns what stands before the time and what after: a user may
// hold blanks and brackets of its own.
func splitUser(s string) (user, rest string, at time.Time, ok bool) {
	for from := 0; ; {
		i := strings.IndexByte(s[from:], '[')
		if i < 0 {
			return "", s, at, false
		}
		i += from
		end := i + 1 + len(commonTime)
		if end < len(s) && s[end] == ']' && (i == 0 || s[i-1] == ' ') {
			var err error
			if at, err = time.Parse(commonTime, s[i+1:end]); err == nil {
				user = strings.TrimSuffix(s[:i], " ")
				if user == `""` {
					user = ""
				}
				return unescape(present(user)), s[end+1:], at, true
			}
		}
		from = i + 1
	}
}

// quoted reads a text in quotes and returns what follows it. A quote inside
// is escaped, or not followed by a blank.
func quoted(s string) (text, rest string, ok bool) {
	s = strings.TrimLeft(s, " ")
	if s == "" || s[0] != '"' {
		return "", s, false
	}
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '"' && (i+1 == len(s) || s[i+1] == ' '):
			return unescape(s[1:i]), s[i+1:], true
		}
	}
	return "", s, false
}

// word reads up to the next blank.
func word(s string) (text, rest string) {
	text, rest, _ = strings.Cut(strings.TrimLeft(s, " "), " ")
	return text, rest
}

// requestTime returns the first decimal fraction in s as seconds.
func requestTime(s string) time.Duration {
	for s != "" {
		if _, after, ok := quoted(s); ok {
			s = after
			continue
		}
		var w string
		if w, s = word(s); strings.IndexByte(w, '.') > 0 && strings.Trim(w, "0123456789.") == "" {
			return seconds(w)
		}
	}
	return 0
}

// seconds reads a number of seconds; what is none is 0.
func seconds(text string) time.Duration {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f > 0 && f < 1e9) {
		return 0
	}
	return time.Duration(f * float64(time.Second)).Round(time.Microsecond)
}

// unescape undoes what nginx and Apache do to quotes, backslashes and what is
// not printable.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = append(b, s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, c)
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'b':
			b = append(b, '\b')
		case 'v':
			b = append(b, '\v')
		case 'x':
			if n, err := strconv.ParseUint(s[i+1:min(i+3, len(s))], 16, 8); err == nil && i+2 < len(s) {
				b = append(b, byte(n))
				i += 2
				continue
			}
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', c)
		}
	}
	return string(b)
}
