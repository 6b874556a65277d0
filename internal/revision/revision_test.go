package revision_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/testenv"
)

var names = events.Names{Prefix: "other"}

const (
	first  = "version: 1\ntenants: {}\n"
	second = "version: 1\ndefaults: { on_error: deny }\ntenants: {}\n"
)

func TestRevisions(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(testenv.Connect(t, testenv.NATS(t)))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if r, err := revision.Newest(ctx, js, names); err != nil || r.Number != 0 || string(r.Text) != policy.DefaultSource() {
		t.Errorf("before any is applied: %+v, %v", r, err)
	}
	if _, err := revision.Apply(ctx, js, names, []byte("version: 7")); err == nil {
		t.Error("what does not parse is applied")
	}
	a, err := revision.Apply(ctx, js, names, []byte(first))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := revision.Apply(ctx, js, names, []byte(first)); err != nil || again.Revision != a.Revision {
		t.Errorf("applied again: %+v, %v; want revision %d as it was", again, err, a.Revision)
	}
	for _, expected := range []uint64{0, a.Revision + 1} {
		if _, err := revision.Put(ctx, js, names, []byte(second), expected); !errors.Is(err, revision.ErrChanged) {
			t.Errorf("put after revision %d: %v, want ErrChanged", expected, err)
		}
	}
	b, err := revision.Apply(ctx, js, names, []byte(second))
	if err != nil || b.OnError != events.Deny || b.Revision <= a.Revision {
		t.Fatalf("the second: %+v, %v", b, err)
	}
	list, err := revision.History(ctx, js, names)
	if err != nil || len(list) != 3 || list[0].Number != 0 || string(list[1].Text) != first || string(list[2].Text) != second {
		t.Errorf("history %+v, %v", list, err)
	}
	if p, err := revision.Open(ctx, js, names, ""); err != nil || p.Revision != b.Revision {
		t.Errorf("the newest: %+v, %v", p, err)
	}
}

// Next waits for what is there in the end: a bucket that is made, and made
// again, and the built-in policy when it is gone.
func TestNext(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(testenv.Connect(t, testenv.NATS(t)))
	if err != nil {
		t.Fatal(err)
	}
	type found struct {
		revision.Revision
		err error
	}
	next := func(ctx context.Context, seen uint64) chan found {
		c := make(chan found, 1)
		go func() {
			r, err := revision.Next(ctx, js, names, seen)
			c <- found{r, err}
		}()
		return c
	}
	want := func(c chan found, text string) uint64 {
		t.Helper()
		select {
		case f := <-c:
			if f.err != nil || string(f.Text) != text {
				t.Fatalf("found %+v, want %q", f, text)
			}
			return f.Number
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing is found, want %q", text)
		}
		return 0
	}
	// looking is next, once it has sent a request.
	looking := func(request string, seen uint64) chan found {
		t.Helper()
		sub, err := js.Conn().SubscribeSync(request)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Unsubscribe()
		c := next(t.Context(), seen)
		if _, err := sub.NextMsg(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		return c
	}
	waiting := looking("$JS.API.STREAM.INFO.KV_other_policy", 0)
	for range 2 { // the second time as if it was restored
		if _, err := revision.Apply(t.Context(), js, names, []byte(first)); err != nil {
			t.Fatal(err)
		}
		seen := want(waiting, first)
		waiting = looking("$JS.API.DIRECT.GET.KV_other_policy.>", seen)
		if err := js.DeleteKeyValue(t.Context(), names.PolicyBucket()); err != nil {
			t.Fatal(err)
		}
		want(waiting, policy.DefaultSource())
		waiting = looking("$JS.API.STREAM.INFO.KV_other_policy", 0)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := next(ctx, 0)
	cancel()
	if f := <-ended; !errors.Is(f.err, context.Canceled) {
		t.Errorf("after its end: %+v", f)
	}
}
