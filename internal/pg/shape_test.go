package pg

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// ownWords is every text that build may put together: names of columns, and
// words that stand in this package.
var ownWords = func() *regexp.Regexp {
	words := append(columnNames(), `SELECT \*`, `SELECT`, `FROM requests_with_outcomes`, `FROM`, `WHERE`, `AND`, `OR`, `NOT`, `GROUP BY`, `ORDER BY`, `DESC NULLS LAST`, `DESC`, `LIMIT`,
		`IS NULL`, `IS NOT NULL`, `IS NOT TRUE`, `FALSE`, `AS q`, `c\d+`, `=? ?ANY`, `<<=`, `[=<>]+`, `@>`, `@\?`, `#>>?`, `[-+]`,
		`\$\d+::(text|bigint|boolean|timestamptz|inet|float8|jsonb|jsonpath)(\[\])?`, `\d+`, `::(bigint|float8|numeric|timestamptz|text)`,
		`date_bin\(`, `make_interval\(secs => `, `'2001-01-01T00:00:00Z'`, `timestamp '2001-01-01'`, `AT TIME ZONE`, `extract\(epoch`, `least\(`, `greatest\(`,
		`coalesce\(sum\(count\)`, `FILTER \(WHERE verdict = 'deny'\)`, `(sum|avg|min|max|percentile_cont)\(`, `count\(DISTINCT`, `WITHIN GROUP`,
		`starts_with\(`, `jsonb_path_exists\(`, `true\)`, `CASE WHEN jsonb_typeof\(`, `'number' THEN`, `END`, `[(),/]`)
	return regexp.MustCompile(`^(?:(?:` + strings.Join(words, `|`) + `)\s*)+$`)
}()

var placeholder = regexp.MustCompile(`\$(\d+)::`)

// mustBeOurs fails if a statement has a word that is not this package's, or
// names other arguments than it has.
func mustBeOurs(t interface{ Fatalf(string, ...any) }, s *statement) {
	if !ownWords.MatchString(s.sql) {
		t.Fatalf("foreign words in %s", s.sql)
	}
	named := make([]bool, len(s.args))
	for _, m := range placeholder.FindAllStringSubmatch(s.sql, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n < 1 || n > len(s.args) {
			t.Fatalf("%s of %d arguments in %s", m[0], len(s.args), s.sql)
		}
		named[n-1] = true
	}
	for i, ok := range named {
		if !ok {
			t.Fatalf("argument %d is not named in %s", i+1, s.sql)
		}
	}
}

// pathString is a string of jsonpath.
var pathString = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// skeleton is what there is of a statement besides values: its text, and its
// jsonpaths without their strings. Those of a query are values as a whole.
func (s *statement) skeleton(t interface{ Fatalf(string, ...any) }) string {
	var text strings.Builder
	text.WriteString(s.sql)
	for _, m := range regexp.MustCompile(`\$(\d+)::jsonpath`).FindAllStringSubmatch(s.sql, -1) {
		n, err := strconv.Atoi(m[1])
		path, ok := s.args[n-1].(string)
		if err != nil || !ok {
			t.Fatalf("%s is no string", m[0])
		}
		if !s.tries(path) {
			text.WriteString("\n" + pathString.ReplaceAllString(path, `""`))
		}
	}
	return text.String()
}

func (s *statement) tries(path string) bool {
	for _, p := range s.jsonpaths {
		if p.Value == path {
			return true
		}
	}
	return false
}

// hostile are texts that mean something to SQL, jsonpath or JSON.
var hostile = []string{`'; DROP TABLE requests; --`, `"`, `\`, `\"`, `" || true || "`, `")) || exists($."`, "$1", "$", "@", "*", "[*]", "null", "true", "count",
	`a"b`, "\n", "/*", "*/", "$1::text", "%", "_", "\u2028", "\u00ff", "😀", "$$", `E'\'`, "1e5", "-1"}

// TestNoTextChangesTheShape: a query with any text for a value, or for a member
// of a path, is the same statement as with a harmless one.
func TestNoTextChangesTheShape(t *testing.T) {
	value := rapid.OneOf(rapid.String(), rapid.SampledFrom(hostile), rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom(hostile), 1, 4).Draw(t, "parts"), "")
	}))
	templates := []string{
		`{"where":[{"col":"path","op":"=","value":TEXT}]}`,
		`{"where":[{"col":"path","op":"prefix","value":TEXT},{"col":"user_id","op":"not in","value":[TEXT,TEXT]}]}`,
		`{"where":[{"attr":"plan","op":"=","value":TEXT},{"attr":"plan","op":"!=","value":TEXT},{"attr":"a.b","op":"<","value":TEXT}]}`,
		`{"where":[{"attr":PATH,"op":"prefix","value":TEXT},{"attr":"a[*].b","op":"all_of","value":[TEXT,TEXT]}]}`,
		`{"where":[{"attr":PATH,"op":"any_of","value":[TEXT,7]},{"attr":PATH,"op":"exists"},{"attr":PATH,"op":"contains","value":{"a":TEXT}}]}`,
		`{"where":[{"col":"attrs","op":"jsonpath","value":TEXT,"vars":{"v":TEXT}}]}`,
		`{"group_by":["method",GROUP],"select":["count"]}`,
		`{"select":["sum(attrs.a)","distinct(rule)"],"where":[{"attr":PATH,"op":"exists","value":false}]}`,
	}
	rapid.Check(t, func(t *rapid.T) {
		template := rapid.SampledFrom(templates).Draw(t, "template")
		text := value.Draw(t, "text")
		fill := func(text string) (*statement, error) {
			r := strings.NewReplacer("TEXT", string(jsonString(text)),
				"PATH", string(jsonString(string(jsonString(text))+".x[*]")), "GROUP", string(jsonString("attrs."+string(jsonString(text)))))
			q, err := DecodeQuery(strings.NewReader(r.Replace(template)))
			if err != nil {
				t.Fatal(err)
			}
			return build(q, now)
		}
		harmless, err := fill("x")
		if err != nil {
			t.Fatal(err)
		}
		s, err := fill(text)
		if err != nil {
			if len(text) < 200 && !strings.Contains(text, "\x00") {
				t.Fatalf("%q is refused: %v", text, err)
			}
			return
		}
		if got, want := s.skeleton(t), harmless.skeleton(t); got != want {
			t.Fatalf("%q makes of\n%s\nthis\n%s", text, want, got)
		}
	})
}

// FuzzQuery holds whatever JSON there is to this package's words, and builds the
// next page of what is right.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"from":"-1h","to":"now","tenant":"acme","bucket":"5m","group_by":["route","attrs.plan"],"select":["count","rate","p99(latency_us)"],"order":["-count"],"limit":7}`,
		`{"bucket":"1d","zone":"Asia/Kolkata","select":["rate","distinct(user_id)","max(ts)","sum(attrs.n)"]}`,
		`{"bucket":"1h","zone":"Asia/Kolkata","select":["deny_share"],"order":["bucket","-deny_share"]}`,
		`{"select":["ts","path","count","attrs"],"order":["-path"]}`,
		`{"where":[{"attr":"addresses[*].city","op":"any_of","value":["Mumbai","Pune"]},{"col":"ip","op":"in","value":["10.0.0.0/8"]}]}`,
		`{"where":[{"col":"attrs","op":"jsonpath","value":"$.a ? (@ > $x)","vars":{"x":1}},{"attr":"a","op":"none_of","value":[1,null,"x"]}]}`,
		`{"where":[{"col":"user_id","op":"=","value":null},{"col":"late","op":"!=","value":true},{"attr":"a","op":"exists","value":false}]}`,
		`{"next":"eyJmIjoiMjAyNi0xMS0yM1QxMzowMDowMFoiLCJ0IjoiMjAyNi0xMS0yM1QxNDowMDowMFoiLCJxIjoxLCJhIjpbMV19"}`,
		`{"wait_for":[{"shard":0,"seq":7}],"explain":true}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := DecodeQuery(bytes.NewReader(text))
		if err != nil {
			return
		}
		s, err := build(q, now)
		if err != nil {
			return
		}
		mustBeOurs(t, s)
		row := make([]any, len(s.outputs)) // not known, all of them
		if q.Next, err = s.next(row); err != nil {
			t.Fatal(err)
		}
		if s, err = build(q, now); err != nil {
			t.Fatalf("next page: %v", err)
		}
		mustBeOurs(t, s)
	})
}

// Whatever a query holds, its SQL consists of this package's words.
func TestNothingFromAQueryGetsIntoTheSQL(t *testing.T) {
	wild := rapid.OneOf(rapid.String(), rapid.SampledFrom(append(hostile, "status", "-count", "+route", "count); --", "sum(cost)", "sum(cost) --",
		"-1h", "5m", "10.0.0.0/8", "2026-01-01T00:00:00Z", "in", "=", "!=", "<")))
	mostly := func(right ...string) *rapid.Generator[string] {
		g := rapid.SampledFrom(right)
		return rapid.OneOf(g, g, g, g, g, g, g, wild)
	}
	name := mostly(append(columnNames(), "attrs.plan", `attrs."x y".z`)...)
	op := mostly(append(attrOperators, append(textOperators, jsonOperators...)...)...)
	measure := mostly("count", "deny_share", "rate", "sum(cost)", "avg(status)", "p50(latency_us)", "p99.9(attrs.ms)", "max(count)", "min(ts)", "distinct(attrs.plan)")
	values := rapid.Custom(func(t *rapid.T) json.RawMessage {
		var v any
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			v = wild.Draw(t, "text")
		case 1:
			v = rapid.Int().Draw(t, "number")
		case 2:
			v = []int{rapid.Int().Draw(t, "item")}
		case 3:
			v = rapid.SliceOfN(wild, 0, 3).Draw(t, "list")
		}
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	})
	condition := rapid.Custom(func(t *rapid.T) Condition {
		c := Condition{Op: op.Draw(t, "op"), Value: values.Draw(t, "value")}
		if rapid.Bool().Draw(t, "attr") {
			c.Attr = mostly("plan", "addresses[*].city", `"x y".z`).Draw(t, "path")
		} else {
			c.Col = name.Draw(t, "col")
		}
		return c
	})
	var built int
	rapid.Check(t, func(t *rapid.T) {
		q := &Query{
			From:    mostly("", "-2h", "2026-01-01T00:00:00Z").Draw(t, "from"),
			To:      mostly("", "now", "-1m").Draw(t, "to"),
			Tenant:  mostly("", "acme").Draw(t, "tenant"),
			Bucket:  mostly("", "5m", "1d").Draw(t, "bucket"),
			Where:   rapid.SliceOfN(condition, 0, 2).Draw(t, "where"),
			GroupBy: rapid.SliceOfN(name, 0, 2).Draw(t, "group_by"),
			Select:  rapid.SliceOfN(measure, 0, 2).Draw(t, "select"),
		}
		if q.Bucket != "" {
			q.Zone = mostly("", "Asia/Kolkata").Draw(t, "zone")
		}
		q.Order = rapid.SliceOfN(mostly(append(q.Select, "-count")...), 0, 1).Draw(t, "order")
		s, err := build(q, now)
		if err != nil {
			return
		}
		built++
		mustBeOurs(t, s)
	})
	if built == 0 {
		t.Error("no query was right")
	}
}
