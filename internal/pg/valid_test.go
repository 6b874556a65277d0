package pg_test

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
)

// Nothing is changed on its way into Postgres, for nothing has to be: what
// cannot be stored is refused where requests come in, and by the limiter if it
// came past that. Here requests are made of what is hard to store, and those that
// are valid become rows.
func TestWhatIsValidIsARow(t *testing.T) {
	db, _ := mustMigrated(t)
	texts := []string{"", "a", "\x00", "\xff", "\xed\xa0\x80", "\uFFFF", "\U0010FFFF", "é", "\n\t\x01\x7f", `\`, `"`, `\N`, `\.`, strings.Repeat("x", 1<<10)}
	values := []string{
		`"a"`, `"\u0000"`, `"\ud800"`, `"\udc00"`, `"\ud83d\ude00"`, `"\ud83d\u0041"`, "\"\x00\"", "\"\xff\"", `"\uFFFF"`, `"\b\f\/"`, `"\x"`,
		`1`, `-0`, `-0.0e-0`, `1e308`, `-1.7976931348623157e308`, `1e309`, `1e400`, `1e-308`, `1e-309`, `1e-20000`, `0e-20000`, `1e131072`, `1E+05`,
		`0.` + strings.Repeat("0", 307) + `1`, `0.` + strings.Repeat("9", 400), strings.Repeat("9", 309), strings.Repeat("9", 4000), `0.` + strings.Repeat("1", 4000), `01`, `NaN`,
		`true`, `null`, `[]`, `{}`, `{"":{"":1},"":2}`, `{"\u0000":1}`,
		strings.Repeat("[", 31) + strings.Repeat("]", 31), strings.Repeat("[", 33) + strings.Repeat("]", 33), strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000),
	}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	numbers := []int64{-1, 0, 1, 999, 1000, 1 << 32, 1 << 40, 1 << 50, 1 << 62}
	number := func() int64 { return numbers[r.IntN(len(numbers))] }
	addresses := []netip.Addr{{}, netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("::"), netip.MustParseAddr("::ffff:192.0.2.7"), netip.MustParseAddr("fe80::1%eth0")}
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	valid := make([]events.Record, 0, 1000)
	for len(valid) < cap(valid) {
		rec := full()
		q := &rec.Request
		// Most of what is hard is not valid: one of its kind at a time.
		switch r.IntN(5) {
		case 0:
			q.User, q.Host = pick(texts)+pick(texts), pick(texts)
		case 1:
			q.Method, q.Path, q.Route, q.ID = pick(texts), "/"+pick(texts)+pick(texts), pick(texts), pick(texts)
		case 2:
			q.Attrs = `{"a":` + pick(values) + `,"b":[` + pick(values) + `,` + pick(values) + `]}`
		case 3:
			q.Cost, q.Status, q.LatencyUS, q.BytesIn, q.BytesOut, q.Count = number(), number(), number(), number(), number(), number()
		case 4:
			q.IP, q.Time = addresses[r.IntN(len(addresses))], time.Unix(r.Int64N(1<<33)-1<<32, 0)
		}
		if q.Validate() == nil {
			valid = append(valid, rec)
		}
	}
	add(t, &b, 1, stored, valid...)
	if got, err := db.Commit(t.Context(), &b); err != nil || got.Rows != len(valid) {
		t.Errorf("commit: %+v, %v", got, err)
	}
	letters, err := db.DeadLetters(t.Context(), 0, stream, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range letters {
		t.Errorf("%.300s: %s", l.Record, l.Error)
	}
}
