package events

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON from a string, so that the values it returns are
// substrings of it and cost nothing.
type scanner struct {
	s string // valid UTF-8
	i int
}

func scan(text string) (scanner, error) {
	if !utf8.ValidString(text) {
		return scanner{}, &FieldError{Value: text, Want: "UTF-8"}
	}
	return scanner{s: text}, nil
}

// fault describes what stands at the scanner's place.
func (p *scanner) fault(field, want string) error {
	rest := p.s[min(p.i, len(p.s)):]
	if len(rest) > maxShown {
		rest = rest[:maxShown+1]
	}
	return &FieldError{Field: field, Value: rest, Want: want}
}

func (p *scanner) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

// take consumes c, after white space, if it is next.
func (p *scanner) take(c byte) bool {
	p.space()
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

// finish refuses anything but white space after an object.
func (p *scanner) finish(field string) error {
	p.space()
	if p.i < len(p.s) {
		return p.fault(field, "nothing after the object")
	}
	return nil
}

// key reads the next key of the object that field names and stands before its
// value; more is false after the last one. first is true for the first call
// after the opening brace.
func (p *scanner) key(field string, first bool) (key string, more bool, err error) {
	if p.take('}') {
		return "", false, nil
	}
	if !first && !p.take(',') {
		return "", false, p.fault(field, "a comma or the end of the object")
	}
	p.space()
	if key, err = p.text(field); err != nil {
		return "", false, p.fault(field, "a key in quotes")
	}
	if !p.take(':') {
		return "", false, p.fault(field, "a colon after a key")
	}
	p.space()
	return key, true, nil
}

// null consumes a null, which counts as an absent field.
func (p *scanner) null() bool {
	if strings.HasPrefix(p.s[p.i:], "null") {
		p.i += len("null")
		return true
	}
	return false
}

// text reads a string. It allocates only when the string has escapes.
func (p *scanner) text(field string) (string, error) {
	start := p.i
	escaped, err := p.skipText(field)
	if err != nil {
		return "", err
	}
	if !escaped {
		return p.s[start+1 : p.i-1], nil
	}
	return unescape(p.s[start+1 : p.i-1]), nil
}

// unescape returns what a string with escapes that skipText has passed stands
// for. Keys of several attributes are such strings.
func unescape(s string) string {
	text := make([]byte, 0, len(s))
	for {
		at := strings.IndexByte(s, '\\')
		if at < 0 {
			return string(append(text, s...))
		}
		text = append(text, s[:at]...)
		s = s[at:]
		n := escapeLen(s)
		switch n {
		case 2:
			text = append(text, unescaped[strings.IndexByte(escapes, s[1])])
		case 6:
			text = utf8.AppendRune(text, rune(hex4(s)))
		default:
			text = utf8.AppendRune(text, utf16.DecodeRune(rune(hex4(s)), rune(hex4(s[6:]))))
		}
		s = s[n:]
	}
}

// escapes are the characters that follow a backslash, but u; unescaped is what
// they stand for.
const (
	escapes   = `"\/bfnrt`
	unescaped = "\"\\/\b\f\n\r\t"
)

// skipText passes over a string and tells whether it has escapes. It refuses
// what Postgres cannot store: NUL and halves of surrogate pairs.
func (p *scanner) skipText(field string) (escaped bool, err error) {
	if p.i >= len(p.s) || p.s[p.i] != '"' {
		return false, p.fault(field, "a string")
	}
	for i := p.i + 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.i = i + 1
			return escaped, nil
		case c < ' ':
			return false, p.fault(field, "a string without bare control characters")
		case c == '\\':
			escaped = true
			n := escapeLen(p.s[i:])
			if n == 0 {
				return false, p.fault(field, "a string without NUL, broken escapes or half surrogates")
			}
			i += n - 1
		}
	}
	return false, p.fault(field, "a string with its closing quote")
}

// escapeLen returns the length of the escape that s begins with, of both halves
// for a surrogate pair, or 0 if it is none or stands for no character.
func escapeLen(s string) int {
	if len(s) < 2 {
		return 0
	}
	if s[1] != 'u' {
		if strings.IndexByte(escapes, s[1]) >= 0 {
			return 2
		}
		return 0
	}
	r := hex4(s)
	switch {
	case r <= 0: // not hex, or NUL
		return 0
	case r >= 0xD800 && r < 0xDC00:
		if low := hex4(s[6:]); low >= 0xDC00 && low < 0xE000 {
			return 12
		}
		return 0
	case r >= 0xDC00 && r < 0xE000:
		return 0
	}
	return 6
}

// hex4 returns the code unit of a \uXXXX that s begins with, or -1.
func hex4(s string) int {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	r := 0
	for i := 2; i < 6; i++ {
		c := s[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | int(c)
	}
	return r
}

// integer reads a whole number from lowest to highest.
func (p *scanner) integer(field string, lowest, highest int64) (int64, error) {
	start := p.i
	if err := p.number(field); err != nil {
		p.i = start
		return 0, p.fault(field, "a whole number")
	}
	digits := p.s[start:p.i]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < lowest || n > highest {
		return 0, &FieldError{Field: field, Value: digits, Want: "a whole number from " +
			strconv.FormatInt(lowest, 10) + " to " + strconv.FormatInt(highest, 10)}
	}
	return n, nil
}

// number passes over a number, of which Postgres can store every digit.
func (p *scanner) number(field string) error {
	start := p.i
	digits := func() int {
		from := p.i
		for p.i < len(p.s) && '0' <= p.s[p.i] && p.s[p.i] <= '9' {
			p.i++
		}
		return p.i - from
	}
	if p.i < len(p.s) && p.s[p.i] == '-' {
		p.i++
	}
	whole := p.i
	if n := digits(); n == 0 || n > 1 && p.s[whole] == '0' {
		p.i = start
		return p.fault(field, "a value")
	}
	if p.i < len(p.s) && p.s[p.i] == '.' {
		p.i++
		if n := digits(); n == 0 || n > maxExponent {
			p.i = start
			return p.fault(field, "a number of at most 308 digits after its point")
		}
	}
	if p.i < len(p.s) && (p.s[p.i] == 'e' || p.s[p.i] == 'E') {
		p.i++
		if p.i < len(p.s) && (p.s[p.i] == '+' || p.s[p.i] == '-') {
			p.i++
		}
		from := p.i
		if digits() == 0 {
			p.i = start
			return p.fault(field, "a number")
		}
		if exp, err := strconv.Atoi(p.s[from:p.i]); err != nil || exp > maxExponent {
			p.i = start
			return p.fault(field, "a number with an exponent of at most 308")
		}
	}
	return nil
}

// maxExponent is the largest power of ten in a number: a float64's.
const maxExponent = 308

// boolean reads true or false.
func (p *scanner) boolean(field string) (bool, error) {
	for _, lit := range []struct {
		text  string
		value bool
	}{{"true", true}, {"false", false}} {
		if strings.HasPrefix(p.s[p.i:], lit.text) {
			p.i += len(lit.text)
			return lit.value, nil
		}
	}
	return false, p.fault(field, "true or false")
}

// instant reads a time in RFC 3339, to the microsecond, in UTC.
func (p *scanner) instant(field string) (time.Time, error) {
	text, err := p.text(field)
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, &FieldError{Field: field, Value: text, Want: "a time such as 2026-05-17T10:05:03.5Z (RFC 3339)"}
	}
	t = t.UTC().Truncate(time.Microsecond)
	if t.IsZero() { // it would pass for none
		return time.Time{}, &FieldError{Field: field, Value: text, Want: wantYear}
	}
	return t, nil
}

// value passes over any JSON value, nested no deeper than depth, and returns
// its text.
func (p *scanner) value(field string, depth int) (string, error) {
	p.space()
	start := p.i
	err := p.skip(field, depth)
	return p.s[start:p.i], err
}

func (p *scanner) skip(field string, depth int) error {
	p.space()
	if p.i >= len(p.s) {
		return p.fault(field, "a value")
	}
	switch p.s[p.i] {
	case '"':
		_, err := p.skipText(field)
		return err
	case '{':
		if depth == 0 {
			return p.fault(field, "nesting of at most "+strconv.Itoa(MaxDepth))
		}
		p.i++
		for first := true; ; first = false {
			_, more, err := p.key(field, first)
			if err != nil || !more {
				return err
			}
			if err := p.skip(field, depth-1); err != nil {
				return err
			}
		}
	case '[':
		if depth == 0 {
			return p.fault(field, "nesting of at most "+strconv.Itoa(MaxDepth))
		}
		p.i++
		for first := true; ; first = false {
			if p.take(']') {
				return nil
			}
			if !first && !p.take(',') {
				return p.fault(field, "a comma or the end of the list")
			}
			if err := p.skip(field, depth-1); err != nil {
				return err
			}
		}
	case 't', 'f':
		_, err := p.boolean(field)
		return err
	case 'n':
		if p.null() {
			return nil
		}
	default:
		start := p.i
		if err := p.number(field); err != nil {
			return err
		}
		if _, err := strconv.ParseFloat(p.s[start:p.i], 64); err != nil {
			p.i = start
			return p.fault(field, "a number below 1.8e308, as far as a float64 goes")
		}
		return nil
	}
	return p.fault(field, "a value")
}

// AppendText appends s as a JSON string. s must be valid UTF-8.
func AppendText(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			const digits = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

func appendInstant(dst []byte, t time.Time) []byte {
	dst = append(dst, '"')
	dst = t.UTC().Truncate(time.Microsecond).AppendFormat(dst, time.RFC3339Nano) // a layout that is fast
	return append(dst, '"')
}

// plain tells whether s is text that every part can carry.
func plain(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
