package ingest

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

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
// others become attrs, in their order.
func readEntries(r *events.Request, entries []*ratelimit.RateLimitDescriptor_Entry) error {
	if err := bounded("entries", len(entries), maxEntries); err != nil {
		return err
	}
	var attrs []byte
	for i, entry := range entries {
		key, value := entry.GetKey(), entry.GetValue()
		for _, before := range entries[:i] {
			if before.GetKey() == key {
				return repeated(key)
			}
		}
		var err error
		switch key {
		case "":
			return &events.FieldError{Field: "entries", Want: "a key in each"}
		case "user", "user_id":
			err = readText(&r.User, key, value)
		case "api_key":
			err = readText(&r.APIKey, key, value)
		case "ip", "remote_address":
			err = readAddress(r, key, value)
		case "masked_remote_address":
			err = readNetwork(r, key, value)
		case "method", ":method":
			err = readText(&r.Method, key, value)
		case "host", ":authority":
			err = readText(&r.Host, key, value)
		case "path", ":path":
			value, _, _ = strings.Cut(value, "?") // a header has the query too
			err = readText(&r.Path, key, value)
		case "route":
			err = readText(&r.Route, key, value)
		default:
			attrs = appendAttr(attrs, key, value)
		}
		if err != nil {
			return err
		}
	}
	if attrs != nil {
		r.Attrs = string(append(attrs, '}'))
	}
	return nil
}

// repeated tells of a second entry for what a request has one of: which of
// them to count by would be a guess.
func repeated(key string) error {
	return &events.FieldError{Field: "entries", Value: key, Want: "each attribute once in a descriptor (a generic_key can have a descriptor_key of its own)"}
}

func readText(field *string, key, value string) error {
	if *field != "" {
		return repeated(key)
	}
	*field = value
	return nil
}

func readAddress(r *events.Request, key, value string) error {
	if r.IP.IsValid() {
		return repeated(key)
	}
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return &events.FieldError{Field: "ip", Value: value, Want: "an IPv4 or IPv6 address in " + key}
	}
	r.IP = addr.WithZone("").Unmap()
	return nil
}

// readNetwork takes the first address of a network for all of it.
func readNetwork(r *events.Request, key, value string) error {
	if r.IP.IsValid() {
		return repeated(key)
	}
	network, err := netip.ParsePrefix(value)
	if err != nil {
		return &events.FieldError{Field: "ip", Value: value, Want: "a network such as 192.0.2.0/24 in " + key}
	}
	r.IP = network.Masked().Addr().Unmap()
	return nil
}

func appendAttr(attrs []byte, key, value string) []byte {
	if attrs == nil {
		attrs = append(make([]byte, 0, 128), '{')
	} else {
		attrs = append(attrs, ',')
	}
	attrs = append(events.AppendText(attrs, key), ':')
	return events.AppendText(attrs, value)
}
