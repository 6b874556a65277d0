package accesslog_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/events"
)

// lines reads a log to its end.
func lines(tb testing.TB, log io.Reader) (good []accesslog.Line, bad []*accesslog.LineError) {
	tb.Helper()
	r, err := accesslog.NewReader(log)
	if err != nil {
		tb.Fatal(err)
	}
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return good, bad
		}
		if fault, ok := errors.AsType[*accesslog.LineError](err); ok {
			bad = append(bad, fault)
			continue
		}
		if err != nil {
			tb.Fatal(err)
		}
		good = append(good, line)
	}
}

// one reads a log of one good line.
func one(t *testing.T, log string) events.Request {
	t.Helper()
	good, bad := lines(t, strings.NewReader(log))
	if len(good) != 1 || len(bad) != 0 {
		t.Fatalf("%q: %d good lines, bad %v", log, len(good), bad)
	}
	return good[0].Request
}

var at = time.Date(2015, 5, 17, 10, 5, 3, 0, time.UTC)

func TestLines(t *testing.T) {
	ip := netip.MustParseAddr
	base := func(change func(*events.Request)) events.Request {
		r := events.Request{Time: at, IP: ip("192.0.2.7"), Method: "GET", Path: "/a", Status: 200, BytesOut: 12}
		change(&r)
		return r
	}
	const start, time05 = `192.0.2.7 - - `, `[17/May/2015:10:05:03 +0000] `
	for name, test := range map[string]struct {
		log  string
		want events.Request
	}{
		"common": {start + time05 + `"GET /a HTTP/1.1" 200 12`, base(func(*events.Request) {})},
		"combined": {start + time05 + `"GET /a?q=secret#x HTTP/1.1" 200 12 "http://ref/x?token=secret" "UA \"quoted\" <&>"`,
			base(func(r *events.Request) {
				r.Attrs = `{"referer":"http://ref/x","user_agent":"UA \"quoted\" <&>"}`
			})},
		"dashes":         {`- - - ` + time05 + `"-" - - "-" "-"`, events.Request{Time: at}},
		"nothing quoted": {start + time05 + `"" 408 0 "" ""`, events.Request{Time: at, IP: ip("192.0.2.7"), Status: 408}},
		"zone": {start + `[17/May/2015:12:05:03 +0200] "GET /a HTTP/1.1" 200 12`,
			base(func(*events.Request) {})},
		"IPv6":          {`2001:db8::1 - - ` + time05 + `"GET /a HTTP/1.1" 200 12`, base(func(r *events.Request) { r.IP = ip("2001:db8::1") })},
		"IPv6 brackets": {`[2001:db8::1] - - ` + time05 + `"GET /a HTTP/1.1" 200 12`, base(func(r *events.Request) { r.IP = ip("2001:db8::1") })},
		"IPv6 zone":     {`fe80::1%eth0 - - ` + time05 + `"GET /a HTTP/1.1" 200 12`, base(func(r *events.Request) { r.IP = ip("fe80::1") })},
		"IPv4 in IPv6":  {`::ffff:192.0.2.7 - - ` + time05 + `"GET /a HTTP/1.1" 200 12`, base(func(*events.Request) {})},
		"host name": {`proxy.example.com - - ` + time05 + `"GET /a HTTP/1.1" 200 12`, base(func(r *events.Request) {
			r.IP, r.Attrs = netip.Addr{}, `{"client_host":"proxy.example.com"}`
		})},
		"user":             {`192.0.2.7 ident frank ` + time05 + `"GET /a HTTP/1.1" 200 12`, base(func(r *events.Request) { r.User = "frank" })},
		"user with blanks": {`192.0.2.7 - Jo [x] "D\"oe ` + time05 + `"GET /a HTTP/1.1" 200 12`, base(func(r *events.Request) { r.User = `Jo [x] "D"oe` })},
		"empty user":       {`192.0.2.7 - "" ` + time05 + `"GET /a HTTP/1.1" 200 12`, base(func(*events.Request) {})},
		"no protocol":      {start + time05 + `"GET /a" 200 12`, base(func(*events.Request) {})},
		"path with blanks": {start + time05 + `"GET /a b HTTP/1.1" 200 12`, base(func(r *events.Request) { r.Path = "/a b" })},
		"bare quote":       {start + time05 + `"GET /a"b HTTP/1.1" 200 12`, base(func(r *events.Request) { r.Path = `/a"b` })},
		"escapes":          {start + time05 + `"GET /\x41\x22\\\n\q\x HTTP/1.1" 200 12`, base(func(r *events.Request) { r.Path = "/A\"\\\n\\q\\x" })},
		"not UTF-8":        {start + time05 + `"GET /\xff\x00 HTTP/1.1" 200 12`, base(func(r *events.Request) { r.Path = "/\uFFFD\uFFFD" })},
		"binary": {start + time05 + `"\x16\x03\x01\x00?secret" 400 12`, base(func(r *events.Request) {
			r.Method, r.Path, r.Status, r.Attrs = "", "", 400, "{\"request_line\":\"\uFFFD\uFFFD\uFFFD\uFFFD\"}"
		})},
		"to a proxy":         {start + time05 + `"GET http://user:pw@host:81/a?b HTTP/1.1" 200 12`, base(func(r *events.Request) { r.Host = "host" })},
		"a path in disguise": {start + time05 + `"GET /x/..//%61?b HTTP/1.1" 200 12`, base(func(*events.Request) {})},
		"a host in disguise": {`{"msec":"1431857103.000","remote_addr":"192.0.2.7","method":"GET","uri":"/a","host":"Example.ORG.:443","status":200,"bytes_sent":12}`,
			base(func(r *events.Request) { r.Host = "example.org" })},
		"nginx time":        {start + time05 + `"GET /a HTTP/1.1" 200 12 "-" "-" "203.0.113.9, 10.0.0.1" 0.123`, base(func(r *events.Request) { r.LatencyUS = 123000 })},
		"forwarded for":     {start + time05 + `"GET /a HTTP/1.1" 200 12 "-" "-" "203.0.113.9"`, base(func(*events.Request) {})},
		"Windows line ends": {start + time05 + "\"GET /a HTTP/1.1\" 200 12\r\n", base(func(*events.Request) {})},
		"nginx JSON": {`{"time_iso8601":"2015-05-17T12:05:03+02:00","remote_addr":"192.0.2.7","remote_user":"-","request":"GET /a?x HTTP/1.1","status":"200","body_bytes_sent":"12","request_time":"0.250","http_referrer":"","http_user_agent":"UA\u0001","http_host":"h"}`,
			base(func(r *events.Request) {
				r.LatencyUS, r.Host, r.Attrs = 250000, "h", "{\"user_agent\":\"UA\uFFFD\"}"
			})},
		"nginx JSON, split": {`{"time_local":"17/May/2015:10:05:03 +0000","remote_addr":"192.0.2.7","remote_user":"u","request_method":"GET","request_uri":"/a?x","status":200,"bytes":12,"request_time":0.001,"server_name":"s","host":"h"}`,
			base(func(r *events.Request) { r.User, r.LatencyUS, r.Host = "u", 1000, "h" })},
		"nginx JSON, msec": {`{"msec":"1431857103.000","remote_addr":"192.0.2.7","method":"GET","uri":"/a","status":200,"bytes_sent":12}`,
			base(func(*events.Request) {})},
		"Caddy": {`{"level":"info","ts":1431857103.0,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"10.0.0.1","client_ip":"192.0.2.7","remote_port":"1","proto":"HTTP/2.0","method":"GET","host":"h","uri":"/a?x","headers":{"User-Agent":["UA"],"Referer":["http://r?x"]}},"bytes_read":0,"user_id":"","duration":0.000929675,"size":12,"status":200}`,
			base(func(r *events.Request) {
				r.Host, r.LatencyUS, r.Attrs = "h", 930, `{"referer":"http://r","user_agent":"UA"}`
			})},
		"Caddy, remote_ip": {`{"ts":"2015/05/17 10:05:03","request":{"remote_ip":"192.0.2.7","method":"GET","uri":"/a"},"duration":"1.5ms","size":12,"status":200}`,
			base(func(r *events.Request) { r.LatencyUS = 1500 })},
		"Traefik": {`{"ClientAddr":"192.0.2.7:5","ClientHost":"192.0.2.7","ClientUsername":"-","DownstreamContentSize":12,"DownstreamStatus":200,"Duration":4500000,"RequestHost":"h","RequestMethod":"GET","RequestPath":"/a?x","StartUTC":"2015-05-17T10:05:03.000000499Z","level":"info","msg":"","time":"2015-05-17T10:05:04Z","request_User-Agent":"UA"}`,
			base(func(r *events.Request) { r.Host, r.LatencyUS, r.Attrs = "h", 4500, `{"user_agent":"UA"}` })},
	} {
		t.Run(name, func(t *testing.T) {
			got := one(t, test.log)
			if !got.Time.Equal(test.want.Time) {
				t.Errorf("time %v, want %v", got.Time, test.want.Time)
			}
			got.Time = test.want.Time
			if got != test.want {
				t.Errorf("\n got %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// What deployments/nginx logs says also what Weir had to do with a request.
func TestParse(t *testing.T) {
	const request = `{"msec":"1431857103.000","remote_addr":"192.0.2.7","user":"ann","sub":"bob","host":"h","method":"GET","uri":"/a?x","status":"200","request_length":"77","body_bytes_sent":"12"`
	for _, tt := range []struct {
		text   string
		fields accesslog.Fields
		user   string
		want   accesslog.Line // but for its request
	}{
		{request + `,"weir_tenant":"acme","weir_id":"i","weir_status":"200"}`, accesslog.Fields{}, "ann", accesslog.Line{Tenant: "acme", Asked: "i", Decided: true}},
		{request + `,"weir_tenant":"acme","weir_id":"i","weir_status":"403"}`, accesslog.Fields{}, "ann", accesslog.Line{Tenant: "acme", Asked: "i", Decided: true}},
		{request + `,"weir_tenant":"acme","weir_id":"i","weir_status":"204"}`, accesslog.Fields{}, "ann", accesslog.Line{Tenant: "acme", Asked: "i"}},
		{request + `,"weir_tenant":"acme","weir_id":"i","weir_status":""}`, accesslog.Fields{User: "sub", Tenant: "host"}, "bob", accesslog.Line{Tenant: "h"}},
		{request + "}\r", accesslog.Fields{User: "absent"}, "", accesslog.Line{}},
	} {
		got, err := accesslog.Parse([]byte(tt.text), tt.fields)
		r := got.Request
		if err != nil || !r.Time.Equal(at) || r.User != tt.user || r.Path != "/a" || r.BytesIn != 77 || r.BytesOut != 12 {
			t.Errorf("%s: %+v, %v", tt.text, r, err)
		}
		if got.Request = tt.want.Request; got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.text, got, tt.want)
		}
	}
	_, err := accesslog.Parse([]byte("hello"), accesslog.Fields{})
	if bad, ok := errors.AsType[*accesslog.LineError](err); !ok || bad.Text != "hello" || bad.Line != 0 {
		t.Errorf("of prose: %v", err)
	}
}

func TestBadLines(t *testing.T) {
	const common = `192.0.2.7 - - [17/May/2015:10:05:03 +0000] `
	for name, test := range map[string]struct{ log, want string }{
		"prose":           {"hello", "line: want the common or combined log format, or a JSON object"},
		"no time":         {"192.0.2.7 - - GET", "time: want a time such as [17/May/2015:10:05:03 +0000] after the user"},
		"broken time":     {`192.0.2.7 - - [17/Mai/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 12`, "time: want"},
		"year 1":          {`192.0.2.7 - - [17/May/0001:10:05:03 +0000] "GET / HTTP/1.1" 200 12`, "time: want a time from 2000 to 2091"},
		"year 9999":       {`{"ts":99999999999,"method":"GET"}`, "time: want a time"},
		"no request":      {common + `200 12`, "request: want a request in quotes"},
		"open quote":      {common + `"GET / HTTP/1.1 200 12`, "request: want a request in quotes"},
		"no status":       {common + `"GET / HTTP/1.1"`, "status: want a status and a number of bytes"},
		"no bytes":        {common + `"GET / HTTP/1.1" 200`, "status: want a status and a number of bytes"},
		"status a word":   {common + `"GET / HTTP/1.1" OK 12`, "status: want a whole number from 0 to 999"},
		"status 1000":     {common + `"GET / HTTP/1.1" 1000 12`, "status: want a whole number from 0 to 999"},
		"bytes a word":    {common + `"GET / HTTP/1.1" 200 many`, "bytes: want a whole number"},
		"negative bytes":  {common + `"GET / HTTP/1.1" 200 -5`, "bytes: want a whole number"},
		"too many bytes":  {common + `"GET / HTTP/1.1" 200 99999999999999999999`, "bytes: want a whole number"},
		"broken JSON":     {`{"ts":1`, "line: want a JSON object"},
		"JSON of another": {`{"ts":1431857103,"msg":"server running"}`, "request: want a request"},
		"JSON, no time":   {`{"method":"GET","uri":"/"}`, "time: want a time in RFC 3339"},
		"too long":        {common + strings.Repeat("x", accesslog.MaxLine), "want a line of at most 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			good := common + `"GET /after HTTP/1.1" 200 12`
			read, bad := lines(t, strings.NewReader("\n"+test.log+"\n\n  \n"+good))
			if len(bad) != 1 || len(read) != 1 {
				t.Fatalf("%d good and %d bad lines, want one of each", len(read), len(bad))
			}
			if bad[0].Line != 2 || !strings.Contains(bad[0].Error(), "line 2: ") || !strings.Contains(bad[0].Error(), test.want) {
				t.Errorf("%v, want %s", bad[0], test.want)
			}
			if len(bad[0].Text) > 200 || bad[0].Text[:5] != test.log[:5] {
				t.Errorf("quotes %q", bad[0].Text)
			}
			if read[0].Number != 5 || read[0].Request.Path != "/after" {
				t.Errorf("then %+v", read[0])
			}
		})
	}
}

func TestLineOfTheLargestSize(t *testing.T) {
	const start = `192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 12 "-" "`
	line := start + strings.Repeat("x", accesslog.MaxLine-len(start)-2) + "\"\n"
	good, bad := lines(t, strings.NewReader(line+line))
	if len(good) != 2 || len(bad) != 0 {
		t.Fatalf("%d good lines, bad %v", len(good), bad)
	}
	if n := len(good[0].Request.Attrs); n > events.MaxAttrs {
		t.Errorf("%d bytes of attrs", n)
	}
	tooLong := strings.TrimSuffix(line, "\"\n") + "x\"\n"
	if good, bad := lines(t, strings.NewReader(tooLong+line)); len(good) != 1 || len(bad) != 1 {
		t.Errorf("%d good and %d bad lines", len(good), len(bad))
	}
}

func TestGzip(t *testing.T) {
	const line = `192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 12` + "\n"
	var zipped bytes.Buffer
	for range 2 { // rotated logs are put together as they are
		z := gzip.NewWriter(&zipped)
		if _, err := io.WriteString(z, strings.Repeat(line, 3)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if good, bad := lines(t, bytes.NewReader(zipped.Bytes())); len(good) != 6 || len(bad) != 0 {
		t.Errorf("%d good and %d bad lines, want 6 good", len(good), len(bad))
	}
	r, err := accesslog.NewReader(bytes.NewReader(zipped.Bytes()[:zipped.Len()-3]))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "after line 6") {
		t.Errorf("a log that breaks off: %v", err)
	}
	if _, err := accesslog.NewReader(strings.NewReader("\x1f\x8bnot gzip at all")); err == nil {
		t.Error("a broken header is taken")
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(path, []byte(`192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 12`), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := accesslog.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if good, _ := lines(t, log); len(good) != 1 {
		t.Errorf("%d lines, want 1", len(good))
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	if _, err := accesslog.Open(path + ".missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing log: %v", err)
	}
	stdin, err := accesslog.Open("-")
	if err != nil {
		t.Fatal(err)
	}
	if err := stdin.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stdin.Stat(); err != nil {
		t.Errorf("the standard input is closed with the log: %v", err)
	}
}

// valid says what is wrong with a request once it has a tenant and a gateway.
func valid(r events.Request) error {
	r.Tenant, r.Gateway = "acme", "replay"
	if strings.ContainsAny(r.Path, "?#") {
		return fmt.Errorf("path %q has a query", r.Path)
	}
	return r.Validate()
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`192.0.2.7 - Jo Doe [17/May/2015:10:05:03 +0000] "GET /a?b HTTP/1.1" 200 12 "http://x/" "UA \"\x00" 0.1` + "\n\n"))
	f.Add([]byte(`{"ts":1431857103.5,"request":{"remote_ip":"::1","method":"GET","uri":"/a?x","headers":{"Referer":["\u0001"]}},"duration":1e300,"size":-1,"status":"200"}`))
	f.Add([]byte(`{"time":"2015-05-17T10:05:03Z","request":"GET http://h?x HTTP/1.1","status":null,"Duration":-5,"bytes":1e3}`))
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Fuzz(func(t *testing.T, log []byte) {
		r, err := accesslog.NewReader(bytes.NewReader(log))
		if err != nil {
			return
		}
		last := 0
		for {
			line, err := r.Next()
			fault, bad := errors.AsType[*accesslog.LineError](err)
			switch {
			case bad:
				if line.Number = fault.Line; !utf8.ValidString(fault.Text) || fault.Error() == "" {
					t.Errorf("%q: %v", fault.Text, fault)
				}
			case err != nil:
				return
			default:
				if err := valid(line.Request); err != nil {
					t.Errorf("%+v: %v", line.Request, err)
				}
			}
			if line.Number <= last {
				t.Fatalf("line %d after line %d", line.Number, last)
			}
			last = line.Number
		}
	})
}

const sample = "../../../shared/data/apache_access.log"

func TestSample(t *testing.T) {
	log, err := os.ReadFile(sample)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no sample beside the project")
	}
	if err != nil {
		t.Fatal(err)
	}
	good, bad := lines(t, bytes.NewReader(log))
	if len(good) != 10_000 || len(bad) != 0 {
		t.Errorf("%d good lines, bad %v; want 10,000 and none", len(good), bad)
	}
	for _, line := range good {
		if err := valid(line.Request); err != nil {
			t.Errorf("line %d: %v", line.Number, err)
		}
		if r := line.Request; r.Time.IsZero() || !r.IP.IsValid() || r.Method == "" || r.Path == "" || r.Status == 0 {
			t.Errorf("line %d: %+v", line.Number, r)
		}
	}
}

func BenchmarkReader(b *testing.B) {
	const count = 1000
	for name, line := range map[string]string{
		"combined": `83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /presentations/images/kibana-search.png?x=1 HTTP/1.1" 200 203023 "http://example.com/presentations/" "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_9_1) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/32.0.1700.77 Safari/537.36"`,
		"json":     `{"time_iso8601":"2015-05-17T12:05:03+02:00","remote_addr":"192.0.2.7","remote_user":"-","request":"GET /a?x HTTP/1.1","status":"200","body_bytes_sent":"12","request_time":"0.250","http_referer":"http://example.com/presentations/","http_user_agent":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_9_1)","http_host":"h"}`,
	} {
		b.Run(name, func(b *testing.B) {
			log := strings.Repeat(line+"\n", count)
			b.ReportAllocs()
			for b.Loop() {
				if good, _ := lines(b, strings.NewReader(log)); len(good) != count {
					b.Fatal(len(good))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/line")
		})
	}
}
