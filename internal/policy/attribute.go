package policy

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

// Attribute is something of a request that a rule counts by.
type Attribute struct {
	Name string // as the policy has it

	kind kind
	bits int      // of a network
	path []string // keys that lead to a value in attrs
}

type kind int

const (
	user kind = iota
	apiKey
	ip
	network
	identity
	gateway
	method
	host
	route
	path
	attrs
)

var kinds = map[string]kind{
	"user": user, "api_key": apiKey, "ip": ip, "identity": identity, "gateway": gateway,
	"method": method, "host": host, "route": route, "path": path,
}

// attributeForms is what an attribute may be, for whoever wrote another.
const attributeForms = "user, api_key, ip, identity, gateway, method, host, route, path, " +
	"ip/N with N from 1 to 128, or attrs.x.y"

// v6Subscriber is how much of an IPv6 address its owner does not choose: a
// subscriber has a /64 or more and may use a new address in it each time.
const v6Subscriber = 64

// parseAttribute reads an attribute. Counting by ip/N puts an IPv4 network in
// one window if N is 32 or less, where an IPv6 address counts by its /64;
// and an IPv6 network if N is more, where an IPv4 address counts by itself.
func parseAttribute(name string) (Attribute, bool) {
	a := Attribute{Name: name}
	if len(name) > maxPattern {
		return a, false
	}
	if k, ok := kinds[name]; ok {
		a.kind = k
		return a, true
	}
	if bits, ok := strings.CutPrefix(name, "ip/"); ok {
		n, err := strconv.Atoi(bits)
		a.kind, a.bits = network, n
		return a, err == nil && 1 <= n && n <= 128 && strconv.Itoa(n) == bits
	}
	if keys, ok := strings.CutPrefix(name, "attrs."); ok {
		a.kind, a.path = attrs, strings.Split(keys, ".")
		for _, key := range a.path {
			ok = ok && key != ""
		}
		return a, ok && len(a.path) < events.MaxDepth
	}
	return a, false
}

// value returns what the attribute is of a request; empty if it has none.
func (a *Attribute) value(r *events.Request) string {
	switch a.kind {
	case user:
		return r.User
	case apiKey:
		return r.APIKey
	case ip:
		if r.IP.IsValid() {
			return r.IP.Unmap().String()
		}
		return ""
	case network:
		return networkOf(r.IP.Unmap(), a.bits)
	case identity:
		return r.Identity()
	case gateway:
		return r.Gateway
	case method:
		return strings.ToUpper(r.Method)
	case host:
		return strings.ToLower(r.Host)
	case route:
		return r.Route
	case path:
		return r.Path
	case attrs:
		return lookup(r.Attrs, a.path)
	}
	panic("policy: attribute " + a.Name)
}

// canonical returns a value as the attribute has it of requests; none of them
// has a value that is not ok.
func (a *Attribute) canonical(value string) (text string, ok bool) {
	switch a.kind {
	case method:
		return strings.ToUpper(value), true
	case host:
		return strings.ToLower(value), true
	case ip:
		addr, err := netip.ParseAddr(value)
		return addr.Unmap().String(), err == nil && addr.Zone() == ""
	case network:
		if addr, err := netip.ParseAddr(value); err == nil {
			return networkOf(addr.Unmap(), a.bits), addr.Zone() == ""
		}
		prefix, err := netip.ParsePrefix(value)
		return value, err == nil && networkOf(prefix.Addr(), a.bits) == value
	case apiKey:
		return value, hashForm.MatchString(value)
	case gateway:
		return value, events.CheckToken("gateway", value) == nil
	}
	return value, value != ""
}

// hashForm is what travels in place of an API key.
var hashForm = regexp.MustCompile(`^[0-9a-f]{16}$`)

func networkOf(addr netip.Addr, bits int) string {
	switch {
	case !addr.IsValid():
		return ""
	case addr.Is4() && bits > 32:
		return addr.String()
	case addr.Is6() && bits <= 32:
		bits = v6Subscriber
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		panic("policy: " + err.Error()) // the bits were checked
	}
	return prefix.String()
}
