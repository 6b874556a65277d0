package ingest

import (
	"fmt"
	"net/netip"
	"strconv"

	ratelimit "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/weirhq/weir/internal/events"
)

const (
	maxDescriptors = 32 // of one request: each is a check under way
	maxEntries     = 32 // of one descriptor
)

// readDescriptors makes a request event of each descriptor. The error joins or
// wraps *FieldErrors, whose fields are none that a sender could make up.
func readDescriptors(asked *rls.RateLimitRequest) ([]events.Request, error) {
	tenant, descriptors := asked.GetDomain(), asked.GetDescriptors()
	if err := events.CheckToken("domain", tenant); err != nil {
		return nil, err
	}
	if err := bounded("descriptors", len(descriptors), maxDescriptors); err != nil {
		return nil, err
	}
	requests := make([]events.Request, len(descriptors))
	for i, descriptor := range descriptors {
		r := &requests[i]
		r.Tenant = tenant
		err := readHits(r, asked.GetHitsAddend(), descriptor)
		if err == nil {
			err = readEntries(r, descriptor.GetEntries())
		}
		if err == nil {
			err = validate(*r)
		}
		if err != nil {
			return nil, fmt.Errorf("descriptors[%d]: %w", i, err)
		}
	}
	return requests, nil
}

// bounded refuses lists that are empty or too long.
func bounded(field string, n, most int) error {
	if n < 1 || n > most {
		return &events.FieldError{Field: field, Value: strconv.Itoa(n), Want: fmt.Sprintf("1 to %d of them", most)}
	}
	return nil
}

// readHits takes a descriptor's own hits_addend, of which 0 asks without
// charging, or else the whole request's, of which 0 stands for 1.
func readHits(r *events.Request, whole uint32, d *ratelimit.RateLimitDescriptor) error {
	if d.GetIsNegativeHits() {
		return &events.FieldError{Field: "is_negative_hits", Value: "true", Want: "false: nothing is given back"}
	}
	hits := uint64(max(whole, 1))
	if own := d.GetHitsAddend(); own != nil {
		hits = own.GetValue()
	}
	if hits > events.MaxCost {
		return &events.FieldError{Field: "hits_addend", Value: strconv.FormatUint(hits, 10), Want: fmt.Sprintf("0 to %d", int64(events.MaxCost))}
	}
	r.Cost, r.Peek = int64(hits), hits == 0
	return nil
}

// readEntries takes the entries that Envoy's actions make, and those that say
// what they are by their descriptor_key, for the attributes that they are. All
// others become attrs, in their order. Keys are Envoy's configuration; values may
// be the end user's, so they are made fit and never refused: what is refused
// passes, unless failure_mode_deny says otherwise.
func readEntries(r *events.Request, entries []*ratelimit.RateLimitDescriptor_Entry) error {
	if err := bounded("entries", len(entries), maxEntries); err != nil {
		return err
	}
	var attrs []*ratelimit.RateLimitDescriptor_Entry
	for i, entry := range entries {
		key, value := entry.GetKey(), entry.GetValue()
		name := attribute(key)
		for _, before := range entries[:i] {
			if attribute(before.GetKey()) == name {
				return repeated(key)
			}
		}
		switch name {
		case "":
			return &events.FieldError{Field: "entries", Want: "a key in each"}
		case "user":
			r.User = events.Cut(value, events.MaxName)
		case "api_key":
			r.APIKey = value // a hash of it travels
		case "ip":
			r.IP = address(value)
		case "method":
			r.Method = events.Cut(value, events.MaxName)
		case "host":
			r.Host = events.Cut(events.Host(value), events.MaxName)
		case "path":
			r.Path = events.Cut(events.Path(value), events.MaxPath)
		case "route":
			r.Route = events.Cut(value, events.MaxPath)
		default:
			attrs = append(attrs, entry)
		}
	}
	var err error
	r.Attrs, err = object(attrs)
	return err
}

// attribute is the name under which an entry is one of a request's own
// attributes, else its key.
func attribute(key string) string {
	switch key {
	case "user_id":
		return "user"
	case "remote_address", "masked_remote_address":
		return "ip"
	case ":method":
		return "method"
	case ":authority":
		return "host"
	case ":path":
		return "path"
	}
	return key
}

// repeated tells of a second entry for what a request has one of: which of
// them to count by would be a guess.
func repeated(key string) error {
	return &events.FieldError{Field: "entries", Value: key, Want: "each attribute once in a descriptor (a generic_key can have a descriptor_key of its own)"}
}

// address reads an address, or a network, which its first address stands for.
// What is neither is not known.
func address(value string) netip.Addr {
	if network, err := netip.ParsePrefix(value); err == nil {
		return network.Masked().Addr().Unmap()
	}
	addr, _ := netip.ParseAddr(value) // else the zero one
	return addr.WithZone("").Unmap()
}

// object makes attrs of entries. If they are too long, each value is cut to an
// equal share of the room, so that none takes the place of another.
func object(entries []*ratelimit.RateLimitDescriptor_Entry) (string, error) {
	if len(entries) == 0 {
		return "", nil
	}
	text := appendObject(make([]byte, 0, 128), entries, events.MaxAttrs)
	if len(text) > events.MaxAttrs {
		room := events.MaxAttrs - len(appendObject(nil, entries, 0))
		if room < 0 {
			return "", &events.FieldError{Field: "entries", Value: entries[0].GetKey(), Want: "keys that are shorter"}
		}
		text = appendObject(text[:0], entries, room/len(entries))
	}
	return string(text), nil
}

// appendObject appends an object of entries, whose values take up to so many
// bytes each between their quotes.
func appendObject(dst []byte, entries []*ratelimit.RateLimitDescriptor_Entry, most int) []byte {
	const longest = len(`\u0001`) // of an escape, which stands for a byte
	for i, entry := range entries {
		dst = append(dst, "{,"[min(i, 1)])
		dst = append(events.AppendText(dst, entry.GetKey()), ':')
		start := len(dst)
		dst = events.AppendText(dst, events.Cut(entry.GetValue(), most))
		if len(dst)-start > most+len(`""`) {
			dst = events.AppendText(dst[:start], events.Cut(entry.GetValue(), most/longest))
		}
	}
	return append(dst, '}')
}
