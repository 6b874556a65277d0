package events_test

import (
	"testing"

	"github.com/weirhq/weir/internal/events"
)

func TestHost(t *testing.T) {
	for host, want := range map[string]string{
		"": "", "example.org": "example.org", "Example.ORG.:443": "example.org", "example.org:": "example.org",
		"[2001:DB8::1]:443": "2001:db8::1", "[2001:db8::1]": "2001:db8::1", "192.0.2.7:80": "192.0.2.7",
	} {
		if got := events.Host(host); got != want {
			t.Errorf("of %q: %q, want %q", host, got, want)
		}
	}
}

func TestPath(t *testing.T) {
	for target, want := range map[string]string{
		"": "", "/": "/", "/a%62?c=d/e": "/ab", "/a?b?c": "/a", "?a": "/", "*": "*", "//a": "//a", "/a b": "/a b",
		"/%zz%61": "/%zz%61", "/a#b": "/a#b", "/a%2F..%3fb": "/a/..?b", "/http://h/a": "/http://h/a", "/?http://h/a": "/",
		"http://h/a%62": "/ab", "HTTPS://u@h:1/a//b?c": "/a//b", "http://h": "/", "http://h?x": "/", "http:///a": "/a", "http://[v1.x]/a": "/a",
	} {
		if got := events.Path(target); got != want {
			t.Errorf("of %q: %q, want %q", target, got, want)
		}
	}
}

func TestResolve(t *testing.T) {
	for path, want := range map[string]string{
		"": "", "*": "*", "/": "/", "//": "/", "/a/": "/a/", "/a/..": "/", "/a/b/..": "/a/", "/a/.": "/a/", "/a//b/": "/a/b/",
		"/../a": "/a", "/free/.././/api/./x": "/api/x", "/.a": "/.a", "/a/..b": "/a/..b",
	} {
		if got := events.Resolve(path); got != want {
			t.Errorf("of %q: %q, want %q", path, got, want)
		}
	}
}
