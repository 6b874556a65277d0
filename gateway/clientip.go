package gateway

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxHops bounds how many addresses of a header are looked at, and so how many
// proxies can be declared.
const maxHops = 32

// Proxies are the reverse proxies in front of a service whose word on a client's
// address is believed. The zero value believes nobody: the client is then who
// has made the connection.
//
// They are declared because a header alone proves nothing: a client may send an
// X-Forwarded-For of its own, to which each proxy appends the address that it
// was called from. What the declared proxies have appended is true, what is left
// of it may be anything.
type Proxies struct {
	hops     int            // how many there are
	networks []netip.Prefix // or where they are
}

// ParseProxies reads a declaration of proxies. It is a number of them that each
// request has passed, as in "2"; or the networks that they are in, separated by
// commas or spaces, as in "10.0.0.0/8, 192.0.2.7". Nothing, or "0", is the zero
// value. The error is a *FieldError.
//
// A number is right where clients cannot go past a proxy: who reaches the service
// by a shorter way is believed what a proxy would have said. Networks hold also
// where some can, as nobody outside of them is believed; they do not tell who is
// at the other end of a Unix socket.
func ParseProxies(text string) (Proxies, error) {
	wrong := func(value, want string) (Proxies, error) {
		return Proxies{}, &FieldError{Field: "proxies", Value: value, Want: want}
	}
	words := strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' })
	if len(words) == 0 {
		return Proxies{}, nil
	}
	if n, err := strconv.Atoi(words[0]); err == nil {
		if len(words) > 1 || n < 0 || n > maxHops {
			return wrong(text, "a number from 0 to "+strconv.Itoa(maxHops)+", or networks such as 10.0.0.0/8")
		}
		return Proxies{hops: n}, nil
	}
	networks := make([]netip.Prefix, 0, len(words))
	for _, word := range words {
		network, err := netip.ParsePrefix(word)
		if addr, bad := netip.ParseAddr(word); bad == nil {
			network, err = addr.Prefix(addr.BitLen())
		}
		switch {
		case err != nil:
			return wrong(word, "a network such as 10.0.0.0/8, an address, or the number of proxies alone")
		case network.Addr().Is4In6():
			return wrong(word, "a network of IPv4 addresses in the form of IPv4")
		case network.Bits() == 0:
			return wrong(word, "the networks of proxies: of everybody, the client says itself who it is")
		}
		networks = append(networks, network)
	}
	return Proxies{networks: networks}, nil
}

// Client returns the address of the client that has sent a request, given the
// RemoteAddr and the Header of an [http.Request]. It is the zero Addr if that is
// not known. An IPv4 address is in the form of IPv4, and no address has a zone.
//
// It starts from the address that has made the connection and goes through all
// lines of X-Forwarded-For from the right, as long as a declared proxy says who
// has called it. What is no address ends the walk at the proxy that says so. The
// field Forwarded (RFC 7239) is not read: proxies that do not know it pass it on
// as the client has sent it.
func (p Proxies) Client(remote string, header http.Header) netip.Addr {
	client, _ := parseClient(remote)
	passed := 0
	for _, line := range slices.Backward(header["X-Forwarded-For"]) {
		for more := true; more; passed++ {
			if passed == maxHops || !p.trusts(passed, client) {
				return client
			}
			comma := strings.LastIndexByte(line, ',')
			next, ok := parseClient(line[comma+1:])
			if !ok {
				return client
			}
			client, more = next, comma >= 0
			line = line[:max(comma, 0)]
		}
	}
	return client
}

// trusts tells whether the proxy at addr, before which the request has passed so
// many, is believed who has called it.
func (p Proxies) trusts(passed int, addr netip.Addr) bool {
	if passed < p.hops {
		return true
	}
	for _, network := range p.networks {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// parseClient reads an address as it stands in RemoteAddr or X-Forwarded-For,
// perhaps in brackets or with a port.
func parseClient(text string) (netip.Addr, bool) {
	text = strings.Trim(text, " \t")
	var addr netip.Addr
	var err error
	if strings.HasPrefix(text, "[") || strings.Count(text, ":") == 1 {
		if strings.HasSuffix(text, "]") {
			text += ":0"
		}
		var both netip.AddrPort
		both, err = netip.ParseAddrPort(text)
		addr = both.Addr()
	} else {
		addr, err = netip.ParseAddr(text)
	}
	return addr.Unmap().WithZone(""), err == nil
}
