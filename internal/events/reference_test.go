package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// The reference reads the same JSON through encoding/json. It walks objects by
// token, because json.Unmarshal would take Tenant for tenant, and lets a null
// stand for an absent field.

// object calls field with every key of the object that dec is before, for it
// to read the value.
func object(dec *json.Decoder, field func(key string) error) error {
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return fmt.Errorf("want an object, found %v, %v", token, err)
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		key, ok := token.(string)
		if !ok {
			return fmt.Errorf("want a key, found %v", token)
		}
		if err := field(key); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	_, err := dec.Token()
	return err
}

// whole reads one object and nothing after it.
func whole(text []byte, read func(dec *json.Decoder) error) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := read(dec); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("want the end, found %v", err)
	}
	return nil
}

// units tells a cost of 0 from none.
type units struct {
	n     int64
	given bool
}

func (u *units) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	*u = units{n, true}
	return err
}

// object as text.
type attributes string

func (a *attributes) UnmarshalJSON(text []byte) error {
	if string(text) != "null" {
		*a = attributes(text)
	}
	return nil
}

func referenceRequest(dec *json.Decoder) (r events.Request, err error) {
	var cost units
	err = object(dec, func(key string) error {
		into, known := map[string]any{
			"id": &r.ID, "tenant": &r.Tenant, "gateway": &r.Gateway, "time": &r.Time,
			"user": &r.User, "api_key": &r.APIKey, "ip": &r.IP, "method": &r.Method,
			"host": &r.Host, "path": &r.Path, "route": &r.Route, "cost": &cost,
			"attrs": (*attributes)(&r.Attrs), "status": &r.Status, "latency_us": &r.LatencyUS,
			"bytes_in": &r.BytesIn, "bytes_out": &r.BytesOut,
			"verdict": &r.Verdict, "reason": &r.Reason, "rule": &r.Rule, "count": &r.Count,
		}[key]
		if !known {
			into = new(json.RawMessage)
		}
		return dec.Decode(into)
	})
	r.Time = micros(r.Time)
	r.IP = r.IP.Unmap()
	r.Cost, r.Peek = cost.n, cost.given && cost.n == 0
	if r.Attrs != "" && err == nil {
		var value any // also in one piece, numbers and all
		err = json.Unmarshal([]byte(r.Attrs), &value)
	}
	return r, err
}

func referenceOutcome(dec *json.Decoder) (o events.Outcome, err error) {
	err = object(dec, func(key string) error {
		into, known := map[string]any{
			"id": &o.ID, "tenant": &o.Tenant, "gateway": &o.Gateway, "time": &o.Time, "status": &o.Status,
			"latency_us": &o.LatencyUS, "bytes_in": &o.BytesIn, "bytes_out": &o.BytesOut,
		}[key]
		if !known {
			into = new(json.RawMessage)
		}
		return dec.Decode(into)
	})
	o.Time = micros(o.Time)
	return o, err
}

func referenceDecision(dec *json.Decoder) (d events.Decision, err error) {
	err = object(dec, func(key string) error {
		into, known := map[string]any{
			"id": &d.ID, "verdict": &d.Verdict, "reason": &d.Reason, "rule": &d.Rule, "key": &d.Key,
			"limit": &d.Limit, "window_ms": &d.WindowMS, "remaining": &d.Remaining, "reset_ms": &d.ResetMS,
			"retry_after_ms": &d.RetryAfterMS, "cost": &d.Cost, "violated": &d.Violated, "shadow": &d.Shadow, "policy": &d.Policy,
			"degraded": &d.Degraded, "decided_at": &d.DecidedAt,
		}[key]
		if !known {
			into = new(json.RawMessage)
		}
		return dec.Decode(into)
	})
	d.DecidedAt = micros(d.DecidedAt)
	return d, err
}

func referenceCharges(dec *json.Decoder) (list []events.Charge, err error) {
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, fmt.Errorf("token %v, %w", t, err)
	}
	for dec.More() {
		var c events.Charge
		err := object(dec, func(key string) error {
			into, known := map[string]any{
				"rule": &c.Rule, "key": &c.Key, "limit": &c.Limit, "window_ms": &c.WindowMS, "cost": &c.Cost, "remaining": &c.Remaining,
				"retry_after_ms": &c.RetryAfterMS, "denied": &c.Denied, "charged": &c.Charged, "buckets": &c.Buckets, "mode": &c.Mode,
			}[key]
			if !known {
				into = new(json.RawMessage)
			}
			return dec.Decode(into)
		})
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	_, err = dec.Token()
	return list, err
}

func referenceRecord(dec *json.Decoder) (r events.Record, err error) {
	err = object(dec, func(key string) error {
		var err error
		switch key {
		case "request":
			r.Request, err = referenceRequest(dec)
		case "decision":
			r.Decision, err = referenceDecision(dec)
		case "rules":
			r.Charges, err = referenceCharges(dec)
		case "refused":
			err = dec.Decode(&r.Refused)
		case "control":
			err = dec.Decode(&r.Control)
		default:
			err = dec.Decode(new(json.RawMessage))
		}
		return err
	})
	r.Decision.ID = r.Request.ID
	return r, err
}

func micros(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// request is a typical check.
func request() events.Request {
	return events.Request{
		ID: "AO3272652345-000042017", Tenant: "acme", Gateway: "edge-1",
		Time: time.Date(2026, 11, 23, 14, 32, 25, 123456000, time.UTC),
		User: "42", APIKey: events.HashAPIKey("secret"), IP: netip.MustParseAddr("203.0.113.7"),
		Method: "GET", Host: "api.example.com", Path: "/api/order/history/", Route: "/api/order/history/",
		Cost: 2, Attrs: `{"plan":"pro","addresses":[{"city":"Pune"}]}`,
	}
}

func outcome() events.Outcome {
	return events.Outcome{
		ID: "AO3272652345-000042017", Tenant: "acme", Gateway: "edge-1",
		Time:   time.Date(2026, 11, 23, 14, 32, 25, 345678000, time.UTC),
		Status: 200, LatencyUS: 12_345, BytesIn: 17, BytesOut: 4096,
	}
}

func decision() events.Decision {
	return events.Decision{
		ID: "AO3272652345-000042017", Verdict: events.Deny, Reason: events.ReasonRule,
		Rule: "per-minute", Key: "42", Limit: 256, WindowMS: 60_000, Remaining: 0, ResetMS: 7_000,
		RetryAfterMS: 6_999, Cost: 2, Policy: 3,
		DecidedAt: time.Date(2026, 11, 23, 14, 32, 25, 234567000, time.UTC),
	}
}
