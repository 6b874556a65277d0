package policy

import (
	"encoding/json"
	"strings"
)

// lookup returns the string, the number or the truth value that keys lead to
// in a JSON object; empty if there is none. Of equal keys the last counts, as
// in Postgres. The text has been validated: for other text it returns
// something or nothing, without a panic.
func lookup(object string, keys []string) string {
	w := walker{s: object}
	value := w.member(keys[0])
	for _, key := range keys[1:] {
		w = walker{s: value}
		value = w.member(key)
	}
	switch {
	case value == "" || value == "null" || value[0] == '{' || value[0] == '[':
		return ""
	case value[0] == '"':
		return unquote(value)
	}
	return value
}

// walker goes over the members of a JSON object.
type walker struct {
	s string
	i int
}

// member returns the text of a member's value; empty if there is none.
func (w *walker) member(name string) (value string) {
	if w.next() != '{' {
		return ""
	}
	w.i++
	for w.next() == '"' {
		key := w.skip()
		if w.next() != ':' {
			return value
		}
		w.i++
		if text := w.skip(); unquote(key) == name {
			value = text
		}
		if w.next() != ',' {
			return value
		}
		w.i++
	}
	return value
}

// each visits the members of an object or the elements of a list, which have
// no key.
func (w *walker) each(open byte, visit func(key, value string)) {
	if w.next() != open {
		return
	}
	w.i++
	for w.i < len(w.s) {
		key := ""
		if open == '{' {
			if key = w.skip(); w.next() != ':' {
				return
			}
			w.i++
		}
		text := w.skip()
		if text == "" {
			return
		}
		visit(key, text)
		if w.next() != ',' {
			return
		}
		w.i++
	}
}

// next passes over white space and returns the byte after it; 0 at the end.
func (w *walker) next() byte {
	for w.i < len(w.s) {
		switch c := w.s[w.i]; c {
		case ' ', '\t', '\n', '\r':
			w.i++
		default:
			return c
		}
	}
	return 0
}

// skip passes over a value and returns its text.
func (w *walker) skip() string {
	w.next()
	start, depth := w.i, 0
	for w.i < len(w.s) {
		switch w.s[w.i] {
		case '"':
			w.quoted()
			if depth == 0 {
				return w.s[start:w.i]
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return w.s[start:w.i]
			}
			if depth--; depth == 0 {
				w.i++
				return w.s[start:w.i]
			}
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return w.s[start:w.i]
			}
		}
		w.i++
	}
	return w.s[start:]
}

// quoted passes over a string.
func (w *walker) quoted() {
	for w.i++; w.i < len(w.s); w.i++ {
		switch w.s[w.i] {
		case '\\':
			w.i++
		case '"':
			w.i++
			return
		}
	}
	w.i = len(w.s)
}

// unquote returns what a JSON string stands for.
func unquote(text string) string {
	if strings.IndexByte(text, '\\') < 0 {
		return strings.TrimSuffix(strings.TrimPrefix(text, `"`), `"`)
	}
	var s string
	if json.Unmarshal([]byte(text), &s) != nil {
		return ""
	}
	return s
}
