package idgen_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/idgen"
)

func utc(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		panic(err)
	}
	return t
}

// examples were computed by hand from a calendar.
var examples = []struct {
	name   string
	stored string
	shard  int
	seq    uint64
	index  int
	id     idgen.ID
	text   string
}{
	{"the design's", "2026-11-23T14:32:25Z", 0, 42, 17, 2632752345_000042017, "AO3272652345-000042017"},
	{"the first", "2000-01-01T00:00:00Z", 0, 0, 0, 100000_000000000, "AO0010000000-000000000"},
	{"the last", "2091-12-31T23:59:59.999999999Z", 99, 9999, 999, 9136586399_999999999, "AO3659186399-999999999"},
	{"block sequence past 10,000", "2026-11-23T14:32:25.75Z", 7, 1_230_042, 17, 2632752345_070042017, "AO3272652345-070042017"},
	{"largest block sequence", "2026-11-23T14:32:25Z", 7, math.MaxUint64, 0, 2632752345_071615000, "AO3272652345-071615000"},
	{"another time zone", "2027-01-01T01:30:00+02:00", 1, 2, 3, 2636584600_010002003, "AO3652684600-010002003"},
	{"leap day of 2000", "2000-02-29T12:00:00Z", 0, 0, 0, 6043200_000000000, "AO0600043200-000000000"},
	{"end of 2000", "2000-12-31T23:59:59Z", 0, 0, 0, 36686399_000000000, "AO3660086399-000000000"},
	{"beginning of 2001", "2001-01-01T00:00:00Z", 0, 0, 0, 100100000_000000000, "AO0010100000-000000000"},
	{"end of February, no leap year", "2026-02-28T23:59:59Z", 0, 0, 0, 2605986399_000000000, "AO0592686399-000000000"},
	{"beginning of March, no leap year", "2026-03-01T00:00:00Z", 0, 0, 0, 2606000000_000000000, "AO0602600000-000000000"},
	{"beginning of March, leap year", "2028-03-01T00:00:00Z", 0, 0, 0, 2806100000_000000000, "AO0612800000-000000000"},
	{"end of a leap year", "2088-12-31T00:00:01Z", 0, 0, 0, 8836600001_000000000, "AO3668800001-000000000"},
	{"end of a year before a leap year", "2027-12-31T23:59:59Z", 0, 0, 0, 2736586399_000000000, "AO3652786399-000000000"},
}

func TestExamples(t *testing.T) {
	for _, tt := range examples {
		t.Run(tt.name, func(t *testing.T) {
			stored := utc(tt.stored)
			id, err := idgen.Derive(stored, tt.shard, tt.seq, tt.index)
			if err != nil || id != tt.id {
				t.Fatalf("Derive = %d, %v; want %d", int64(id), err, int64(tt.id))
			}
			if got := id.String(); got != tt.text {
				t.Errorf("String = %s, want %s", got, tt.text)
			}
			if got, err := idgen.Parse(tt.text); err != nil || got != tt.id {
				t.Errorf("Parse = %d, %v; want %d", int64(got), err, int64(tt.id))
			}
			if got, want := id.Time(), stored.UTC().Truncate(time.Second); got != want {
				t.Errorf("Time = %v, want %v", got, want)
			}
			if got := id.Shard(); got != tt.shard {
				t.Errorf("Shard = %d, want %d", got, tt.shard)
			}
		})
	}
}

func TestDeriveRefuses(t *testing.T) {
	now := utc("2026-11-23T14:32:25Z")
	for _, tt := range []struct {
		stored       time.Time
		shard, index int
		want         string
	}{
		{utc("1999-12-31T23:59:59.999Z"), 0, 0, "stored: want a time from 2000 to 2091, found 1999-12-31T23:59:59Z"},
		{utc("2092-01-01T00:00:00Z"), 0, 0, "stored: want a time from 2000 to 2091, found 2092-01-01T00:00:00Z"},
		{utc("9999-12-31T23:59:59Z"), 0, 0, "stored: want a time from 2000 to 2091, found 9999-12-31T23:59:59Z"},
		{time.Time{}, 0, 0, "stored: want a time from 2000 to 2091, found 0001-01-01T00:00:00Z"},
		{now, -1, 0, "shard: want 0 to 99, found -1"},
		{now, 100, 0, "shard: want 0 to 99, found 100"},
		{now, 0, -1, "index: want 0 to 999, found -1"},
		{now, 0, 1000, "index: want 0 to 999, found 1000"},
	} {
		id, err := idgen.Derive(tt.stored, tt.shard, 1, tt.index)
		if err == nil || err.Error() != tt.want || id != 0 {
			t.Errorf("Derive(%v, %d, 1, %d) = %d, %v; want %s", tt.stored, tt.shard, tt.index, int64(id), err, tt.want)
		}
	}
}

// place is where a record stands, and what its id is made of.
type place struct {
	stored time.Time
	shard  int
	block  uint64
	index  int
}

// places draws from narrow ranges as often as from the whole, so that records
// of one second, shard or block come up together.
func places() *rapid.Generator[place] {
	first, last := utc("2000-01-01T00:00:00Z").UnixNano(), utc("2091-12-31T23:59:59.999999999Z").UnixNano()
	yearEnd := utc("2028-12-31T23:59:58Z").UnixNano()
	nanos := rapid.OneOf(rapid.Int64Range(first, last), rapid.Int64Range(yearEnd, yearEnd+4e9))
	return rapid.Custom(func(t *rapid.T) place {
		return place{
			stored: time.Unix(0, nanos.Draw(t, "nanos")).UTC(),
			shard:  rapid.OneOf(rapid.IntRange(0, 99), rapid.IntRange(0, 1)).Draw(t, "shard"),
			block:  rapid.OneOf(rapid.Uint64Range(0, 9999), rapid.Uint64Range(0, 1)).Draw(t, "block"),
			index:  rapid.OneOf(rapid.IntRange(0, 999), rapid.IntRange(0, 1)).Draw(t, "index"),
		}
	})
}

func (p place) id(t *rapid.T) idgen.ID {
	id, err := idgen.Derive(p.stored, p.shard, p.block, p.index)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// compare orders places as their ids must be ordered.
func (p place) compare(q place) int {
	if c := p.stored.Truncate(time.Second).Compare(q.stored.Truncate(time.Second)); c != 0 {
		return c
	}
	rest := func(p place) uint64 { return (uint64(p.shard)*10_000+p.block)*1_000 + uint64(p.index) }
	return int(max(-1, min(int64(rest(p))-int64(rest(q)), 1)))
}

// Two records have the same id only when they stand in the same place, else
// number and time agree on the order.
func TestDeriveOrdersAndIsUnique(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := places().Draw(t, "p"), places().Draw(t, "q")
		a, b := p.id(t), q.id(t)
		if got, want := sign(a, b), p.compare(q); got != want {
			t.Fatalf("%+v is %v and %+v is %v: ordered %d, want %d", p, a, q, b, got, want)
		}
	})
}

func sign(a, b idgen.ID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// The calendar is the time package's.
func TestDeriveRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := places().Draw(t, "p")
		id := p.id(t)
		if year := int64(id) / 1e17; year != int64(p.stored.Year()-2000) {
			t.Fatalf("%v: year %d", p.stored, year)
		}
		if day := int64(id) / 1e14 % 1000; day != int64(p.stored.YearDay()) {
			t.Fatalf("%v: day %d, want %d", p.stored, day, p.stored.YearDay())
		}
		if got, want := id.Time(), p.stored.Truncate(time.Second); got != want || id.Shard() != p.shard {
			t.Fatalf("%d is of %v, shard %d; want %v, shard %d", int64(id), got, id.Shard(), want, p.shard)
		}
		if got, err := idgen.Parse(id.String()); err != nil || got != id {
			t.Fatalf("%d is %v as text, and from there %d, %v", int64(id), id, int64(got), err)
		}
		line, err := json.Marshal(map[idgen.ID]idgen.ID{id: id})
		if want := `{"` + id.String() + `":"` + id.String() + `"}`; err != nil || string(line) != want {
			t.Fatalf("JSON = %s, %v; want %s", line, err, want)
		}
		var back map[idgen.ID]idgen.ID
		if err := json.Unmarshal(line, &back); err != nil || back[id] != id {
			t.Fatalf("from JSON %s: %v, %v", line, back, err)
		}
	})
}

func TestDeriveAllocatesNothing(t *testing.T) {
	stored := utc("2026-11-23T14:32:25Z")
	text := make([]byte, 0, 32)
	if n := testing.AllocsPerRun(100, func() {
		id, err := idgen.Derive(stored, 1, 2, 3)
		if err != nil {
			t.Fatal(err)
		}
		if text, err = id.AppendText(text[:0]); err != nil {
			t.Fatal(err)
		}
		if _, err := idgen.Parse("AO3272652345-000042017"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkDerive(b *testing.B) {
	stored := utc("2026-11-23T14:32:25Z")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := idgen.Derive(stored, 1, 42, 17); err != nil {
			b.Fatal(err)
		}
	}
}
