package pg_test

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/pg"
)

func TestParseCondition(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, col, op, value string }{
		{"status>=500", "status", ">=", "500"},
		{"status != 200", "status", "!=", "200"},
		{"user_id=42", "user_id", "=", `"42"`},
		{"user_id=null", "user_id", "=", "null"},
		{"degraded=true", "degraded", "=", "true"},
		{`path=/a"b=c`, "path", "=", `"/a\"b=c"`},
		{"method in GET, HEAD", "method", "in", `["GET","HEAD"]`},
		{"status in 500,503", "status", "in", `[500,503]`},
		{"method not in GET", "method", "not in", `["GET"]`},
		{"path prefix /api/ v", "path", "prefix", `"/api/ v"`},
		{"user_id=a in b", "user_id", "=", `"a in b"`},
		{"attrs.plan=free", "attrs.plan", "=", `"free"`},
		{"attrs.n >= 2.5", "attrs.n", ">=", `2.5`},
		{`attrs.zip = "411001"`, "attrs.zip", "=", `"411001"`},
		{"attrs.addresses[*].city any_of Mumbai,Pune", "attrs.addresses[*].city", "any_of", `["Mumbai","Pune"]`},
		{"attrs.beta exists", "attrs.beta", "exists", ``},
		{`attrs contains {"plan":"free"}`, "attrs", "contains", `{"plan":"free"}`},
		{`attrs jsonpath $.n ? (@ > 2)`, "attrs", "jsonpath", `"$.n ? (@ \u003e 2)"`},
		{"status<abc", "status", "<", `"abc"`}, // the query says what is wrong with it
	} {
		got, err := pg.ParseCondition(c.text)
		if got.Attr != "" {
			got.Col = "attrs." + got.Attr
		}
		if err != nil || got.Col != c.col || got.Op != c.op || string(got.Value) != c.value {
			t.Errorf("%s: %s %s %s, %v", c.text, got.Col, got.Op, got.Value, err)
		}
	}
	for text, want := range map[string]string{
		"stats>1":  "status",
		"nonsense": "a comparison such as",
		"status!5": "a comparison such as",
		"usr in 1": "a column",
	} {
		if _, err := pg.ParseCondition(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q in it", text, err, want)
		}
	}
}
