package events_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/events"
)

// records are one of each kind.
func records() []events.Record {
	at := time.Date(2026, 11, 23, 14, 32, 25, 234567000, time.UTC)
	d := decision()
	bare := events.Decision{ID: d.ID, Verdict: events.Allow, Reason: events.ReasonNoRule, Cost: 1, Degraded: true, DecidedAt: at}
	shadowed := d
	shadowed.Violated = []string{"per-minute", "per-day"}
	shadowed.Shadow = []string{"a", `"b"`}
	return []events.Record{
		{Request: request(), Decision: d},
		{Request: request(), Decision: bare},
		{Request: request(), Decision: shadowed, Charges: []events.Charge{
			{Rule: "per-minute", Key: "42", Limit: 256, WindowMS: 60_000, Cost: 2, RetryAfterMS: 6_999, Denied: true},
			{Rule: "per-route", Key: `["42","/<é>"]`, Limit: 10, WindowMS: 1_000, Cost: 2, Remaining: 8, Charged: true, Buckets: 60},
			{Rule: "a", Key: "42", Limit: 1, WindowMS: 1_000, Cost: 2, Denied: true, Mode: events.ModeShadow},
		}},
		{Refused: &events.Refusal{Subject: "weir.report.0.acme.cli", Payload: []byte("{\x00\xff\n"), Error: "want UTF-8", At: at}},
		{Control: &events.Control{Kind: events.ControlOverride, ID: "c1", Tenant: "acme", Rule: "per-minute", Key: "42",
			Limit: 3000, WindowMS: 60_000, Until: at.Add(time.Hour), By: "ann", Policy: 3, At: at}},
		{Control: &events.Control{Kind: events.ControlReset, ID: "c2", Tenant: "acme", Rule: "per-route", Key: `["42","/<é>"]`, By: "ann", At: at}},
	}
}

// The lines of the journal, which stay readable for as long as it keeps them.
func TestAppendRecord(t *testing.T) {
	const request = `"request":{"id":"AO3272652345-000042017","tenant":"acme","gateway":"edge-1","time":"2026-11-23T14:32:25.123456Z",` +
		`"user":"42","api_key":"2bb80d537b1da3e3","ip":"203.0.113.7","method":"GET","host":"api.example.com",` +
		`"path":"/api/order/history/","route":"/api/order/history/","cost":2,"attrs":{"plan":"pro","addresses":[{"city":"Pune"}]}}`
	const bound = `"verdict":"deny","reason":"rule","rule":"per-minute","key":"42","limit":256,"window_ms":60000,` +
		`"remaining":0,"reset_ms":7000,"retry_after_ms":6999,"cost":2,`
	want := []string{
		`{` + request + `,"decision":{` + bound + `"policy":3,"decided_at":"2026-11-23T14:32:25.234567Z"}}`,
		`{` + request + `,"decision":{"verdict":"allow","reason":"no_rule","cost":1,"policy":0,"degraded":true,"decided_at":"2026-11-23T14:32:25.234567Z"}}`,
		`{` + request + `,"decision":{` + bound + `"violated":["per-minute","per-day"],"shadow":["a","\"b\""],"policy":3,"decided_at":"2026-11-23T14:32:25.234567Z"},` +
			`"rules":[{"rule":"per-minute","key":"42","limit":256,"window_ms":60000,"cost":2,"remaining":0,"retry_after_ms":6999,"denied":true},` +
			`{"rule":"per-route","key":"[\"42\",\"/<é>\"]","limit":10,"window_ms":1000,"cost":2,"remaining":8,"charged":true,"buckets":60},` +
			`{"rule":"a","key":"42","limit":1,"window_ms":1000,"cost":2,"remaining":0,"denied":true,"mode":"shadow"}]}`,
		`{"refused":{"subject":"weir.report.0.acme.cli","payload":"ewD/Cg==","error":"want UTF-8","at":"2026-11-23T14:32:25.234567Z"}}`,
		`{"control":{"kind":"override","id":"c1","tenant":"acme","rule":"per-minute","key":"42","limit":3000,"window_ms":60000,` +
			`"until":"2026-11-23T15:32:25.234567Z","by":"ann","policy":3,"at":"2026-11-23T14:32:25.234567Z"}}`,
		`{"control":{"kind":"reset","id":"c2","tenant":"acme","rule":"per-route","key":"[\"42\",\"/\u003cé\u003e\"]","limit":0,"by":"ann","policy":0,` +
			`"at":"2026-11-23T14:32:25.234567Z"}}`,
	}
	for i, r := range records() {
		line := events.AppendRecord([]byte("x"), &r)
		if string(line) != "x"+want[i] || events.IsControl(want[i]) != (r.Control != nil) {
			t.Errorf("record %d:\n got %s\nwant x%s", i, line, want[i])
		}
		var got events.Record
		if err := events.DecodeRecord(want[i], &got); err != nil || !sameRecord(got, r) {
			t.Errorf("record %d decodes to %+v, %v\nwant %+v", i, got, err, r)
		}
	}
}

// Nothing is left of the record that was in r before.
func TestDecodeRecordClears(t *testing.T) {
	all := records()
	lines := make([]string, len(all))
	for i := range all {
		lines[i] = string(events.AppendRecord(nil, &all[i]))
	}
	var got events.Record
	for i := range 4 * len(all) {
		pick := i * 5 % len(all) // every kind after another
		if err := events.DecodeRecord(lines[pick], &got); err != nil || !sameRecord(got, all[pick]) {
			t.Fatalf("%+v, %v\nwant %+v", got, err, all[pick])
		}
	}
}

// A report that could not be read is kept whatever it was: neither its subject
// nor its payload makes a line that cannot be read.
func TestRefusalsAlwaysFit(t *testing.T) {
	r := events.Record{Refused: &events.Refusal{
		Subject: "weir.report.0.\x00\xff\n.cli", Payload: bytes.Repeat([]byte{0xff}, events.MaxPayload+1), Error: "too long",
		At: time.Date(2026, 11, 23, 14, 32, 25, 0, time.UTC),
	}}
	line := events.AppendRecord(nil, &r)
	oneLine(t, line)
	var got events.Record
	if err := events.DecodeRecord(string(line), &got); err != nil {
		t.Fatal(err)
	}
	if want := "weir.report.0.\uFFFD\uFFFD\n.cli"; got.Refused.Subject != want {
		t.Errorf("subject %q, want %q", got.Refused.Subject, want)
	}
	if want := r.Refused.Payload[:events.MaxPayload]; !bytes.Equal(got.Refused.Payload, want) {
		t.Errorf("payload of %d bytes, want %d", len(got.Refused.Payload), len(want))
	}
	if len(r.Refused.Payload) != events.MaxPayload+1 || !strings.Contains(r.Refused.Subject, "\x00") {
		t.Error("the record was changed")
	}
}

func TestBadRecords(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{``, `want an object, found nothing`},
		{`[]`, `want an object, found "[]"`},
		{`{"request":{}`, `want a comma or the end of the object, found nothing`},
		{`{"request":{}} {`, `want nothing after the object, found "{"`},
		{"{\"request\":{\"id\":\"\xff\"}}", `want UTF-8, found "{\"request\":{\"id\":\"\xff\"}}"`},
		{`{"request":7}`, `want a JSON object, found "7}"`},
		{`{"decision":null}`, `want a JSON object, found "null}"`},
		{`{"decision":{"verdict":1}}`, `verdict: want a string, found "1}}"`},
		{`{"decision":{"reason":1}}`, `reason: want a string, found "1}}"`},
		{`{"decision":{"limit":-1}}`, `limit: want a whole number from 0 to 9223372036854775807, found "-1"`},
		{`{"decision":{"degraded":1}}`, `degraded: want true or false, found "1}}"`},
		{`{"decision":{"decided_at":"now"}}`, `decided_at: want a time such as 2026-05-17T10:05:03.5Z (RFC 3339), found "now"`},
		{`{"rules":{}}`, `rules: want a list, found "{}}"`},
		{`{"rules":[}`, `rules: want an object, found "}"`},
		{`{"rules":[{}}`, `rules: want a comma or the end of the list, found "}"`},
		{`{"rules":[{"rule":"r"]`, `rules: want a comma or the end of the object, found "]"`},
		{`{"rules":[{"limit":-1}]}`, `limit: want a whole number from 0 to 9223372036854775807, found "-1"`},
		{`{"control":{"limit":"1"}}`, `control: want json: cannot unmarshal string into Go struct field Control.limit of type int64, found "{\"limit\":\"1\"}"`},
		{`{"refused":{"payload":"?"}}`, `refused: want illegal base64 data at input byte 0, found "{\"payload\":\"?\"}"`},
	} {
		var r events.Record
		err := events.DecodeRecord(tt.line, &r)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q:\n got %v\nwant %s", tt.line, err, tt.want)
		}
	}
}

func TestBadDecisions(t *testing.T) {
	for _, tt := range []struct{ payload, want string }{
		{``, `want a JSON object, found nothing`},
		{`{}x`, `want nothing after the object, found "x"`},
		{"{\"key\":\"\xff\"}", `want UTF-8, found "{\"key\":\"\xff\"}"`},
		{`{"policy":-1}`, `policy: want a whole number from 0 to 9223372036854775807, found "-1"`},
		{`{"cost":9223372036854775808}`, `cost: want a whole number from 0 to 9223372036854775807, found "9223372036854775808"`},
	} {
		if _, err := events.DecodeDecision([]byte(tt.payload)); err == nil || err.Error() != tt.want {
			t.Errorf("%q:\n got %v\nwant %s", tt.payload, err, tt.want)
		}
	}
}

func TestValidRecordsRoundTrip(t *testing.T) {
	count := rapid.Int64Range(0, 1<<62)
	text := rapid.String().Filter(func(s string) bool { return !strings.ContainsRune(s, 0) })
	rapid.Check(t, func(rt *rapid.T) {
		want := events.Record{
			Request: requests().Draw(rt, "request"),
			Decision: events.Decision{
				Verdict:      rapid.SampledFrom([]events.Verdict{events.Allow, events.Deny}).Draw(rt, "verdict"),
				Reason:       rapid.SampledFrom([]events.Reason{events.ReasonRule, events.ReasonLate, events.ReasonExempt}).Draw(rt, "reason"),
				Rule:         text.Draw(rt, "rule"),
				Key:          text.Draw(rt, "key"),
				Limit:        count.Draw(rt, "limit"),
				WindowMS:     count.Draw(rt, "window"),
				Remaining:    count.Draw(rt, "remaining"),
				ResetMS:      count.Draw(rt, "reset"),
				RetryAfterMS: count.Draw(rt, "retry"),
				Cost:         count.Draw(rt, "cost"),
				Violated:     rapid.SliceOf(text).Draw(rt, "violated"),
				Shadow:       rapid.SliceOf(text).Draw(rt, "shadow"),
				Policy:       uint64(count.Draw(rt, "policy")),
				Degraded:     rapid.Bool().Draw(rt, "degraded"),
				DecidedAt:    time.UnixMicro(rapid.Int64Range(946684800e6, 3849984000e6-1).Draw(rt, "at")).UTC(),
			},
		}
		want.Decision = kept(want.Decision)
		want.Decision.ID = want.Request.ID
		for range rapid.IntRange(0, 3).Draw(rt, "charges") {
			want.Charges = append(want.Charges, events.Charge{
				Rule: text.Draw(rt, "rule"), Key: text.Draw(rt, "key"), Limit: count.Draw(rt, "limit"),
				WindowMS: count.Draw(rt, "window"), Cost: count.Draw(rt, "cost"), Remaining: count.Draw(rt, "remaining"),
				RetryAfterMS: count.Draw(rt, "retry"), Denied: rapid.Bool().Draw(rt, "denied"),
				Charged: rapid.Bool().Draw(rt, "charged"), Buckets: rapid.IntRange(0, 100).Draw(rt, "buckets"), Mode: rapid.SampledFrom([]string{"", events.ModeShadow}).Draw(rt, "mode"),
			})
		}
		line := events.AppendRecord(nil, &want)
		oneLine(t, line)
		var got events.Record
		if err := events.DecodeRecord(string(line), &got); err != nil || !sameRecord(got, want) {
			rt.Fatalf("%s\ndecodes to %+v, %v\nwant %+v", line, got, err, want)
		}
		answer := events.AppendDecision(nil, &want.Decision)
		oneLine(t, answer)
		if d, err := events.DecodeDecision(answer); err != nil || !sameRecord(events.Record{Decision: d}, events.Record{Decision: want.Decision}) {
			rt.Fatalf("%s\ndecodes to %+v, %v\nwant %+v", answer, d, err, want.Decision)
		}
	})
}
