package events_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/weirhq/weir/internal/events"
)

// Whatever DecodeRequest accepts encoding/json accepts, with the same values;
// what is valid besides survives AppendRequest.
func FuzzDecodeRequest(f *testing.F) {
	r := request()
	f.Add(events.AppendRequest(nil, &r))
	for _, tt := range badRequests {
		f.Add([]byte(tt.payload))
	}
	for _, tt := range goodRequests {
		f.Add([]byte(tt.payload))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := events.DecodeRequest(payload, false)
		strict, strictErr := events.DecodeRequest(payload, true)
		if err != nil {
			presentable(t, err)
			if strictErr == nil {
				t.Fatalf("only strict mode accepts it; else %v", err)
			}
			return
		}
		if strictErr != nil {
			presentable(t, strictErr)
		} else if strict != got {
			t.Fatalf("strict %+v\nelse %+v", strict, got)
		}
		var want events.Request
		if err := whole(payload, func(dec *json.Decoder) (err error) {
			want, err = referenceRequest(dec)
			return err
		}); err != nil || got != want {
			t.Fatalf("decoded %+v\nwant %+v, %v", got, want, err)
		}
		if err := got.Validate(); err != nil {
			presentable(t, err)
			return
		}
		line := events.AppendRequest(nil, &got)
		oneLine(t, line)
		got.Attrs = strings.NewReplacer("\n", " ", "\r", " ").Replace(got.Attrs)
		if again, err := events.DecodeRequest(line, true); err != nil || again != got {
			t.Fatalf("%s\ndecodes to %+v, %v\nwant %+v", line, again, err, got)
		}
	})
}

// The same for an outcome.
func FuzzDecodeOutcome(f *testing.F) {
	o := outcome()
	f.Add(events.AppendOutcome(nil, &o))
	for _, tt := range badOutcomes {
		f.Add([]byte(tt.payload))
	}
	f.Add([]byte(` {"id":"a","id":"b","time":"2026-11-23T16:32:25.1234567+02:00","status":null,"new":{"x":[1e9]}} `))
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := events.DecodeOutcome(payload, false)
		strict, strictErr := events.DecodeOutcome(payload, true)
		if err != nil {
			presentable(t, err)
			if strictErr == nil {
				t.Fatalf("only strict mode accepts it; else %v", err)
			}
			return
		}
		if strictErr != nil {
			presentable(t, strictErr)
		} else if strict != got {
			t.Fatalf("strict %+v\nelse %+v", strict, got)
		}
		var want events.Outcome
		if err := whole(payload, func(dec *json.Decoder) (err error) {
			want, err = referenceOutcome(dec)
			return err
		}); err != nil || got != want {
			t.Fatalf("decoded %+v\nwant %+v, %v", got, want, err)
		}
		if err := got.Validate(); err != nil {
			presentable(t, err)
			return
		}
		line := events.AppendOutcome(nil, &got)
		oneLine(t, line)
		if again, err := events.DecodeOutcome(line, true); err != nil || again != got {
			t.Fatalf("%s\ndecodes to %+v, %v\nwant %+v", line, again, err, got)
		}
	})
}

// The same for a decision. What only means something with a rule is kept only
// with one.
func FuzzDecodeDecision(f *testing.F) {
	d := decision()
	f.Add(events.AppendDecision(nil, &d))
	f.Add([]byte(`{"verdict":"allow","reason":"no_rule","cost":1,"shadow":["a","b"],"policy":0,"degraded":true,"new":{"x":[]}}`))
	f.Add([]byte(`{"limit":9223372036854775807,"degraded":false,"decided_at":"2026-11-23T14:32:25+02:00"}{`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := events.DecodeDecision(payload)
		if err != nil {
			presentable(t, err)
			return
		}
		var want events.Decision
		if err := whole(payload, func(dec *json.Decoder) (err error) {
			want, err = referenceDecision(dec)
			return err
		}); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("decoded %+v\nwant %+v, %v", got, want, err)
		}
		line := events.AppendDecision(nil, &got)
		oneLine(t, line)
		got = kept(got)
		if again, err := events.DecodeDecision(line); err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%s\ndecodes to %+v, %v\nwant %+v", line, again, err, got)
		}
	})
}

// kept is what of a decision travels.
func kept(d events.Decision) events.Decision {
	if d.Rule == "" {
		d.Key, d.Limit, d.WindowMS, d.Remaining, d.ResetMS, d.RetryAfterMS = "", 0, 0, 0, 0, 0
	}
	if len(d.Violated) == 0 {
		d.Violated = nil
	}
	if len(d.Shadow) == 0 {
		d.Shadow = nil
	}
	return d
}

// The same for a record, as far as its request is valid.
func FuzzDecodeRecord(f *testing.F) {
	for _, r := range records() {
		f.Add(string(events.AppendRecord(nil, &r)))
	}
	f.Add(`{"refused":null,"rules":[],"new":1,"request":{},"decision":{}}`)
	f.Add(`{"control":{"until":"2026-11-23T14:32:25+02:00","block":7,"key":"<\u2028>"},"refused":{}}`)
	f.Fuzz(func(t *testing.T, line string) {
		var got, want, again events.Record
		if err := events.DecodeRecord(line, &got); err != nil {
			presentable(t, err)
			return
		}
		if err := whole([]byte(line), func(dec *json.Decoder) (err error) {
			want, err = referenceRecord(dec)
			return err
		}); err != nil || !sameRecord(got, want) {
			t.Fatalf("decoded %+v\nwant %+v, %v", got, want, err)
		}
		if got.Refused == nil && got.Control == nil && got.Request.Validate() != nil {
			return
		}
		appended := events.AppendRecord(nil, &got)
		oneLine(t, appended)
		switch { // nothing else is set, nor kept
		case got.Control != nil:
			got.Control.Block = 0
			got = events.Record{Control: got.Control}
		case got.Refused != nil:
			got = events.Record{Refused: got.Refused}
		}
		got.Decision = kept(got.Decision)
		got.Request.Attrs = strings.NewReplacer("\n", " ", "\r", " ").Replace(got.Request.Attrs)
		if err := events.DecodeRecord(string(appended), &again); err != nil || !sameRecord(again, got) {
			t.Fatalf("%s\ndecodes to %+v, %v\nwant %+v", appended, again, err, got)
		}
	})
}

// sameRecord does not tell an empty list from none, nor an instant in one time
// zone from the same in another.
func sameRecord(a, b events.Record) bool {
	if len(a.Charges) == 0 && len(b.Charges) == 0 {
		a.Charges, b.Charges = nil, nil
	}
	if a.Refused != nil && b.Refused != nil {
		x, y := *a.Refused, *b.Refused
		if !x.At.Equal(y.At) || !bytes.Equal(x.Payload, y.Payload) {
			return false
		}
		y.At, y.Payload = x.At, x.Payload
		a.Refused, b.Refused = &x, &y
	}
	if a.Control != nil && b.Control != nil {
		x, y := *a.Control, *b.Control
		if !x.At.Equal(y.At) || !x.Until.Equal(y.Until) {
			return false
		}
		y.At, y.Until = x.At, x.Until
		a.Control, b.Control = &x, &y
	}
	return reflect.DeepEqual(a, b)
}

// oneLine fails unless the text is JSON on one line.
func oneLine(t *testing.T, text []byte) {
	t.Helper()
	if !json.Valid(text) || bytes.ContainsAny(text, "\r\n") {
		t.Fatalf("not JSON on one line: %q", text)
	}
}

// presentable fails unless an error can be shown to anybody: the sender
// chooses what it quotes.
func presentable(t *testing.T, err error) {
	t.Helper()
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimSuffix(line, "\n")
		if len(line) > 512 || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("an error of %d bytes: %.600q", len(line), line)
		}
	}
}
