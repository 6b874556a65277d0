package events_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/events"
)

// acme begins a request that lacks nothing.
const acme = `{"tenant":"acme","gateway":"cli",`

const (
	wantToken  = "want 1 to 64 characters of A-Z a-z 0-9 _ -, found "
	wantTime   = "time: want a time such as 2026-05-17T10:05:03.5Z (RFC 3339), found "
	wantYear   = "time: want a time from 2000 to 2091, found "
	wantEscape = "want a string without NUL, broken escapes or half surrogates, found "
	wantCost   = "cost: want a whole number from 0 to 4294967296, found "
	wantNumber = "cost: want a whole number, found "
	wantReason = "reason: want local with verdict deny, or timeout with a verdict, found "
)

// badRequests are refused by DecodeRequest in strict mode or by Validate.
var badRequests = []struct{ payload, want string }{
	// No object.
	{``, `want a JSON object, found nothing`},
	{` `, `want a JSON object, found nothing`},
	{`null`, `want a JSON object, found "null"`},
	{`[]`, `want a JSON object, found "[]"`},
	{`GET / HTTP/1.1`, `want a JSON object, found "GET / HTTP/1.1"`},
	{"\ufeff{}", `want a JSON object, found "\ufeff{}"`},
	{`{`, `want a key in quotes, found nothing`},
	{`{tenant:"a"}`, `want a key in quotes, found "tenant:\"a\"}"`},
	{`{"tenant":"a",}`, `want a key in quotes, found "}"`},
	{`{,}`, `want a key in quotes, found ",}"`},
	{`{"tenant"}`, `want a colon after a key, found "}"`},
	{`{"tenant":"a" "gateway":"b"}`, `want a comma or the end of the object, found "\"gateway\":\"b\"}"`},
	{`{}x`, `want nothing after the object, found "x"`},
	{`{}{}`, `want nothing after the object, found "{}"`},
	{"{}\x00", `want nothing after the object, found "\x00"`},
	{strings.Repeat(" ", 64<<10+1), `want at most 65536 bytes, found "65537 bytes"`},
	{"{\"tenant\":\"\xff\"}", `want UTF-8, found "{\"tenant\":\"\xff\"}"`},
	{"{}\xed\xa0\x80", `want UTF-8, found "{}\xed\xa0\x80"`},

	// Wrong types.
	{`{"tenant":}`, `tenant: want a string, found "}"`},
	{`{"tenant":7}`, `tenant: want a string, found "7}"`},
	{`{"tenant":true}`, `tenant: want a string, found "true}"`},
	{`{"tenant":{}}`, `tenant: want a string, found "{}}"`},
	{`{"tenant":["a"]}`, `tenant: want a string, found "[\"a\"]}"`},
	{acme + `"time":0}`, `time: want a string, found "0}"`},
	{acme + `"cost":"1"}`, wantNumber + `"\"1\"}"`},
	{acme + `"cost":true}`, wantNumber + `"true}"`},
	{acme + `"cost":01}`, wantNumber + `"01}"`},
	{acme + `"cost":+1}`, wantNumber + `"+1}"`},

	// Tenant and gateway.
	{`{}`, "tenant: " + wantToken + "nothing\ngateway: " + wantToken + "nothing"},
	{`{"gateway":"cli"}`, "tenant: " + wantToken + "nothing"},
	{`{"tenant":null,"gateway":"cli"}`, "tenant: " + wantToken + "nothing"},
	{`{"tenant":"a.b","gateway":"c d"}`, "tenant: " + wantToken + "\"a.b\"\ngateway: " + wantToken + `"c d"`},
	{acme + `"tenant":"*"}`, "tenant: " + wantToken + `"*"`},
	{acme + `"tenant":">"}`, "tenant: " + wantToken + `">"`},
	{acme + `"tenant":"é"}`, "tenant: " + wantToken + `"é"`},
	{acme + `"tenant":"` + strings.Repeat("a", 65) + `"}`, "tenant: " + wantToken + `"` + strings.Repeat("a", 64) + `"…`},

	// Strings.
	{acme + `"user":"a`, `user: want a string with its closing quote, found "\"a"`},
	{acme + `"user":"a\`, "user: " + wantEscape + `"\"a\\"`},
	{acme + `"user":"\x"}`, "user: " + wantEscape + `"\"\\x\"}"`},
	{acme + `"user":"\u12g4"}`, "user: " + wantEscape + `"\"\\u12g4\"}"`},
	{acme + `"user":"a\u0000"}`, "user: " + wantEscape + `"\"a\\u0000\"}"`},
	{acme + "\"user\":\"a\x00\"}", `user: want a string without bare control characters, found "\"a\x00\"}"`},
	{acme + "\"user\":\"a\nb\"}", `user: want a string without bare control characters, found "\"a\nb\"}"`},
	{acme + `"user":"\ud800"}`, "user: " + wantEscape + `"\"\\ud800\"}"`},
	{acme + `"user":"\ud800\u0041"}`, "user: " + wantEscape + `"\"\\ud800\\u0041\"}"`},
	{acme + `"user":"\ud800\ue000"}`, "user: " + wantEscape + `"\"\\ud800\\ue000\"}"`},
	{acme + `"user":"\udc00\ud800"}`, "user: " + wantEscape + `"\"\\udc00\\ud800\"}"`},
	{acme + `"id":"` + strings.Repeat("é", 65) + `"}`,
		`id: want UTF-8 without NUL, at most 128 bytes, found "` + strings.Repeat("é", 32) + `"…`},
	{acme + `"user":"` + strings.Repeat("u", 1025) + `"}`,
		`user: want UTF-8 without NUL, at most 1024 bytes, found "` + strings.Repeat("u", 64) + `"…`},
	{acme + `"path":"` + strings.Repeat("/", 8193) + `"}`,
		`path: want UTF-8 without NUL, at most 8192 bytes, found "` + strings.Repeat("/", 64) + `"…`},

	// Numbers.
	{acme + `"cost":-1}`, wantCost + `"-1"`},
	{acme + `"cost":4294967297}`, wantCost + `"4294967297"`},
	{acme + `"cost":99999999999999999999999}`, wantCost + `"99999999999999999999999"`},
	{acme + `"cost":1.5}`, wantCost + `"1.5"`},
	{acme + `"cost":1e3}`, wantCost + `"1e3"`},
	{acme + `"count":0}`, `count: want a whole number from 1 to 4294967296, found "0"`},
	{acme + `"status":1000}`, `status: want a whole number from 0 to 999, found "1000"`},
	{acme + `"latency_us":-5}`, `latency_us: want a whole number from 0 to 1099511627776, found "-5"`},
	{acme + `"bytes_in":1125899906842625}`, `bytes_in: want a whole number from 0 to 1125899906842624, found "1125899906842625"`},
	{acme + `"bytes_out":-1}`, `bytes_out: want a whole number from 0 to 1125899906842624, found "-1"`},

	// Times.
	{acme + `"time":"x"}`, wantTime + `"x"`},
	{acme + `"time":""}`, wantTime + `nothing`},
	{acme + `"time":"2026-05-17 10:05:03Z"}`, wantTime + `"2026-05-17 10:05:03Z"`},
	{acme + `"time":"2026-05-17T10:05:03"}`, wantTime + `"2026-05-17T10:05:03"`},
	{acme + `"time":"2026-02-29T10:05:03Z"}`, wantTime + `"2026-02-29T10:05:03Z"`},
	{acme + `"time":"10000-01-01T00:00:00Z"}`, wantTime + `"10000-01-01T00:00:00Z"`},
	{acme + `"time":"0001-01-01T00:00:00Z"}`, wantYear + `"0001-01-01T00:00:00Z"`},
	{acme + `"time":"0001-01-01T00:00:01Z"}`, wantYear + `"0001-01-01T00:00:01Z"`},
	{acme + `"time":"1999-12-31T23:59:59.999999Z"}`, wantYear + `"1999-12-31T23:59:59Z"`},
	{acme + `"time":"2092-01-01T00:00:00Z"}`, wantYear + `"2092-01-01T00:00:00Z"`},
	{acme + `"time":"9999-12-31T23:59:59-01:00"}`, wantYear + `"10000-01-01T00:59:59Z"`},

	// Addresses.
	{acme + `"ip":"1.2.3"}`, `ip: want an IPv4 or IPv6 address, found "1.2.3"`},
	{acme + `"ip":"1.2.3.4:80"}`, `ip: want an IPv4 or IPv6 address, found "1.2.3.4:80"`},
	{acme + `"ip":"fe80::1%eth0"}`, `ip: want an IPv4 or IPv6 address, found "fe80::1%eth0"`},

	// Attrs.
	{acme + `"attrs":[]}`, `attrs: want an object, found "[]"`},
	{acme + `"attrs":"x"}`, `attrs: want an object, found "\"x\""`},
	{acme + `"attrs":{"a":}}`, `attrs: want a value, found "}}"`},
	{acme + `"attrs":{"a":nul}}`, `attrs: want a value, found "nul}}"`},
	{acme + `"attrs":{"a":[1,]}}`, `attrs: want a value, found "]}}"`},
	{acme + `"attrs":{"a":[1 2]}}`, `attrs: want a comma or the end of the list, found "2]}}"`},
	{acme + `"attrs":{"a":tru}}`, `attrs: want true or false, found "tru}}"`},
	{acme + `"attrs":{"a":-}}`, `attrs: want a value, found "-}}"`},
	{acme + `"attrs":{"a":01}}`, `attrs: want a value, found "01}}"`},
	{acme + `"attrs":{"a":1e}}`, `attrs: want a number, found "1e}}"`},
	{acme + `"attrs":{"a":1.}}`, `attrs: want a number of at most 308 digits after its point, found "1.}}"`},
	{acme + `"attrs":{"a":1e-309}}`, `attrs: want a number with an exponent of at most 308, found "1e-309}}"`},
	{acme + `"attrs":{"a":10e308}}`, `attrs: want a number below 1.8e308, as far as a float64 goes, found "10e308}}"`},
	{acme + `"attrs":{"a":"\u0000"}}`, "attrs: " + wantEscape + `"\"\\u0000\"}}"`},
	{acme + `"attrs":{"a\u0000":1}}`, `attrs: want a key in quotes, found "\"a\\u0000\":1}}"`},
	{acme + `"attrs":` + nested(33) + `}`, `attrs: want nesting of at most 32, found "{}` + strings.Repeat("}", 33) + `"`},
	{acme + `"attrs":` + strings.Repeat("[", 33) + `}`, `attrs: want nesting of at most 32, found "[}"`},
	{acme + `"attrs":{"a":"` + strings.Repeat("x", 8<<10) + `"}}`,
		`attrs: want at most 8192 bytes, found "{\"a\":\"` + strings.Repeat("x", 58) + `"…`},

	// Verdicts.
	{acme + `"verdict":"maybe"}`, `verdict: want allow or deny, found "maybe"`},
	{acme + `"reason":"rule"}`, wantReason + `"rule"`},
	{acme + `"verdict":"allow","reason":"local"}`, wantReason + `"local"`},
	{acme + `"reason":"timeout"}`, wantReason + `"timeout"`},
	{acme + `"verdict":"deny","rule":"per-minute"}`, `rule: want none without the reason local, found "per-minute"`},

	// Unknown fields.
	{acme + `"colour":"red"}`, `want a known field (others go under attrs), found "colour"`},
	{acme + `"Tenant":"x"}`, `want a known field (others go under attrs), found "Tenant"`},
	{acme + `"col\nour":1}`, `want a known field (others go under attrs), found "col\nour"`},
	{acme + `"` + strings.Repeat("k", 100) + `":1}`,
		`want a known field (others go under attrs), found "` + strings.Repeat("k", 64) + `"…`},
}

// nested returns an object nested so deep.
func nested(depth int) string {
	return strings.Repeat(`{"a":`, depth-1) + "{}" + strings.Repeat("}", depth-1)
}

func TestBadRequests(t *testing.T) {
	for _, tt := range badRequests {
		r, err := events.DecodeRequest([]byte(tt.payload), true)
		if err == nil {
			err = r.Validate()
		}
		if err == nil || err.Error() != tt.want {
			t.Errorf("%.120q:\n got %v\nwant %s", tt.payload, err, tt.want)
			continue
		}
		presentable(t, err)
		if _, ok := errors.AsType[*events.FieldError](err); !ok {
			t.Errorf("%.120q: %v holds no FieldError", tt.payload, err)
		}
	}
}

// goodRequests are accepted, in strict mode too.
var goodRequests = []struct {
	name, payload string
	want          events.Request
}{
	{"nulls are absent", acme + `"user":null,"cost":null,"attrs":null,"time":null,"ip":null,"colour":null}`, events.Request{}},
	{"the last of two counts", acme + `"user":"a","user":"b","cost":0,"cost":3}`, events.Request{User: "b", Cost: 3}},
	{"a null after a value", acme + `"user":"a","user":null}`, events.Request{User: "a"}},
	{"cost 0 is a peek", acme + `"cost":0}`, events.Request{Peek: true}},
	{"cost -0 is a peek", acme + `"cost":-0}`, events.Request{Peek: true}},
	{"cost 1 stays", acme + `"cost":1,"count":1}`, events.Request{Cost: 1, Count: 1}},
	{"white space", " {\"tenant\" :\t\"acme\"\r\n,\"gateway\": \"cli\" , \"user\":\"a\"} \n", events.Request{User: "a"}},
	{"escapes", acme + `"user":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00","p\u0061th":"/"}`, events.Request{User: "\"\\/\b\f\n\r\té😀", Path: "/"}},
	{"bare Unicode", acme + `"user":"é😀` + "\u2028\u007f" + `"}`, events.Request{User: "é😀\u2028\u007f"}},
	{"a time with an offset", acme + `"time":"2026-11-23T16:32:25.1234567+02:00"}`, events.Request{Time: time.Date(2026, 11, 23, 14, 32, 25, 123456000, time.UTC)}},
	{"the first time", acme + `"time":"2000-01-01T00:00:00Z"}`, events.Request{Time: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}},
	{"the last time", acme + `"time":"2091-12-31T23:59:59.9999999Z"}`, events.Request{Time: time.Date(2091, 12, 31, 23, 59, 59, 999999000, time.UTC)}},
	{"an IPv4 address", acme + `"ip":"203.0.113.7"}`, events.Request{IP: netip.MustParseAddr("203.0.113.7")}},
	{"an IPv4 address as IPv6", acme + `"ip":"::ffff:203.0.113.7"}`, events.Request{IP: netip.MustParseAddr("203.0.113.7")}},
	{"an IPv6 address", acme + `"ip":"2001:DB8::1"}`, events.Request{IP: netip.MustParseAddr("2001:db8::1")}},
	{"an empty address", acme + `"ip":""}`, events.Request{}},
	{"deep attrs", acme + `"attrs":` + nested(32) + `}`, events.Request{Attrs: nested(32)}},
	{"attrs as they came", acme + `"attrs": {"b" : [1.50, -0.0e+3, true,null, "\u00e9"], "a":{}} }`, events.Request{Attrs: `{"b" : [1.50, -0.0e+3, true,null, "\u00e9"], "a":{}}`}},
	{"attrs over lines", acme + "\"attrs\":{\"a\":\n1,\r\n\"b\":[]}}", events.Request{Attrs: "{\"a\":\n1,\r\n\"b\":[]}"}},
	{"a local denial", acme + `"verdict":"deny","reason":"local","count":4294967296}`, events.Request{Verdict: events.Deny, Reason: events.ReasonLocal, Count: 1 << 32}},
	{"a local denial by a rule", acme + `"verdict":"deny","reason":"local","rule":"per-minute"}`, events.Request{Verdict: events.Deny, Reason: events.ReasonLocal, Rule: "per-minute"}},
	{"let through", acme + `"verdict":"allow","reason":"timeout","status":200,"latency_us":5,"bytes_in":1,"bytes_out":1125899906842624}`, events.Request{
		Verdict: events.Allow, Reason: events.ReasonTimeout, Status: 200, LatencyUS: 5, BytesIn: 1, BytesOut: 1 << 50}},
	{"the longest id", acme + `"id":"` + strings.Repeat("é", 64) + `"}`, events.Request{ID: strings.Repeat("é", 64)}},
}

func TestGoodRequests(t *testing.T) {
	for _, tt := range goodRequests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Tenant, tt.want.Gateway = "acme", "cli"
			got, err := events.DecodeRequest([]byte(tt.payload), true)
			if err != nil || got != tt.want {
				t.Fatalf("got %+v, %v\nwant %+v", got, err, tt.want)
			}
			if err := got.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDecodeRequestBounds(t *testing.T) {
	payload := acme + `"path":"/"}`
	payload += strings.Repeat(" ", events.MaxPayload-len(payload))
	if _, err := events.DecodeRequest([]byte(payload), true); err != nil {
		t.Errorf("%d bytes: %v", len(payload), err)
	}
	if _, err := events.DecodeRequest([]byte(acme+`"colour":`+nested(32)+`}`), false); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
	const want = `want nesting of at most 32, found "{}`
	if _, err := events.DecodeRequest([]byte(acme+`"colour":`+nested(33)+`}`), false); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a deep unknown field: %v, want %s", err, want)
	}
}

// A decoded request does not hold on to the payload's bytes.
func TestDecodeRequestCopies(t *testing.T) {
	payload := []byte(acme + `"user":"abc"}`)
	r, err := events.DecodeRequest(payload, true)
	clear(payload)
	if err != nil || r.User != "abc" || r.Tenant != "acme" {
		t.Errorf("%+v, %v", r, err)
	}
}

// Requests made in Go meet the same bounds as those decoded.
func TestValidateNamesEveryFault(t *testing.T) {
	r := events.Request{
		Tenant: "a b", Gateway: "g", Time: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), ID: "\x00", Host: "\xff",
		Cost: -1, Count: -2, Status: 1000, LatencyUS: -3, BytesIn: -4, BytesOut: -5, Attrs: ` {}`,
	}
	const want = `tenant: want 1 to 64 characters of A-Z a-z 0-9 _ -, found "a b"
time: want a time from 2000 to 2091, found "1999-01-01T00:00:00Z"
id: want UTF-8 without NUL, at most 128 bytes, found "\x00"
host: want UTF-8 without NUL, at most 1024 bytes, found "\xff"
cost: want a whole number from 0 to 4294967296, found "-1"
status: want a whole number from 0 to 999, found "1000"
latency_us: want a whole number from 0 to 1099511627776, found "-3"
bytes_in: want a whole number from 0 to 1125899906842624, found "-4"
bytes_out: want a whole number from 0 to 1125899906842624, found "-5"
count: want a whole number from 0 to 4294967296, found "-2"
attrs: want an object, found " {}"`
	if err := r.Validate(); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	for attrs, want := range map[string]string{
		"{}x":        `attrs: want nothing after the object, found "x"`,
		"{\"\xff\"}": `attrs: want UTF-8, found "{\"\xff\"}"`,
		nested(33):   `attrs: want nesting of at most 32, found "{}` + strings.Repeat("}", 32) + `"`,
	} {
		r := events.Request{Tenant: "t", Gateway: "g", Attrs: attrs}
		if err := r.Validate(); err == nil || err.Error() != want {
			t.Errorf("attrs %q: %v, want %s", attrs, err, want)
		}
	}
}

func TestIdentityAndUnits(t *testing.T) {
	r := events.Request{}
	if r.Identity() != "" || r.Units() != 1 {
		t.Errorf("nobody: %q, %d units", r.Identity(), r.Units())
	}
	r.IP, r.Cost = netip.MustParseAddr("2001:db8::1"), 7
	if r.Identity() != "2001:db8::1" || r.Units() != 7 {
		t.Errorf("an address: %q, %d units", r.Identity(), r.Units())
	}
	// printf secret | sha256sum | cut -c1-16
	if r.APIKey = events.HashAPIKey("secret"); r.Identity() != "2bb80d537b1da3e3" {
		t.Errorf("a key: %q", r.Identity())
	}
	r.User, r.Peek = "42", true
	if r.Identity() != "42" || r.Units() != 0 {
		t.Errorf("a user: %q, %d units", r.Identity(), r.Units())
	}
	if got := events.HashAPIKey(""); got != "" {
		t.Errorf("no key: %q", got)
	}
}

// requests draws valid ones.
func requests() *rapid.Generator[events.Request] {
	text := func(most int) *rapid.Generator[string] {
		return rapid.StringN(0, 40, most).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) })
	}
	token := rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`)
	return rapid.Custom(func(t *rapid.T) events.Request {
		r := events.Request{
			ID: text(128).Draw(t, "id"), Tenant: token.Draw(t, "tenant"), Gateway: token.Draw(t, "gateway"),
			User: text(1024).Draw(t, "user"), APIKey: text(1024).Draw(t, "api_key"),
			Method: text(1024).Draw(t, "method"), Host: text(1024).Draw(t, "host"),
			Path: text(8192).Draw(t, "path"), Route: text(8192).Draw(t, "route"),
			Cost: rapid.Int64Range(0, events.MaxCost).Draw(t, "cost"), Status: rapid.Int64Range(0, 999).Draw(t, "status"),
			LatencyUS: rapid.Int64Range(0, events.MaxLatency).Draw(t, "latency"),
			BytesIn:   rapid.Int64Range(0, events.MaxBytes).Draw(t, "in"), BytesOut: rapid.Int64Range(0, events.MaxBytes).Draw(t, "out"),
			Count: rapid.Int64Range(0, events.MaxCount).Draw(t, "count"),
		}
		if rapid.Bool().Draw(t, "timed") {
			r.Time = time.UnixMicro(rapid.Int64Range(946684800e6, 3849984000e6-1).Draw(t, "time")).UTC()
		}
		if r.Cost == 0 {
			r.Peek = rapid.Bool().Draw(t, "peek")
		}
		if ip := rapid.SliceOfN(rapid.Byte(), 0, 16).Draw(t, "ip"); len(ip) == 4 || len(ip) == 16 {
			addr, _ := netip.AddrFromSlice(ip)
			r.IP = addr.Unmap()
		}
		if attrs := rapid.MapOf(text(64), text(64)).Draw(t, "attrs"); len(attrs) > 0 {
			object, err := json.Marshal(attrs)
			if err != nil {
				t.Fatal(err)
			}
			r.Attrs = string(object)
		}
		r.Verdict = rapid.SampledFrom([]events.Verdict{"", events.Allow, events.Deny}).Draw(t, "verdict")
		if r.Verdict != "" {
			r.Reason = rapid.SampledFrom([]events.Reason{"", events.ReasonTimeout}).Draw(t, "reason")
			if r.Verdict == events.Deny && rapid.Bool().Draw(t, "local") {
				r.Reason, r.Rule = events.ReasonLocal, text(64).Draw(t, "rule")
			}
		}
		return r
	})
}

func TestValidRequestsRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := requests().Draw(rt, "request")
		if err := want.Validate(); err != nil {
			if len(want.Attrs) > events.MaxAttrs {
				rt.Skip("attrs too long")
			}
			rt.Fatal(err)
		}
		line := events.AppendRequest([]byte("x"), &want)
		oneLine(t, line[1:])
		if got, err := events.DecodeRequest(line[1:], true); err != nil || got != want {
			rt.Fatalf("%s\ndecodes to %+v, %v\nwant %+v", line, got, err, want)
		}
	})
}
