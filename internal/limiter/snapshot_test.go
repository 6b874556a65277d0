package limiter_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/window"
)

const snapshotPolicy = `
version: 1
tenants:
  "*":
    rules:
      - {name: burst, limit: 3 per 300s, key: [user]}
      - {name: steady, limit: 40 per 30s, key: [user, method]}
      - {name: slow, limit: 2000/min, key: [method], algorithm: buckets}
      - {name: denied, limit: 90 per 20s, key: [user], count_denied: true}
`

// Limiters that recover from snapshots, which were saved while they decided,
// decide like one that never stopped; and they know the ids that it knew.
func TestSnapshotChangesNothing(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	c := newClock()
	text := strings.Replace(snapshotPolicy, "3 per 300s", "3/s", 1)
	change := func(config *limiter.Config) {
		config.Policy, config.Clock, config.SnapshotEvery = mustParse(t, text), c.Now, 100
	}
	oracle := decide.New(mustParse(t, text), window.NewMemory())
	r := rand.New(rand.NewPCG(1, 2))
	total, began := 0, 0
	for round := range 4 {
		run := start(t, nc, change)
		if got := run.metric(t, "weir_limiter_recovered_records"); round > 0 && got > float64(total-100) {
			t.Errorf("%v records of %d were read back", got, total)
		}
		if run.metric(t, "weir_limiter_ignored_snapshots_total") > 0 {
			t.Error("the snapshot was not used")
		}
		if round > 0 {
			ask(t, nc, "acme", fmt.Sprintf(`{"id":"%d"}`, began+5)) // no charge, no record
			if run.metric(t, "weir_limiter_repeated_total") != 1 {
				t.Error("an id that was decided before the snapshot is not known")
			}
		}
		began = total
		for asked := 0; asked < 200 || run.metric(t, "weir_limiter_snapshot_bytes") == 0; asked++ {
			if asked == 100_000 {
				t.Fatal("no snapshot")
			}
			c.Add(time.Duration(r.IntN(20)) * time.Millisecond)
			total++
			request := events.Request{ID: fmt.Sprint(total), User: fmt.Sprint("u", r.IntN(30)), Method: []string{"GET", "PUT"}[r.IntN(2)], Cost: int64(r.IntN(3))}
			got := ask(t, nc, "acme", string(events.AppendRequest(nil, &request)))
			request.Tenant, request.Gateway = "acme", "g"
			want := events.Record{Request: request}
			oracle.Check(&want)
			if err := oracle.Decide(t.Context(), c.Now()); err != nil {
				t.Fatal(err)
			}
			if g, w := events.AppendDecision(nil, &got), events.AppendDecision(nil, &want.Decision); string(g) != string(w) {
				t.Fatalf("round %d, decision\n%s, want\n%s", round, g, w)
			}
		}
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// A snapshot that is no good is told of, and what the journal holds is known.
func TestBadSnapshots(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c := newClock()
	change := func(config *limiter.Config) {
		config.Policy, config.Clock = mustParse(t, snapshotPolicy), c.Now
	}
	run := start(t, nc, func(config *limiter.Config) { change(config); config.SnapshotEvery = 20 })
	raise := events.Command{ID: "o", Kind: events.ControlOverride, Rule: "burst", Key: []string{"raised"}, Limit: "9/s", Until: c.Now().Add(time.Hour), By: "ann"}
	raised := mustCommand(t, nc, raise)
	left := askUntilSnapshot(t, nc, run)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	bucket, err := js.ObjectStore(t.Context(), names.SnapshotBucket(0))
	if err != nil {
		t.Fatal(err)
	}
	good, err := bucket.GetBytes(t.Context(), "windows")
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(b []byte) []byte) func(*testing.T) {
		return func(t *testing.T) {
			if _, err := bucket.PutBytes(t.Context(), "windows", change(bytes.Clone(good))); err != nil {
				t.Fatal(err)
			}
		}
	}
	same := func(b []byte) []byte { return b }
	for _, test := range []struct {
		name    string
		spoil   func(t *testing.T)
		config  func(*limiter.Config)
		ignored float64
		more    int64 // that is left than was before; negative: nothing is known
	}{
		{"none wrong", edit(same), change, 0, 0},
		{"empty", edit(func([]byte) []byte { return nil }), change, 1, 0},
		{"of another version", edit(func(b []byte) []byte { b[14]++; return b }), change, 1, 0},
		{"cut in its header", edit(func(b []byte) []byte { return b[:40] }), change, 1, 0},
		{"cut in a part", edit(func(b []byte) []byte { return b[:len(b)*9/10] }), change, 1, 0},
		{"without its end", edit(func(b []byte) []byte { return b[:len(b)-21] }), change, 1, 0},
		{"longer than its end", edit(func(b []byte) []byte { return append(b, 0) }), change, 1, 0},
		{"of a journal that was restored", edit(func(b []byte) []byte { b[len(b)-1]++; return b }), change, 1, 0},
		{"without its chunks", func(t *testing.T) {
			edit(same)(t)
			purgeChunks(t, js)
		}, change, 1, 0},
		{"with other bytes", edit(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("acme\x00"), []byte("acme\xff")) }), change, 0, -100},
		{"of a shorter window", edit(same), func(config *limiter.Config) {
			change(config)
			config.Policy = mustParse(t, "version: 1\ntenants: {\"*\": {rules: [{name: steady, limit: 40/hour, key: [user, method]}]}}")
		}, 1, 37},
		{"gone", func(t *testing.T) {
			if err := js.DeleteObjectStore(t.Context(), names.SnapshotBucket(0)); err != nil {
				t.Fatal(err)
			}
		}, change, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.spoil(t)
			c.Add(2 * time.Second) // ids are minted by the second
			run := start(t, nc, test.config)
			if got := run.metric(t, "weir_limiter_ignored_snapshots_total"); got != test.ignored {
				t.Errorf("%v snapshots ignored, want %v", got, test.ignored)
			}
			if again := mustCommand(t, nc, raise); again != raised {
				t.Errorf("the command came again and was done again:\n%+v, before\n%+v", again, raised)
			}
			for user, was := range left {
				want := was + test.more
				if test.more < 0 {
					want = 3
				}
				d := ask(t, nc, "acme", fmt.Sprintf(`{"user":%q,"method":"GET","cost":0}`, user))
				if d.Remaining != want {
					t.Fatalf("user %s: %d left, want %d", user, d.Remaining, want)
				}
			}
			if d := ask(t, nc, "acme", `{"user":"raised","method":"GET","cost":0}`); d.Remaining != 9 && test.more <= 0 {
				t.Errorf("%+v, want 9 left, as the override by hand says", d)
			}
			if err := run.stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// askUntilSnapshot has a limiter decide until it has stored a snapshot, and
// returns what is left to users that have used some of their burst.
func askUntilSnapshot(t *testing.T, nc *nats.Conn, run running) map[string]int64 {
	t.Helper()
	left := map[string]int64{}
	for i := range 60 {
		user := fmt.Sprint("u", i)
		for used := range 1 + int64(i%3) {
			left[user] = 2 - used
			ask(t, nc, "acme", fmt.Sprintf(`{"user":%q,"method":"GET"}`, user))
		}
	}
	testenv.Eventually(t, 20*time.Second, func() error {
		ask(t, nc, "acme", `{"user":"another","method":"GET","cost":0}`)
		if run.metric(t, "weir_limiter_snapshot_bytes") == 0 {
			return errors.New("no snapshot")
		}
		return nil
	})
	return left
}

// purgeChunks leaves of a snapshot that it was there.
func purgeChunks(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "OBJ_"+names.SnapshotBucket(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("$O."+names.SnapshotBucket(0)+".C.>")); err != nil {
		t.Fatal(err)
	}
}

// A limiter that is told to stop while the server does not give it a chunk of the
// snapshot stops.
func TestStopWhileSnapshotIsLoaded(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	change := func(config *limiter.Config) {
		config.Policy, config.SnapshotEvery = mustParse(t, snapshotPolicy), 20
	}
	run := start(t, nc, change)
	askUntilSnapshot(t, nc, run)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	ask := "$JS.API.DIRECT.GET.OBJ_" + names.SnapshotBucket(0) + " "
	silent := follow(t, nc, strings.ToLower(strings.TrimSpace(ask)))
	theirs, err := nats.Connect(url, nats.SetCustomDialer(elsewhere(ask)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(theirs.Close)
	run = launch(t, theirs, change)
	if _, err := silent.NextMsg(10 * time.Second); err != nil {
		t.Fatalf("no chunk of the snapshot was asked for: %v", err)
	}
	began := time.Now()
	if err := run.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the limiter stopped after %v", took)
	}
}

// elsewhere makes connections to a server on which what is sent to one subject goes
// to another one: the same in lower case.
type elsewhere string

func (e elsewhere) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &elsewhereConn{conn, []byte(e)}, err
}

type elsewhereConn struct {
	net.Conn
	subject []byte
}

func (c *elsewhereConn) Write(p []byte) (int, error) {
	return c.Conn.Write(bytes.ReplaceAll(p, c.subject, bytes.ToLower(c.subject)))
}

// What attempts to store a snapshot have left in its bucket goes with the next one.
func TestSnapshotAttemptsArePurged(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.CreateObjectStore(t.Context(), jetstream.ObjectStoreConfig{Bucket: names.SnapshotBucket(0)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.PutString(t.Context(), "windows", "the one before"); err != nil {
		t.Fatal(err)
	}
	chunks := "$O." + names.SnapshotBucket(0) + ".C."
	for attempt := range 3 {
		if _, err := js.Publish(t.Context(), chunks+fmt.Sprint("killed", attempt), []byte("half of one")); err != nil {
			t.Fatal(err)
		}
	}
	run := start(t, nc, func(config *limiter.Config) {
		config.Policy, config.SnapshotEvery = mustParse(t, snapshotPolicy), 20
	})
	askUntilSnapshot(t, nc, run)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	object, err := bucket.GetInfo(t.Context(), "windows")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "OBJ_"+names.SnapshotBucket(0))
	if err != nil {
		t.Fatal(err)
	}
	held, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(chunks+">"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{chunks + object.NUID: uint64(object.Chunks)}
	if !maps.Equal(held.State.Subjects, want) {
		t.Errorf("the bucket holds chunks %v, want %v", held.State.Subjects, want)
	}
}

// A snapshot of another journal, which bore the same name, is not used.
func TestSnapshotOfAnotherJournal(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	change := func(config *limiter.Config) {
		config.Policy, config.SnapshotEvery = mustParse(t, snapshotPolicy), 20
	}
	run := start(t, nc, change)
	askUntilSnapshot(t, nc, run)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), names.JournalStream(0)); err != nil {
		t.Fatal(err)
	}
	change = func(config *limiter.Config) { config.Policy = mustParse(t, snapshotPolicy) }
	run = start(t, nc, change)
	for range 300 {
		ask(t, nc, "acme", `{"user":"another"}`)
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	run = start(t, nc, change)
	if run.metric(t, "weir_limiter_ignored_snapshots_total") != 1 {
		t.Error("the snapshot was used")
	}
	if d := ask(t, nc, "acme", `{"user":"u1","method":"GET","cost":0}`); d.Remaining != 3 {
		t.Errorf("%+v, want 3 left of burst: nothing is known of u1", d)
	}
}
