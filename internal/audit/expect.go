package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/pg"
)

func clone(s string) string { return strings.Clone(s) }

// wanted returns the columns of a record's row as Postgres writes them as text;
// null ones are absent. It shares no code with what stores rows.
func wanted(id idgen.ID, stored time.Time, r *events.Record) map[string]string {
	if r.Control != nil {
		return wantedControl(id, stored, r.Control)
	}
	q, d := &r.Request, &r.Decision
	m := map[string]string{}
	text := func(column, value string) {
		if value != "" {
			m[column] = value
		}
	}
	number := func(column string, value int64) { m[column] = strconv.FormatInt(value, 10) }
	known := func(column string, value int64) {
		if value != 0 {
			number(column, value)
		}
	}
	moment := func(column string, t time.Time) {
		if !t.IsZero() {
			m[column] = timestamp(t)
		}
	}
	number("id", int64(id))
	moment("ts", stored)
	moment("decided_at", d.DecidedAt)
	moment("occurred_at", q.Time)
	text("request_id", q.ID)
	text("tenant", q.Tenant)
	text("gateway", q.Gateway)
	text("identity", q.Identity())
	text("user_id", q.User)
	text("api_key", q.APIKey)
	if q.IP.IsValid() {
		m["ip"] = netip.PrefixFrom(q.IP, q.IP.BitLen()).String()
	}
	text("method", q.Method)
	text("host", q.Host)
	text("path", q.Path)
	text("route", q.Route)
	number("cost", d.Cost)
	number("count", max(q.Count, 1))
	text("verdict", string(d.Verdict))
	text("reason", string(d.Reason))
	if d.Rule != "" {
		m["rule"], m["key"] = d.Rule, d.Key
		number("limit_count", d.Limit)
		number("remaining", d.Remaining)
	}
	known("retry_after_ms", d.RetryAfterMS)
	number("policy", int64(d.Policy))
	m["degraded"] = strconv.FormatBool(d.Degraded)
	m["late"] = strconv.FormatBool(d.Reason == events.ReasonLate)
	known("status", q.Status)
	known("latency_us", q.LatencyUS)
	known("bytes_in", q.BytesIn)
	known("bytes_out", q.BytesOut)
	if len(r.Charges) > 0 {
		rules, err := json.Marshal(r.Charges)
		if err != nil {
			panic("audit: " + err.Error()) // charges are plain data
		}
		m["rules"] = string(rules)
	}
	text("attrs", q.Attrs)
	return m
}

// wantedControl is wanted for what was done by hand.
func wantedControl(id idgen.ID, stored time.Time, c *events.Control) map[string]string {
	m := map[string]string{
		"id": strconv.FormatInt(int64(id), 10), "ts": timestamp(stored), "decided_at": timestamp(c.At),
		"request_id": c.ID, "tenant": c.Tenant, "identity": c.By, "user_id": c.By, "cost": "0", "count": "0",
		"reason": string(c.Kind), "rule": c.Rule, "key": c.Key, "policy": strconv.FormatUint(c.Policy, 10),
		"degraded": "false", "late": "false",
	}
	if c.Kind == events.ControlOverride {
		m["limit_count"] = strconv.FormatInt(c.Limit, 10)
		m["attrs"] = fmt.Sprintf(`{"window_ms":%d,"until":%q}`, c.WindowMS, c.Until.Format(time.RFC3339Nano))
	}
	return m
}

// timestamp is a time as Postgres writes it.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999") + "+00" }

// differences says in which columns a row is not as wanted.
func differences(want map[string]string, row *pg.Row) []string {
	var list []string
	for i, column := range pg.Columns() {
		wantText, wantSome := want[column]
		found := row.Fields[i]
		switch {
		case !wantSome && found == nil:
		case !wantSome:
			list = append(list, fmt.Sprintf("%s: want null, found %q", column, *found))
		case found == nil:
			list = append(list, fmt.Sprintf("%s: want %q, found null", column, wantText))
		case !same(column, wantText, *found):
			list = append(list, fmt.Sprintf("%s: want %q, found %q", column, wantText, *found))
		}
	}
	return list
}

// same tells whether two texts of a column say the same.
func same(column, want, found string) bool {
	if want == found {
		return true
	}
	switch column {
	case "ip":
		a, errA := netip.ParsePrefix(want)
		b, errB := netip.ParsePrefix(found)
		return errA == nil && errB == nil && a == b
	case "rules", "attrs":
		a, okA := decode(want)
		b, okB := decode(found)
		return okA && okB && sameJSON(a, b)
	}
	return false
}

func decode(text string) (any, bool) {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err == nil
}

// sameJSON compares values as jsonb does: numbers by value, objects without
// order, the last of several members of one name.
func sameJSON(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, value := range a {
			other, ok := b[name]
			if !ok || !sameJSON(value, other) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !sameJSON(a[i], b[i]) {
				return false
			}
		}
		return true
	case json.Number:
		b, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, okX := new(big.Rat).SetString(a.String())
		y, okY := new(big.Rat).SetString(b.String())
		return okX && okY && x.Cmp(y) == 0
	}
	return a == b
}
