package events

import (
	"cmp"
	"net/url"
	"path"
	"strings"
)

// Host is a request's host as rules know it: without what may be written in
// several ways, which are a port, brackets, a final dot and capitals.
func Host(host string) string {
	u := url.URL{Host: host}
	return strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
}

// Path is the path of a request's target as rules know it, unescaped, or as it is
// if that cannot be: of /a%62?c as of http://example.org/ab it is /ab.
func Path(target string) string {
	if target == "" {
		return "" // not known
	}
	escaped, _, _ := strings.Cut(target, "?")
	if scheme, rest, whole := strings.Cut(escaped, "://"); whole && !strings.Contains(scheme, "/") {
		host, _, _ := strings.Cut(rest, "/")
		escaped = rest[len(host):]
	}
	if plain, err := url.PathUnescape(escaped); err == nil {
		escaped = plain
	}
	return cmp.Or(escaped, "/")
}

// Resolve is a path as web servers look for what serves it: /free/..//api is /api.
// Who asks for it as that must not slip past the rules of /api.
func Resolve(target string) string {
	if !strings.Contains(target, "//") && !strings.Contains(target, "/.") {
		return target
	}
	clean := path.Clean(target)
	last := target[strings.LastIndexByte(target, '/')+1:]
	if clean != "/" && (last == "" || last == "." || last == "..") {
		clean += "/"
	}
	return clean
}
