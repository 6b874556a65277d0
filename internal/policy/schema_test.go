package policy_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/weirhq/weir/internal/policy"
)

var schema = sync.OnceValue(func() *jsonschema.Schema {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(policy.Schema()))
	if err != nil {
		panic(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("policy.json", doc); err != nil {
		panic(err)
	}
	return c.MustCompile("policy.json")
})

// validate holds a policy file against the schema.
func validate(tb testing.TB, text string) error {
	tb.Helper()
	var doc any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		tb.Fatalf("%v\nin\n%s", err, text)
	}
	return schema().Validate(plain(doc))
}

// plain turns a YAML value into one of encoding/json.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case uint64:
		return int(v)
	case int64:
		return int(v)
	}
	return v
}

func TestSchema(t *testing.T) {
	if err := validate(t, policy.DefaultSource()); err != nil {
		t.Error(err)
	}
	for _, text := range []string{
		"version: 1\ntenant: {}\ntenants: {}\n",
		"version: 2\ntenants: {}\n",
		"tenants: {}\n",
		"version: 1\ndefaults: {wait: 1s}\ntenants: {}\n",
		"version: 1\ntenants:\n  a.b: {rules: []}\n",
		"version: 1\ntenants:\n  a: {}\n",
		"version: 1\ntenants:\n  a: {rulez: []}\n",
		withRule("name: r", "key: [user]"),
		withRule("name: r", "limit: 1/s"),
		withRule(goodRule+"limit: 1/s", "wen: 'true'"),
		withRule(goodRule+"limit: 1/s", "match: {path: [/x]}"),
		withRule(goodRule+"limit: 1/s", "match: {}"),
		withRule(goodRule+"limit: 1/s", "overrides: [{key: [x], limit: 1/s, since: x}]"),
		withRule(goodRule+"limit: 1/s", "overrides: [{key: [x], limit: 1/s, until: tomorrow}]"),
		withRule(goodRule + "limit: 1/week"),
		withRule("name: r", "limit: 1/s", "key: [ip/129]"),
		withRule("name: r", "limit: 1/s", "key: [attrs]"),
	} {
		if validate(t, text) == nil {
			t.Errorf("the schema takes\n%s", text)
		}
		if _, err := policy.Parse([]byte(text)); err == nil {
			t.Errorf("Parse takes\n%s", text)
		}
	}
}
