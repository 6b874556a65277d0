package idgen_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/idgen"
)

func TestParseRefuses(t *testing.T) {
	form := func(found string) string { return `id: want the form AO3272652345-000042017, found "` + found + `"` }
	for _, tt := range []struct{ text, want string }{
		{"", form("")},
		{"AO", form("AO")},
		{"AO3272652345-00004201", form("AO3272652345-00004201")},
		{"AO3272652345-0000420170", form("AO3272652345-0000420170")},
		{"2632752345000042017", form("2632752345000042017")},
		{"ao3272652345-000042017", form("ao3272652345-000042017")},
		{"AO3272652345_000042017", form("AO3272652345_000042017")},
		{"AO+272652345-000042017", form("AO+272652345-000042017")},
		{"AO327-652345-000042017", form("AO327-652345-000042017")},
		{"AO3272652345-+00042017", form("AO3272652345-+00042017")},
		{"AO32726 2345-000042017", form("AO32726 2345-000042017")},
		{" AO3272652345-00004201", form(" AO3272652345-00004201")},
		{"AO327265234５-0000420", form("AO327265234５-0000420")},
		{"AO3272652345-00004201\x00", form(`AO3272652345-00004201\x00`)},
		{strings.Repeat("9", 1<<20), form(strings.Repeat("9", 44))},
		{"AO0002652345-000042017", `id "AO0002652345-000042017": want a day from 001 to 365 in 2026, found 000`},
		{"AO3662652345-000042017", `id "AO3662652345-000042017": want a day from 001 to 365 in 2026, found 366`},
		{"AO3672852345-000042017", `id "AO3672852345-000042017": want a day from 001 to 366 in 2028, found 367`},
		{"AO3272686400-000042017", `id "AO3272686400-000042017": want a second from 00000 to 86399, found 86400`},
		{"AO0019200000-000042017", `id "AO0019200000-000042017": want a year from 00 to 91, found 92`},
		{"AO9999999999-999999999", `id "AO9999999999-999999999": want a year from 00 to 91, found 99`},
	} {
		id, err := idgen.Parse(tt.text)
		if err == nil || err.Error() != tt.want || id != 0 {
			t.Errorf("Parse(%.50q) = %d, %v; want %s", tt.text, int64(id), err, tt.want)
		}
	}
}

// Numbers that are no ids come from databases and people, not from Derive.
func TestNumbersThatAreNoIDs(t *testing.T) {
	for _, tt := range []struct {
		id         idgen.ID
		text, want string
	}{
		{0, "0", "id 0: want a day from 001 to 366 in 2000, found 000"},
		{-1, "-1", "id -1: want a number above zero"},
		{math.MinInt64, "-9223372036854775808", "id -9223372036854775808: want a number above zero"},
		{math.MaxInt64, "9223372036854775807", "id 9223372036854775807: want a year from 00 to 91, found 92"},
		{2636652345000042017, "2636652345000042017", "id 2636652345000042017: want a day from 001 to 365 in 2026, found 366"},
		{2632786400000042017, "2632786400000042017", "id 2632786400000042017: want a second from 00000 to 86399, found 86400"},
	} {
		if got := tt.id.String(); got != tt.text {
			t.Errorf("String of %d = %s", int64(tt.id), got)
		}
		if got, err := tt.id.AppendText([]byte("x")); err == nil || err.Error() != tt.want || string(got) != "x" {
			t.Errorf("AppendText of %d = %q, %v; want %s", int64(tt.id), got, err, tt.want)
		}
		if got, err := json.Marshal(tt.id); err == nil {
			t.Errorf("JSON of %d = %s", int64(tt.id), got)
		}
	}
}

func TestJSONRefuses(t *testing.T) {
	for _, text := range []string{`2632752345000042017`, `"2632752345000042017"`, `""`, `"AO3662652345-000042017"`, `{}`} {
		id := idgen.ID(7)
		if err := json.Unmarshal([]byte(text), &id); err == nil || id != 7 {
			t.Errorf("%s gives %d, %v", text, int64(id), err)
		}
	}
}

// What Parse accepts, String gives back byte for byte.
func FuzzParse(f *testing.F) {
	for _, tt := range examples {
		f.Add(tt.text)
	}
	f.Add("AO3662652345-000042017")
	f.Add("AO9999999999-999999999")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := idgen.Parse(text)
		if err != nil {
			if len(err.Error()) > 512 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if id.String() != text {
			t.Fatalf("Parse(%q) = %d, as text %s", text, int64(id), id)
		}
		again, err := idgen.Derive(id.Time(), id.Shard(), uint64(id)/1e3%1e4, int(id%1e3))
		if err != nil || again != id {
			t.Fatalf("%s derived again is %s, %v", id, again, err)
		}
	})
}

func BenchmarkAppendText(b *testing.B) {
	var text []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if text, err = idgen.ID(2632752345000042017).AppendText(text[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := idgen.Parse("AO3272652345-000042017"); err != nil {
			b.Fatal(err)
		}
	}
}
