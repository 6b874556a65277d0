package gateway_test

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/gateway"
)

func proxies(tb testing.TB, text string) gateway.Proxies {
	tb.Helper()
	p, err := gateway.ParseProxies(text)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestClientAddress(t *testing.T) {
	const lb = "10.0.0.9:4711" // the proxy that calls the service
	for _, tt := range []struct {
		name, proxies, remote string
		lines                 []string // of X-Forwarded-For
		want                  string   // empty: not known
	}{
		{"nobody is believed", "", "198.51.100.1:80", []string{"203.0.113.7"}, "198.51.100.1"},
		{"zero proxies", "0", "198.51.100.1:80", []string{"203.0.113.7"}, "198.51.100.1"},
		{"remote without a port", "", "198.51.100.1", nil, "198.51.100.1"},
		{"remote of IPv6", "", "[2001:db8::1]:80", nil, "2001:db8::1"},
		{"remote in brackets", "", "[2001:db8::1]", nil, "2001:db8::1"},
		{"remote with a zone", "", "[fe80::1%eth0]:80", nil, "fe80::1"},
		{"remote of IPv4 as IPv6", "", "[::ffff:198.51.100.1]:80", nil, "198.51.100.1"},
		{"remote of a Unix socket", "", "@", []string{"203.0.113.7"}, ""},
		{"no remote", "", "", nil, ""},

		{"one proxy", "1", lb, []string{"203.0.113.7"}, "203.0.113.7"},
		{"one proxy, and what the client has made up", "1", lb, []string{"127.0.0.1, 203.0.113.7"}, "203.0.113.7"},
		{"one proxy that adds a line", "1", lb, []string{"127.0.0.1", "203.0.113.7"}, "203.0.113.7"},
		{"one proxy that says nothing", "1", lb, nil, "10.0.0.9"},
		{"one proxy on a Unix socket", "1", "@", []string{"127.0.0.1, 203.0.113.7"}, "203.0.113.7"},
		{"two proxies", "2", lb, []string{"127.0.0.1, 203.0.113.7, 10.0.0.8"}, "203.0.113.7"},
		{"two proxies in two lines", "2", lb, []string{"127.0.0.1, 203.0.113.7", "10.0.0.8"}, "203.0.113.7"},
		{"two proxies, one of which is passed by", "2", lb, []string{"203.0.113.7"}, "203.0.113.7"},
		{"two proxies, no spaces", "2", lb, []string{"127.0.0.1,203.0.113.7,10.0.0.8"}, "203.0.113.7"},
		{"tabs", "2", lb, []string{"\t203.0.113.7\t,\t10.0.0.8\t"}, "203.0.113.7"},

		{"a network", "10.0.0.0/8", lb, []string{"127.0.0.1, 203.0.113.7, 10.0.0.8"}, "203.0.113.7"},
		{"an address", "10.0.0.9", lb, []string{"127.0.0.1, 203.0.113.7"}, "203.0.113.7"},
		{"host bits", "10.1.2.3/8", lb, []string{"203.0.113.7"}, "203.0.113.7"},
		{"two networks", "192.0.2.0/24 10.0.0.0/8", lb, []string{"127.0.0.1, 203.0.113.7, 192.0.2.1"}, "203.0.113.7"},
		{"from outside the network", "10.0.0.0/8", "198.51.100.1:80", []string{"203.0.113.7"}, "198.51.100.1"},
		{"from outside, naming a proxy", "10.0.0.0/8", "198.51.100.1:80", []string{"203.0.113.7, 10.0.0.9"}, "198.51.100.1"},
		{"a client inside the network", "10.0.0.0/8", lb, []string{"10.3.3.3"}, "10.3.3.3"},
		{"a network of IPv6", "2001:db8::/32", "[2001:db8::9]:1", []string{"::1, 2001:db9::7"}, "2001:db9::7"},
		{"a proxy by IPv4 as IPv6", "10.0.0.0/8", "[::ffff:10.0.0.9]:1", []string{"203.0.113.7"}, "203.0.113.7"},
		{"a proxy with a zone", "fe80::/10", "[fe80::9%eth0]:1", []string{"203.0.113.7"}, "203.0.113.7"},
		{"a network, a Unix socket", "10.0.0.0/8", "@", []string{"203.0.113.7"}, ""},

		{"with a port", "1", lb, []string{"203.0.113.7:5555"}, "203.0.113.7"},
		{"IPv6", "1", lb, []string{"2001:db8::7"}, "2001:db8::7"},
		{"IPv6 that ends like a port", "1", lb, []string{"2001:db8::7:80"}, "2001:db8::7:80"},
		{"IPv6 in brackets", "1", lb, []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"IPv6 with a port", "1", lb, []string{"[2001:db8::7]:5555"}, "2001:db8::7"},
		{"IPv4 as IPv6", "1", lb, []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		{"a zone", "1", lb, []string{"fe80::7%eth0"}, "fe80::7"},

		{"no word", "1", lb, []string{"203.0.113.7, unknown"}, "10.0.0.9"},
		{"an empty line", "1", lb, []string{"203.0.113.7", ""}, "10.0.0.9"},
		{"an empty word", "1", lb, []string{"203.0.113.7,"}, "10.0.0.9"},
		{"no word before the last proxy", "2", lb, []string{"203.0.113.7, _hidden, 10.0.0.8"}, "10.0.0.8"},
		{"leading zeros", "1", lb, []string{"203.0.113.007"}, "10.0.0.9"},
		{"IPv4 in brackets", "1", lb, []string{"[203.0.113.7]"}, "10.0.0.9"},
		{"half a bracket", "1", lb, []string{"[2001:db8::7"}, "10.0.0.9"},
		{"a port beyond ports", "1", lb, []string{"203.0.113.7:99999"}, "10.0.0.9"},
		{"a quoted word", "1", lb, []string{`"203.0.113.7"`}, "10.0.0.9"},
		{"a list without end", "10.0.0.0/8", lb, []string{"203.0.113.7" + strings.Repeat(", 10.0.0.8", 10_000)}, "10.0.0.8"},
		{"lines without end", "10.0.0.0/8", lb, append([]string{"203.0.113.7"}, slices.Repeat([]string{"10.0.0.8"}, 10_000)...), "10.0.0.8"},
		{"as many as can be", "32", lb, []string{"127.0.0.1, 203.0.113.7" + strings.Repeat(", 10.0.0.8", 31)}, "203.0.113.7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{"X-Forwarded-For": tt.lines, "Forwarded": {"for=192.0.2.99"}, "X-Real-Ip": {"192.0.2.99"}}
			var want netip.Addr
			if tt.want != "" {
				want = netip.MustParseAddr(tt.want)
			}
			if got := proxies(t, tt.proxies).Client(tt.remote, header); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestParseProxies(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"-1", "a number from 0 to 32, or networks such as 10.0.0.0/8"},
		{"33", "a number from 0 to 32, or networks such as 10.0.0.0/8"},
		{"2, 10.0.0.0/8", "a number from 0 to 32, or networks such as 10.0.0.0/8"},
		{"10.0.0.0/8, 2", "a network such as 10.0.0.0/8, an address, or the number of proxies alone"},
		{"10.0.0.0/33", "a network such as 10.0.0.0/8, an address, or the number of proxies alone"},
		{"nginx", "a network such as 10.0.0.0/8, an address, or the number of proxies alone"},
		{"::ffff:10.0.0.0/104", "a network of IPv4 addresses in the form of IPv4"},
		{"::ffff:10.0.0.1", "a network of IPv4 addresses in the form of IPv4"},
		{"0.0.0.0/0", "the networks of proxies: of everybody, the client says itself who it is"},
		{"10.0.0.0/8 ::/0", "the networks of proxies: of everybody, the client says itself who it is"},
	} {
		_, err := gateway.ParseProxies(tt.text)
		if wrong, ok := errors.AsType[*gateway.FieldError](err); !ok || wrong.Field != "proxies" || wrong.Want != tt.want {
			t.Errorf("%q: %v, want %s", tt.text, err, tt.want)
		}
	}
}

// FuzzClientAddress has a client write what it likes before what one proxy says,
// which hides nobody; and compares any header with a plain way to read it.
func FuzzClientAddress(f *testing.F) {
	f.Add("203.0.113.7, 10.0.0.8", "10.0.0.9:1", uint8(1))
	f.Add("::1, [::1]:80\n1.2.3.4:5", "@", uint8(2))
	f.Add(",,\n,\n", "", uint8(3))
	networks := proxies(f, "10.0.0.0/8, ::1")
	var hops [4]gateway.Proxies
	for n, text := range []string{"0", "1", "2", "3"} {
		hops[n] = proxies(f, text)
	}
	f.Fuzz(func(t *testing.T, text, remote string, n uint8) {
		lines := strings.Split(text, "\n")
		header := http.Header{"X-Forwarded-For": append(lines[:len(lines)-1:len(lines)-1], lines[len(lines)-1]+", 203.0.113.7")}
		if got := hops[1].Client(remote, header); got != netip.MustParseAddr("203.0.113.7") {
			t.Errorf("a client hides behind %s", got)
		}
		header["X-Forwarded-For"] = lines
		words := strings.Split(strings.Join(lines, ","), ",")
		single := func(word string) (netip.Addr, bool) {
			addr := proxies(t, "").Client(word, nil)
			return addr, addr.IsValid()
		}
		plain := func(trusts func(passed int, addr netip.Addr) bool) netip.Addr {
			addr, _ := single(remote)
			for passed := 0; passed < min(len(words), 32) && trusts(passed, addr); passed++ {
				next, ok := single(words[len(words)-1-passed])
				if !ok {
					break
				}
				addr = next
			}
			return addr
		}
		n %= 4
		if got, want := hops[n].Client(remote, header), plain(func(passed int, _ netip.Addr) bool { return passed < int(n) }); got != want {
			t.Errorf("%d proxies: got %s, want %s", n, got, want)
		}
		inside := func(_ int, addr netip.Addr) bool {
			return addr == netip.IPv6Loopback() || netip.MustParsePrefix("10.0.0.0/8").Contains(addr)
		}
		if got, want := networks.Client(remote, header), plain(inside); got != want {
			t.Errorf("networks: got %s, want %s", got, want)
		}
	})
}

func BenchmarkClientAddress(b *testing.B) {
	p := proxies(b, "2")
	header := http.Header{"X-Forwarded-For": {"127.0.0.1, 203.0.113.7, 10.0.0.8"}}
	b.ReportAllocs()
	for b.Loop() {
		p.Client("10.0.0.9:4711", header)
	}
}
