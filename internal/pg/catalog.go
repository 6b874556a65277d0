package pg

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
)

// kind is the type of a column as queries see it.
type kind int

const (
	kindText kind = iota
	kindNumber
	kindBool
	kindTime
	kindInet
	kindID
	kindJSON
	kindShare // a float that is only an output
)

// sqlTypes are the types that values are sent as, and outputs have.
var sqlTypes = map[kind]string{
	kindText: "text", kindNumber: "bigint", kindBool: "boolean", kindTime: "timestamptz", kindInet: "inet", kindID: "bigint", kindJSON: "text", kindShare: "float8",
}

// column is one that queries may name, or what stands in its place.
type column struct {
	sql  string // of a column its name
	kind kind
}

// catalog lists the columns of requests_with_outcomes that queries may name.
var catalog = []column{
	{"id", kindID}, {"ts", kindTime}, {"decided_at", kindTime}, {"occurred_at", kindTime},
	{"request_id", kindText}, {"tenant", kindText}, {"gateway", kindText}, {"identity", kindText},
	{"user_id", kindText}, {"api_key", kindText}, {"ip", kindInet}, {"method", kindText}, {"host", kindText},
	{"path", kindText}, {"route", kindText}, {"cost", kindNumber}, {"count", kindNumber},
	{"verdict", kindText}, {"reason", kindText}, {"rule", kindText}, {"key", kindText},
	{"limit_count", kindNumber}, {"remaining", kindNumber}, {"retry_after_ms", kindNumber},
	{"policy", kindNumber}, {"degraded", kindBool}, {"late", kindBool}, {"status", kindNumber},
	{"latency_us", kindNumber}, {"bytes_in", kindNumber}, {"bytes_out", kindNumber},
	{"rules", kindJSON}, {"attrs", kindJSON}, {"outcome_ts", kindTime},
}

func columnNames() []string {
	names := make([]string, len(catalog))
	for i, c := range catalog {
		names[i] = c.sql
	}
	return names
}

// findColumn finds a column by name; field says where in the query the name
// stood.
func findColumn(field, name string) (column, error) {
	for _, c := range catalog {
		if c.sql == name {
			return c, nil
		}
	}
	return column{}, unknown(field, name, "a column", columnNames())
}

// unknown says that a name is none of those known, and which is nearest.
func unknown(field, name, want string, known []string) error {
	return &events.FieldError{Field: field, Value: name, Want: want + "; the nearest is " + nearest(name, known)}
}

// nearest returns the name with the fewest edits to s; one that s is part of
// counts as one edit.
func nearest(s string, names []string) string {
	s = s[:min(len(s), 100)]
	best, least := "", len(s)+1000
	for _, name := range names {
		d := edits(s, name)
		if len(s) > 2 && strings.Contains(name, s) {
			d = min(d, 1)
		}
		if d < least {
			best, least = name, d
		}
	}
	return best
}

// edits is the Levenshtein distance of two strings, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// parseValue reads a condition's value as the column's type has it.
func (c column) parseValue(field string, raw json.RawMessage) (any, error) {
	var (
		value any
		err   error
		want  string
		text  string
	)
	isText := json.Unmarshal(raw, &text) == nil
	if c.kind != kindNumber && c.kind != kindBool && !isText {
		return nil, &events.FieldError{Field: field, Value: string(raw), Want: "a string"}
	}
	switch c.kind {
	case kindText:
		value, want = text, "text without NUL"
		if strings.IndexByte(text, 0) >= 0 {
			err = errors.New("NUL")
		}
	case kindNumber:
		value, err = strconv.ParseInt(string(raw), 10, 64)
		want = "a whole number"
	case kindBool:
		value, err = strconv.ParseBool(string(raw))
		want = "true or false"
	case kindTime:
		value, err = time.Parse(time.RFC3339Nano, text)
		want = "a time such as 2026-05-17T10:05:03Z (RFC 3339)"
	case kindInet:
		value, err = parsePrefix(text)
		want = "an address or a network such as 10.0.0.0/8"
	case kindID:
		var id idgen.ID
		id, err = idgen.Parse(text)
		value, want = int64(id), "an id such as AO3272652345-000042017"
	}
	if err != nil {
		return nil, &events.FieldError{Field: field, Value: string(raw), Want: want}
	}
	return value, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		return p.Masked(), err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("address %q", text)
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}
