package main_test

import (
	"encoding/csv"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testenv"
)

// TestQuery asks in every way for requests that have just been decided: each
// way gives the same figures.
func TestQuery(t *testing.T) {
	t.Parallel()
	s := up(t, filepath.Join(t.TempDir(), "weir"), "--policy", patient(t))
	for i, city := range []string{"Mumbai", "Pune", "Delhi"} {
		body := fmt.Sprintf(`{"id":"r%d","tenant":"acme","user":"%d","method":"GET","path":"/a","attrs":{"plan":"pro","addresses":[{"city":%q},{"city":"Agra"}]}}`, i, i, city)
		answer, err := http.Post(s.addresses.Check+"/v1/check", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != 200 {
			t.Fatal(answer.Status)
		}
	}
	const query = `{"where":[{"attr":"addresses[*].city","op":"any_of","value":["Mumbai","Pune"]}],"group_by":["attrs.plan"],"wait_for":"now"}`
	file := filepath.Join(t.TempDir(), "query.json")
	if err := os.WriteFile(file, []byte(query), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--wait", "--where", "attrs.addresses[*].city any_of Mumbai,Pune", "--by", "attrs.plan"}, "attrs.plan  count\npro         2\n"},
		{[]string{"--file", file, "--format=csv"}, "attrs.plan,count\npro,2\n"},
		{[]string{"--file", file, "--by=user_id", "--where", "attrs.addresses[*].city = Pune", "--format=ndjson"}, `{"user_id":"1","count":1}` + "\n"},
		{[]string{"--bucket=1d", "--zone=Asia/Kolkata", "--select=count", "--json"}, `T00:00:00+05:30","count":3}],"source":"rows"`},
		{[]string{"--explain"}, `"explain":{"sql":"SELECT * FROM (SELECT coalesce(sum(count), 0)::bigint FROM requests_with_outcomes WHERE `},
		{[]string{"--file", "nothing.json"}, "open nothing.json: no such file"},
		{[]string{"--select=sum(path)", "--limit=0"}, "select[0]: want a column of numbers in the brackets, found \"sum(path)\"\nlimit: want 1 to 10000, found \"0\"\n"},
	} {
		if out, _ := weir(t, append([]string{"query", "--data", s.data}, tt.args...)...); !strings.Contains(out, tt.want) {
			t.Errorf("weir query %s:\n%s\nwant %s", tt.args, out, tt.want)
		}
	}
	var pages [][]string
	page := []string{"query", "--data", s.data, "--select=request_id,user_id", "--limit=2", "--format=csv"}
	for next := ""; ; {
		out, err := weir(t, append(page, "--next="+next)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		rows, told, _ := strings.Cut(out, "There are more")
		list, err := csv.NewReader(strings.NewReader(rows)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, list[1:]...)
		m := regexp.MustCompile(`--next=(\S+)`).FindStringSubmatch(told)
		if m == nil {
			break
		}
		next = m[1]
	}
	if got := fmt.Sprint(pages); got != "[[r2 2] [r1 1] [r0 0]]" {
		t.Errorf("pages %s", got)
	}
	const want = `{"rows":[{"attrs.plan":"pro","count":2}],"source":"rows","as_of":"`
	m, err := testenv.Connect(t, s.addresses.NATS).Request("weir.query", []byte(query), 20*time.Second)
	if err != nil || !strings.HasPrefix(string(m.Data), want) {
		t.Errorf("over NATS: %+v, %v", m, err)
	}
}
