package events_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
)

func TestDecodeCommand(t *testing.T) {
	const form = `want a command such as {"id":"…","kind":"reset","rule":"per-minute","key":["42"],"by":"ann"}`
	for _, tt := range []struct{ payload, want string }{
		{`{`, form + `, found "{"`},
		{`[]`, form + `, found "array"`},
		{`{"id":1}`, `id: want a text, found "number"`},
		{`{"key":"42"}`, `key: want a list of texts such as ["42"], found "string"`},
		{`{"until":"soon"}`, `until: want a time such as 2026-05-17T10:05:03Z (RFC 3339), found "{\"until\":\"soon\"}"`},
		{`{"kind":"list","tenant":"x"}`, `want a field of a command: id, kind, rule, key, limit, until or by, found "tenant"`},
		{`{"kind":"list"} {}`, `want nothing after the command, found "{}"`},
		{`{"kind":"rset"}`, `kind: want reset, override, lift or list, found "rset"`},
		{`{"kind":"list"}`, ``},
		{`{"kind":"reset","id":"1","by":"ann","key":["42"]}`, ``},
		{`{"kind":"reset"}`, "id: want 1 to 128 bytes of UTF-8 without NUL, found nothing\n" +
			"by: want who asks, 1 to 1024 bytes of UTF-8 without NUL, found nothing\nkey: want the values of the rule's key, found nothing"},
		{`{"kind":"lift","id":"1","by":"ann","key":["a\u0000"]}`, "key[0]: want UTF-8 without NUL, at most 8192 bytes, found \"a\\x00\"\n" +
			"rule: want a rule of the tenant's, found nothing"},
		{`{"kind":"override","id":"1","by":"ann","rule":"r","key":["42"]}`, "limit: want units per time, such as 3000/min, or 0, found nothing\n" +
			"until: want a time from 2000 to 2091, found nothing"},
		{`{"kind":"override","id":"1","by":"ann","rule":"r","key":["42"],"limit":"1/s","until":"2026-11-23T14:32:25Z"}`, ``},
	} {
		_, err := events.DecodeCommand([]byte(tt.payload))
		if err == nil && tt.want != "" || err != nil && err.Error() != tt.want {
			t.Errorf("%s:\n got %v\nwant %s", tt.payload, err, tt.want)
		}
	}
}

// An explanation's decision is as decisions travel, and what says nothing is
// left out.
func TestExplanationJSON(t *testing.T) {
	want := events.Explanation{Decision: decision(), Rules: []events.ExplainedRule{
		{Rule: "per-minute", Charge: &events.ExplainedCharge{Key: "42", Limit: 256, WindowMS: 60_000, Cost: 1, Used: 256, ResetMS: 7000, RetryAfterMS: 6999,
			Override: events.OverrideCommand, Until: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}},
		{Rule: "posts", Mode: events.ModeShadow, Why: "methods: want POST, found GET"},
	}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got events.Explanation
	if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s\ndecodes to %+v, %v", text, got, err)
	}
	for _, part := range []string{`{"decision":{"id":"AO3272652345-000042017","verdict":"deny",`, `{"rule":"posts","mode":"shadow","why":"methods: want POST, found GET"}]}`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s\nlacks %s", text, part)
		}
	}
}
