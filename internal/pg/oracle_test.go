package pg_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
)

// texts are what the tests' rows hold: among them what means something to SQL,
// to jsonpath or to JSON.
var texts = []string{"free", "pro", "Mumbai", "Pune", `a"b`, `\`, "'", "/api/order", "/api/", "%", "ä😀", "$x", "", "7", "null"}

// attrs makes attributes, those of one name with values of different types.
func attrs(r *rand.Rand) any {
	text := func() any { return texts[r.IntN(len(texts))] }
	scalar := func() any {
		return []any{text(), r.IntN(5), 2.5, -1, true, false, nil}[r.IntN(7)]
	}
	place := func() any {
		switch r.IntN(6) {
		case 0:
			return map[string]any{}
		case 1:
			return scalar()
		}
		return map[string]any{"city": text(), "n": r.IntN(3)}
	}
	doc := map[string]any{}
	if r.IntN(3) > 0 {
		doc["plan"] = scalar()
	}
	switch r.IntN(4) {
	case 0:
		doc["addresses"] = place()
	case 1, 2:
		list := []any{}
		for range r.IntN(3) {
			list = append(list, place())
		}
		doc["addresses"] = list
	}
	if r.IntN(2) == 0 {
		doc["tags"] = []any{text(), scalar()}
	}
	if r.IntN(2) == 0 {
		doc[`odd "key".x`] = map[string]any{"deep": scalar()}
	}
	return doc
}

// mustStoreRandom stores n records, two a block.
func mustStoreRandom(t *testing.T, db *pg.DB, n int) []events.Record {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	var all []events.Record
	for seq := range uint64(n / 2) {
		var block []events.Record
		for i := range 2 {
			one := record(fmt.Sprintf("r%d-%d", seq, i))
			q := &one.Request
			q.Path, q.User = texts[r.IntN(len(texts))], texts[r.IntN(len(texts))]
			q.Status, q.LatencyUS, q.Count = []int64{0, 200, 404, 500}[r.IntN(4)], int64(r.IntN(4)), int64(1+r.IntN(3))
			q.Time = []time.Time{{}, stored.Add(time.Duration(r.IntN(3)) * time.Minute)}[r.IntN(2)]
			if r.IntN(3) > 0 {
				q.IP = netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), 0, byte(r.IntN(3))})
			}
			one.Decision.Verdict = []events.Verdict{events.Allow, events.Deny}[r.IntN(2)]
			one.Decision.Degraded = r.IntN(2) == 0
			if r.IntN(5) > 0 {
				text, err := json.Marshal(attrs(r))
				if err != nil {
					t.Fatal(err)
				}
				q.Attrs = string(text)
			}
			block = append(block, one)
		}
		add(t, &b, seq+1, stored.Add(time.Duration(seq/3)*time.Second), block...)
		all = append(all, block...)
	}
	if got, err := db.Commit(t.Context(), &b); err != nil || got.Rows != n {
		t.Fatalf("commit: %+v, %v", got, err)
	}
	return all
}

// valuesOf are a column's values of a record, none when it is not known.
func valuesOf(rec *events.Record, col string) []any {
	q := &rec.Request
	text := func(s string) []any {
		if s == "" {
			return nil
		}
		return []any{s}
	}
	number := func(n int64) []any {
		if n == 0 {
			return nil
		}
		return []any{n}
	}
	switch col {
	case "path":
		return text(q.Path)
	case "user_id":
		return text(q.User)
	case "verdict":
		return text(string(rec.Decision.Verdict))
	case "status":
		return number(q.Status)
	case "latency_us":
		return number(q.LatencyUS)
	case "count":
		return []any{q.Count}
	case "degraded":
		return []any{rec.Decision.Degraded}
	case "occurred_at":
		if q.Time.IsZero() {
			return nil
		}
		return []any{q.Time}
	case "ip":
		if !q.IP.IsValid() {
			return nil
		}
		return []any{q.IP}
	}
	panic(col)
}

// compareValues orders two values of one column.
func compareValues(a, b any) int {
	switch a := a.(type) {
	case int64:
		return cmp.Compare(a, b.(int64))
	case string:
		return cmp.Compare(a, b.(string))
	case time.Time:
		return a.Compare(b.(time.Time))
	case bool:
		switch {
		case a == b.(bool):
			return 0
		case a:
			return 1
		}
		return -1
	}
	panic(a)
}

// equalValue tells whether a column's value is one, or in it.
func equalValue(have, want any) bool {
	if network, ok := want.(netip.Prefix); ok {
		return network.Contains(have.(netip.Addr))
	}
	return compareValues(have, want) == 0
}

// oracleColumn draws a condition on a column, and how a record fulfils it.
func oracleColumn(t *rapid.T) (pg.Condition, func(*events.Record) bool) {
	col := rapid.SampledFrom([]string{"path", "user_id", "verdict", "status", "latency_us", "count", "degraded", "occurred_at", "ip"}).Draw(t, "col")
	value := func() any {
		switch col {
		case "path", "user_id":
			return rapid.SampledFrom(texts).Draw(t, "text")
		case "verdict":
			return rapid.SampledFrom([]string{"allow", "deny"}).Draw(t, "verdict")
		case "degraded":
			return rapid.Bool().Draw(t, "bool")
		case "occurred_at":
			return stored.Add(time.Duration(rapid.IntRange(-1, 3).Draw(t, "minutes")) * time.Minute)
		case "ip":
			return netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.1/32", "10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/31", "::/0"}).Draw(t, "network"))
		}
		return rapid.SampledFrom([]int64{0, 1, 2, 3, 200, 404, 500}).Draw(t, "number")
	}
	ops := []string{"=", "!=", "in", "not in", "null", "known"}
	switch col {
	case "path", "user_id":
		ops = append(ops, "prefix")
	case "status", "latency_us", "count", "occurred_at":
		ops = append(ops, "<", "<=", ">", ">=")
	}
	op := rapid.SampledFrom(ops).Draw(t, "op")
	c := pg.Condition{Col: col, Op: op}
	var one any
	switch op {
	case "null", "known":
		c.Op, c.Value = map[string]string{"null": "=", "known": "!="}[op], json.RawMessage("null")
		return c, func(r *events.Record) bool { return (len(valuesOf(r, col)) == 0) == (op == "null") }
	case "in", "not in":
		var list []any
		for range rapid.IntRange(1, 3).Draw(t, "n") {
			list = append(list, value())
		}
		c.Value = mustJSON(list)
		return c, func(r *events.Record) bool {
			return slices.ContainsFunc(valuesOf(r, col), func(have any) bool {
				return slices.ContainsFunc(list, func(want any) bool { return equalValue(have, want) }) == (op == "in")
			})
		}
	}
	one = value()
	c.Value = mustJSON(one)
	return c, func(r *events.Record) bool {
		return slices.ContainsFunc(valuesOf(r, col), func(have any) bool {
			switch op {
			case "=":
				return equalValue(have, one)
			case "!=":
				return !equalValue(have, one)
			case "prefix":
				return strings.HasPrefix(have.(string), one.(string))
			}
			return ordered(op, compareValues(have, one))
		})
	}
}

func ordered(op string, n int) bool {
	return op[0] == '<' && n < 0 || op[0] == '>' && n > 0 || len(op) == 2 && n == 0
}

func mustJSON(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// lead follows a path as jsonpath does: a list counts as its elements.
func lead(doc any, steps []string) []any {
	at := []any{doc}
	for _, s := range steps {
		var next []any
		for _, v := range unwrapped(at) {
			if s == "[*]" {
				next = append(next, v)
			} else if object, ok := v.(map[string]any); ok {
				if member, ok := object[s]; ok {
					next = append(next, member)
				}
			}
		}
		at = next
	}
	return at
}

func unwrapped(values []any) []any {
	var all []any
	for _, v := range values {
		if list, ok := v.([]any); ok {
			all = append(all, list...)
		} else {
			all = append(all, v)
		}
	}
	return all
}

// contains tells what the operator @> tells.
func contains(doc, pattern any) bool {
	switch pattern := pattern.(type) {
	case map[string]any:
		object, ok := doc.(map[string]any)
		for name, want := range pattern {
			have, there := object[name]
			ok = ok && there && contains(have, want)
		}
		return ok
	case []any:
		list, ok := doc.([]any)
		for _, want := range pattern {
			ok = ok && slices.ContainsFunc(list, func(have any) bool { return contains(have, want) })
		}
		return ok
	}
	return doc == pattern
}

// oracleAttr draws a condition on a path into attrs.
func oracleAttr(t *rapid.T) (pg.Condition, func(doc any) bool) {
	paths := map[string][]string{
		"plan": {"plan"}, "addresses[*].city": {"addresses", "[*]", "city"}, "addresses.n": {"addresses", "n"}, "addresses[*]": {"addresses", "[*]"},
		"tags": {"tags"}, "tags[*]": {"tags", "[*]"}, `"odd \"key\".x".deep`: {`odd "key".x`, "deep"}, "nothing": {"nothing"},
	}
	name := rapid.SampledFrom(slices.Sorted(func(yield func(string) bool) {
		for name := range paths {
			if !yield(name) {
				return
			}
		}
	})).Draw(t, "path")
	steps := paths[name]
	value := func() any {
		return rapid.OneOf(rapid.Map(rapid.SampledFrom(texts), func(s string) any { return s }),
			rapid.SampledFrom([]any{0.0, 1.0, 2.0, 2.5, -1.0, true, false, nil})).Draw(t, "value")
	}
	values := func() []any {
		var list []any
		for range rapid.IntRange(1, 3).Draw(t, "n") {
			list = append(list, value())
		}
		return list
	}
	c := pg.Condition{Attr: name, Op: rapid.SampledFrom([]string{"=", "!=", "any_of", "none_of", "all_of", "prefix", "<", ">=", "exists", "missing", "contains"}).Draw(t, "op")}
	is := func(doc, want any) bool { return slices.Contains(unwrapped(lead(doc, steps)), want) }
	switch c.Op {
	case "=", "!=":
		one := value()
		c.Value = mustJSON(one)
		return c, func(doc any) bool { return len(lead(doc, steps)) > 0 && is(doc, one) == (c.Op == "=") }
	case "any_of", "none_of":
		list := values()
		c.Value = mustJSON(list)
		return c, func(doc any) bool {
			return len(lead(doc, steps)) > 0 && slices.ContainsFunc(list, func(one any) bool { return is(doc, one) }) == (c.Op == "any_of")
		}
	case "all_of":
		list := values()
		c.Value = mustJSON(list)
		return c, func(doc any) bool {
			return !slices.ContainsFunc(list, func(one any) bool { return !is(doc, one) })
		}
	case "prefix":
		one := rapid.SampledFrom(texts).Draw(t, "prefix")
		c.Value = mustJSON(one)
		return c, func(doc any) bool {
			return slices.ContainsFunc(unwrapped(lead(doc, steps)), func(v any) bool {
				s, ok := v.(string)
				return ok && strings.HasPrefix(s, one)
			})
		}
	case "exists":
		return c, func(doc any) bool { return len(lead(doc, steps)) > 0 }
	case "missing":
		c.Op, c.Value = "exists", json.RawMessage("false")
		return c, func(doc any) bool { return len(lead(doc, steps)) == 0 }
	case "contains":
		one := value()
		if rapid.Bool().Draw(t, "object") {
			one = map[string]any{"city": one}
		}
		c.Value = mustJSON(one)
		for _, s := range slices.Backward(steps) {
			if s == "[*]" {
				one = []any{one}
			} else {
				one = map[string]any{s: one}
			}
		}
		return c, func(doc any) bool { return contains(doc, one) }
	}
	one := rapid.SampledFrom([]any{0.0, 2.0, "P", "7"}).Draw(t, "bound")
	c.Value = mustJSON(one)
	return c, func(doc any) bool {
		return slices.ContainsFunc(unwrapped(lead(doc, steps)), func(v any) bool {
			switch want := one.(type) {
			case float64:
				n, ok := v.(float64)
				return ok && ordered(c.Op, cmp.Compare(n, want))
			case string:
				s, ok := v.(string)
				return ok && ordered(c.Op, cmp.Compare(s, want))
			}
			return false
		})
	}
}

// TestConditionsAgainstAnOracle asks for random requests of random conditions,
// in pages, and counts them in groups: both agree with conditions in Go.
func TestConditionsAgainstAnOracle(t *testing.T) {
	db, _ := mustMigrated(t)
	all := mustStoreRandom(t, db, 400)
	docs := make([]any, len(all)) // nil: no attrs
	for i := range all {
		if text := all[i].Request.Attrs; text != "" {
			if err := json.Unmarshal([]byte(text), &docs[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	now := stored.Add(30 * time.Minute)
	ask := func(t *rapid.T, q *pg.Query) *pg.Answer {
		a, err := db.Query(t.Context(), q, now)
		if err != nil {
			text, _ := json.Marshal(q)
			t.Fatalf("%s: %v", text, err)
		}
		return a
	}
	some := 0
	rapid.Check(t, func(t *rapid.T) {
		q := &pg.Query{Select: []string{"request_id"}}
		var tests []func(i int) bool
		for range rapid.IntRange(1, 3).Draw(t, "conditions") {
			var c pg.Condition
			if rapid.Bool().Draw(t, "attr") {
				var holds func(any) bool
				c, holds = oracleAttr(t)
				tests = append(tests, func(i int) bool { return holds(docs[i]) })
			} else {
				var holds func(*events.Record) bool
				c, holds = oracleColumn(t)
				tests = append(tests, func(i int) bool { return holds(&all[i]) })
			}
			q.Where = append(q.Where, c)
		}
		var want []string
		var count int64
		for i := range all {
			if !slices.ContainsFunc(tests, func(holds func(int) bool) bool { return !holds(i) }) {
				want = append(want, all[i].Request.ID)
				count += all[i].Request.Count
			}
		}
		if len(want) > 0 {
			some++
		}
		by := rapid.SampledFrom([][]string{nil, {"path"}, {"-path", "status"}, {"latency_us", "-ts"}, {"-occurred_at"}, {"ip", "degraded"}, {"attrs.plan"}, {"-attrs"}}).Draw(t, "order")
		for _, name := range by {
			q.Select = append(q.Select, strings.TrimPrefix(name, "-"))
		}
		q.Order = by
		limit := rapid.SampledFrom([]int{1 + len(want)/3, 7 + len(want)/2, 1000}).Draw(t, "limit")
		q.Limit = &limit
		var got []string
		for {
			a := ask(t, q)
			for _, row := range a.Rows {
				got = append(got, row[0].(string))
			}
			if q.Next = a.Next; q.Next == "" {
				break
			}
			if len(a.Rows) != limit || len(got) > len(all) {
				t.Fatalf("%d rows of a page of %d, %d so far", len(a.Rows), limit, len(got))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			text, _ := json.Marshal(q)
			t.Fatalf("%s\ngives %s\nwant  %s", text, got, want)
		}
		groups := ask(t, &pg.Query{Where: q.Where})
		if groups.Rows[0][0] != count {
			t.Fatalf("counts %v, want %d", groups.Rows[0][0], count)
		}
	})
	if some == 0 {
		t.Error("no conditions that any record fulfils")
	}
}
