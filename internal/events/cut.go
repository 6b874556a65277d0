package events

import (
	"strings"
	"unicode/utf8"
)

// Cut makes a text that came from outside one that every part can carry, of at
// most so many bytes: NUL and what is not UTF-8 become U+FFFD.
func Cut(s string, most int) string {
	const replacement = "\uFFFD"
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, replacement)
	}
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", replacement)
	}
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}
