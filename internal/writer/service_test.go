package writer_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/pg"
)

func TestQueriesOverNATS(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	w := e.start(e.url)
	nc := e.js.Conn()
	ask := func(subject, body string) *nats.Msg {
		t.Helper()
		m, err := nc.Request(subject, []byte(body), 20*time.Second)
		if err != nil {
			t.Fatalf("%s %.100s: %v", subject, body, err)
		}
		return m
	}
	<-w.Ready()
	e.blocks(3, 5)
	for _, tt := range []struct{ subject, body, code, want string }{
		{"weir.query", `{"group_by":["user_id"],"wait_for":"now"}`, "", `{"rows":[{"user_id":"u","count":15}],"source":"rows","as_of":"`},
		{"weir.query.acme", `{"wait_for":"now"}`, "", `{"rows":[{"count":15}]`},
		{"weir.query.other", `{"wait_for":"now"}`, "", `{"rows":[{"count":0}]`},
		{"weir.query.other", `{"where":[{"col":"tenant","op":"=","value":"acme"}],"select":["request_id"]}`, "", `{"rows":[]`},
		{"weir.query.other", `{"tenant":"acme"}`, "400", `"errors":[{"field":"tenant","found":"acme","expected":"the subject's, other"}]`},
		{"weir.query.acme", `{"explain":true}`, "400", `a plan tells of all tenants' rows`},
		{"weir.query", `{"select":["cuont"]}`, "400", `{"title":"Bad Request","status":400,"detail":"select[0]: want a measure; the nearest is count`},
		{"weir.query", `{"where":[{"col":"path","op":"=","value":"` + strings.Repeat("x", pg.MaxQuery) + `"}]}`, "413", "65536 bytes"},
	} {
		m := ask(tt.subject, tt.body)
		if code := m.Header.Get(micro.ErrorCodeHeader); code != tt.code || !strings.Contains(string(m.Data), tt.want) {
			t.Errorf("%s %.100s: %s %s\nwant %s %s", tt.subject, tt.body, code, m.Data, tt.code, tt.want)
		}
	}
	var info micro.Info
	if err := json.Unmarshal(ask("$SRV.INFO.weir-query", "").Data, &info); err != nil || len(info.Endpoints) != 2 {
		t.Errorf("info %+v, %v", info, err)
	}
	if w.queries(t, "200") != 4 || w.queries(t, "400") != 3 {
		t.Errorf("%v answered, %v refused", w.queries(t, "200"), w.queries(t, "400"))
	}
}

// TestWaitForNow: what the journal holds when a query comes is in its answer,
// though the writer has yet to store it.
func TestWaitForNow(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	w := e.start(e.url)
	<-w.Ready()
	e.exec(`BEGIN; LOCK TABLE requests IN EXCLUSIVE MODE`) // rows can be read and not stored
	e.blocks(1, 5)
	ask := func(body string) (string, error) {
		m, err := e.js.Conn().Request("weir.query", []byte(body), 20*time.Second)
		if err != nil {
			return "", err
		}
		return string(m.Data), nil
	}
	var waiting string
	var g errgroup.Group
	g.Go(func() (err error) {
		waiting, err = ask(`{"wait_for":"now"}`)
		return err
	})
	e.eventually("the writer cannot store", func() bool {
		return e.number(`SELECT count(*) FROM pg_locks WHERE relation = 'requests'::regclass AND NOT granted`) == 1
	})
	if text, err := ask(`{}`); err != nil || !strings.HasPrefix(text, `{"rows":[{"count":0}]`) {
		t.Errorf("without waiting: %s, %v", text, err)
	}
	e.exec(`COMMIT`)
	if err := g.Wait(); err != nil || !strings.HasPrefix(waiting, `{"rows":[{"count":5}]`) {
		t.Errorf("waiting: %s, %v", waiting, err)
	}
}
