package pg

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
)

// requestColumns are the columns of requests in the order of appendRow.
const (
	requestColumns = `id, ts, decided_at, occurred_at, request_id, tenant, gateway, identity, user_id, api_key,
	ip, method, host, path, route, cost, count, verdict, reason, rule, key, limit_count, remaining,
	retry_after_ms, policy, degraded, late, status, latency_us, bytes_in, bytes_out, rules, attrs`
	requestColumnCount = 33
)

// The binary format of COPY, from its page in Postgres' manual: a header, the
// rows, a trailer. Numbers are big-endian; a field is its length and its bytes,
// where the length -1 stands for null.
const (
	copyRequests = `COPY requests (` + requestColumns + `) FROM STDIN BINARY`
	copyHeader   = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	copyTrailer  = "\xff\xff"
)

// row appends the fields of one row.
type row []byte

// appendRow appends the row of a record in COPY's binary format. It allocates
// nothing but for records whose request matched several rules, and for what was
// done by hand.
func appendRow(dst []byte, id idgen.ID, stored time.Time, rec *events.Record) []byte {
	if rec.Control != nil {
		return appendControl(dst, id, stored, rec.Control)
	}
	q, d := &rec.Request, &rec.Decision
	b := row(binary.BigEndian.AppendUint16(dst, requestColumnCount))
	b.bigint(int64(id))
	b.instant(stored)
	b.instant(d.DecidedAt)
	b.instant(q.Time)
	b.text(q.ID)
	b.text(q.Tenant)
	b.text(q.Gateway)
	b.identity(q)
	b.text(q.User)
	b.text(q.APIKey)
	b.inet(q.IP)
	b.text(q.Method)
	b.text(q.Host)
	b.text(q.Path)
	b.text(q.Route)
	b.bigint(d.Cost)
	b.bigint(max(q.Count, 1))
	b.text(string(d.Verdict))
	b.text(string(d.Reason))
	if d.Rule == "" {
		b.null()
		b.null()
		b.null()
		b.null()
	} else {
		b.text(d.Rule)
		b.anyText(d.Key)
		b.bigint(d.Limit)
		b.bigint(d.Remaining)
	}
	b.known(d.RetryAfterMS)
	b.bigint(int64(d.Policy))
	b.boolean(d.Degraded)
	b.boolean(d.Reason == events.ReasonLate)
	b.smallint(q.Status)
	b.known(q.LatencyUS)
	b.known(q.BytesIn)
	b.known(q.BytesOut)
	b.charges(rec.Charges)
	b.object(q.Attrs)
	return b
}

// appendControl appends the row of what was done to a key by hand. It stands
// for no request.
func appendControl(dst []byte, id idgen.ID, stored time.Time, c *events.Control) []byte {
	b := row(binary.BigEndian.AppendUint16(dst, requestColumnCount))
	nulls := func(n int) {
		for range n {
			b.null()
		}
	}
	override := c.Kind == events.ControlOverride
	b.bigint(int64(id))
	b.instant(stored)
	b.instant(c.At)
	b.null()
	b.text(c.ID)
	b.text(c.Tenant)
	b.null()
	b.text(c.By) // as identity
	b.text(c.By)
	nulls(6) // api_key to route
	b.bigint(0)
	b.bigint(0) // count
	b.null()    // verdict
	b.text(string(c.Kind))
	b.text(c.Rule)
	b.anyText(c.Key)
	if override {
		b.bigint(c.Limit)
	} else {
		b.null()
	}
	nulls(2) // remaining, retry_after_ms
	b.bigint(int64(c.Policy))
	b.boolean(false)
	b.boolean(false)
	nulls(5) // status to rules
	if override {
		b.object(overrideAttrs(c))
	} else {
		b.null()
	}
	return b
}

// overrideMore is what the columns do not say of an override.
type overrideMore struct {
	WindowMS int64     `json:"window_ms"`
	Until    time.Time `json:"until"`
}

// overrideAttrs is an override's attrs.
func overrideAttrs(c *events.Control) string {
	text, err := json.Marshal(overrideMore{c.WindowMS, c.Until})
	if err != nil {
		panic("pg: " + err.Error()) // plain data, read from JSON
	}
	return string(text)
}

func (b *row) null() { b.length(-1) }

func (b *row) length(n int) { *b = binary.BigEndian.AppendUint32(*b, uint32(int32(n))) }

func (b *row) bigint(n int64) {
	b.length(8)
	*b = binary.BigEndian.AppendUint64(*b, uint64(n))
}

// known appends a number whose zero says that it is not known.
func (b *row) known(n int64) {
	if n == 0 {
		b.null()
		return
	}
	b.bigint(n)
}

// smallint is known for a number to 999.
func (b *row) smallint(n int64) {
	if n == 0 {
		b.null()
		return
	}
	b.length(2)
	*b = binary.BigEndian.AppendUint16(*b, uint16(n))
}

func (b *row) boolean(v bool) {
	b.length(1)
	if v {
		*b = append(*b, 1)
	} else {
		*b = append(*b, 0)
	}
}

// text appends s, or null when it is empty.
func (b *row) text(s string) {
	if s == "" {
		b.null()
		return
	}
	b.anyText(s)
}

func (b *row) anyText(s string) {
	b.length(len(s))
	*b = append(*b, s...)
}

// instant appends microseconds since 2000, or null for the zero time.
func (b *row) instant(t time.Time) {
	const epoch = 946_684_800_000_000 // 2000 begins, Unix microseconds
	if t.IsZero() {
		b.null()
		return
	}
	b.bigint(t.UnixMicro() - epoch)
}

// identity appends the request's Identity without making a string of it.
func (b *row) identity(q *events.Request) {
	if q.User != "" || q.APIKey != "" || !q.IP.IsValid() {
		b.text(q.Identity())
		return
	}
	at := len(*b)
	b.length(0)
	*b = q.IP.AppendTo(*b)
	binary.BigEndian.PutUint32((*b)[at:], uint32(len(*b)-at-4))
}

// inet appends family, prefix length, whether it is a network, address length
// and address, as inet_send of Postgres does.
func (b *row) inet(addr netip.Addr) {
	const family4, family6 = 2, 3
	switch {
	case !addr.IsValid():
		b.null()
	case addr.Is4():
		ip := addr.As4()
		b.length(4 + len(ip))
		*b = append(*b, family4, 32, 0, byte(len(ip)))
		*b = append(*b, ip[:]...)
	default:
		ip := addr.As16()
		b.length(4 + len(ip))
		*b = append(*b, family6, 128, 0, byte(len(ip)))
		*b = append(*b, ip[:]...)
	}
}

// object appends JSON as jsonb takes it: a version and the text.
func (b *row) object(text string) {
	if text == "" {
		b.null()
		return
	}
	b.length(1 + len(text))
	*b = append(*b, 1)
	*b = append(*b, text...)
}

func (b *row) charges(charges []events.Charge) {
	if len(charges) == 0 {
		b.null()
		return
	}
	text, err := json.Marshal(charges)
	if err != nil {
		panic("pg: " + err.Error()) // charges are plain data
	}
	b.object(string(text))
}
