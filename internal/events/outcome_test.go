package events_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/events"
)

// acmes begins an outcome that lacks nothing.
const acmes = `{"id":"1","tenant":"acme","gateway":"cli",`

// badOutcomes are refused by DecodeOutcome in strict mode or by Validate.
var badOutcomes = []struct{ payload, want string }{
	{``, `want a JSON object, found nothing`},
	{`[]`, `want a JSON object, found "[]"`},
	{`{}{}`, `want nothing after the object, found "{}"`},
	{strings.Repeat(" ", 4<<10+1), `want at most 4096 bytes, found "4097 bytes"`},
	{"{\"id\":\"\xff\"}", `want UTF-8, found "{\"id\":\"\xff\"}"`},
	{`{}`, "tenant: " + wantToken + "nothing\ngateway: " + wantToken + "nothing\nid: want the request's, found nothing"},
	{`{"id":null,"tenant":"acme","gateway":"cli"}`, "id: want the request's, found nothing"},
	{`{"id":7}`, `id: want a string, found "7}"`},
	{acmes + `"id":"` + strings.Repeat("é", 65) + `"}`,
		`id: want UTF-8 without NUL, at most 128 bytes, found "` + strings.Repeat("é", 32) + `"…`},
	{acmes + `"id":"a\u0000"}`, "id: " + wantEscape + `"\"a\\u0000\"}"`},
	{acmes + `"time":"x"}`, wantTime + `"x"`},
	{acmes + `"time":"2092-01-01T00:00:00Z"}`, wantYear + `"2092-01-01T00:00:00Z"`},
	{acmes + `"status":1000}`, `status: want a whole number from 0 to 999, found "1000"`},
	{acmes + `"status":"200"}`, `status: want a whole number, found "\"200\"}"`},
	{acmes + `"latency_us":-5}`, `latency_us: want a whole number from 0 to 1099511627776, found "-5"`},
	{acmes + `"bytes_in":1125899906842625}`, `bytes_in: want a whole number from 0 to 1125899906842624, found "1125899906842625"`},
	{acmes + `"bytes_out":1.5}`, `bytes_out: want a whole number from 0 to 1125899906842624, found "1.5"`},
	{acmes + `"user":"42"}`, `want a known field, found "user"`},
}

func TestBadOutcomes(t *testing.T) {
	for _, tt := range badOutcomes {
		o, err := events.DecodeOutcome([]byte(tt.payload), true)
		if err == nil {
			err = o.Validate()
		}
		if err == nil || err.Error() != tt.want {
			t.Errorf("%.120q:\n got %v\nwant %s", tt.payload, err, tt.want)
			continue
		}
		if _, ok := errors.AsType[*events.FieldError](err); !ok {
			t.Errorf("%.120q: %v holds no FieldError", tt.payload, err)
		}
	}
	if o, err := events.DecodeOutcome([]byte(acmes+`"user":"42","status":404}`), false); err != nil || o.Status != 404 {
		t.Errorf("an unknown field, not strict: %+v, %v", o, err)
	}
}

// Outcomes made in Go meet the same bounds as those decoded.
func TestValidateNamesEveryFaultOfAnOutcome(t *testing.T) {
	o := events.Outcome{
		Tenant: "a b", Gateway: "g", Time: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), ID: "\x00",
		Status: -1, LatencyUS: -3, BytesIn: -4, BytesOut: 1<<50 + 1,
	}
	const want = `tenant: want 1 to 64 characters of A-Z a-z 0-9 _ -, found "a b"
time: want a time from 2000 to 2091, found "1999-01-01T00:00:00Z"
id: want UTF-8 without NUL, at most 128 bytes, found "\x00"
status: want a whole number from 0 to 999, found "-1"
latency_us: want a whole number from 0 to 1099511627776, found "-3"
bytes_in: want a whole number from 0 to 1125899906842624, found "-4"
bytes_out: want a whole number from 0 to 1125899906842624, found "1125899906842625"`
	if err := o.Validate(); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// Whatever is valid is no longer than an outcome may be.
func TestValidOutcomesRoundTrip(t *testing.T) {
	token := rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`)
	rapid.Check(t, func(rt *rapid.T) {
		want := events.Outcome{
			ID:     rapid.OneOf(rapid.StringN(1, 40, 128), rapid.StringOfN(rapid.RuneFrom([]rune("\x01\n\"")), 128, 128, 128)).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }).Draw(rt, "id"),
			Tenant: token.Draw(rt, "tenant"), Gateway: token.Draw(rt, "gateway"),
			Status: rapid.Int64Range(0, 999).Draw(rt, "status"), LatencyUS: rapid.Int64Range(0, events.MaxLatency).Draw(rt, "latency"),
			BytesIn: rapid.Int64Range(0, events.MaxBytes).Draw(rt, "in"), BytesOut: rapid.Int64Range(0, events.MaxBytes).Draw(rt, "out"),
		}
		if rapid.Bool().Draw(rt, "timed") {
			want.Time = time.UnixMicro(rapid.Int64Range(946684800e6, 3849984000e6-1).Draw(rt, "time")).UTC()
		}
		if err := want.Validate(); err != nil {
			rt.Fatal(err)
		}
		line := events.AppendOutcome([]byte("x"), &want)
		oneLine(t, line[1:])
		if got, err := events.DecodeOutcome(line[1:], true); err != nil || got != want {
			rt.Fatalf("%s\ndecodes to %+v, %v\nwant %+v", line, got, err, want)
		}
	})
}
