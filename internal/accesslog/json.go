package accesslog

import (
	"cmp"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// object is a JSON object, of which a log line is made.
type object map[string]json.RawMessage

// first returns the first of the fields that says something, as text.
func (o object) first(names ...string) string {
	for _, name := range names {
		raw := o[name]
		if len(raw) == 0 || raw[0] == '{' || string(raw) == "null" {
			continue
		}
		text := string(raw)
		switch raw[0] {
		case '[': // headers are lists, of which the first entry is meant
			var list []string
			if json.Unmarshal(raw, &list) != nil || len(list) == 0 {
				continue
			}
			text = list[0]
		case '"':
			if json.Unmarshal(raw, &text) != nil {
				continue
			}
		}
		if text = present(text); text != "" {
			return text
		}
	}
	return ""
}

// within returns an object that is a field; empty if it is none.
func (o object) within(name string) object {
	var inner object
	if json.Unmarshal(o[name], &inner) != nil {
		return nil
	}
	return inner
}

// has tells whether one of the fields is there, be it empty.
func (o object) has(names ...string) bool {
	for _, name := range names {
		if _, ok := o[name]; ok {
			return true
		}
	}
	return false
}

// parseJSON reads a JSON line: flat ones of nginx, with the names of its
// variables, and of Traefik; Caddy has most under request. What begins with weir_
// is of the format in deployments/nginx.
func parseJSON(line string, fields Fields) (l Line, err error) {
	var o object
	if err := json.Unmarshal([]byte(line), &o); err != nil {
		return l, fault("line", line, "a JSON object: "+err.Error())
	}
	request := o.within("request")
	if !o.has("request", "method", "request_method", "RequestMethod", "uri", "request_uri", "RequestPath") {
		return l, fault("request", "", "a request, or a method and a URI")
	}
	headers := request.within("headers")
	e := entry{
		client:    either(o.first("remote_addr", "ClientHost", "client_ip", "remote_ip"), request.first("client_ip", "remote_ip")),
		user:      o.first("remote_user", "ClientUsername", "user_id", "user"),
		line:      o.first("request"),
		method:    either(o.first("request_method", "RequestMethod", "method"), request.first("method")),
		url:       either(o.first("request_uri", "uri", "RequestPath", "path"), request.first("uri")),
		host:      either(o.first("host", "http_host", "RequestHost", "server_name"), request.first("host")),
		status:    o.first("status", "DownstreamStatus", "OriginStatus"),
		bytesIn:   o.first("request_length", "bytes_read", "RequestContentSize"),
		bytesOut:  o.first("body_bytes_sent", "bytes_sent", "bytes", "size", "DownstreamContentSize"),
		referer:   either(o.first("http_referer", "referer", "request_Referer"), headers.first("Referer")),
		userAgent: either(o.first("http_user_agent", "user_agent", "request_User-Agent"), headers.first("User-Agent")),
		latency:   duration(o),
	}
	if fields.User != "" {
		e.user = o.first(fields.User)
	}
	if e.time, err = instant(o.first("time_iso8601", "StartUTC", "time_local", "time", "@timestamp", "timestamp", "ts", "msec")); err != nil {
		return l, err
	}
	l.Tenant = o.first(cmp.Or(fields.Tenant, "weir_tenant"))
	// What its configuration lets pass without an answer of Weir has another status.
	switch status := o.first("weir_status"); status {
	case "":
	case "200", "403":
		l.Asked, l.Decided = o.first("weir_id"), true
	default:
		l.Asked = o.first("weir_id")
	}
	l.Request, err = e.request()
	return l, err
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// duration returns how long a request took: seconds under nginx's and Caddy's
// names (Caddy may also write 1.5ms), nanoseconds under Traefik's.
func duration(o object) time.Duration {
	if text := o.first("request_time", "duration"); text != "" {
		if d, err := time.ParseDuration(text); err == nil {
			return d
		}
		return seconds(text)
	}
	ns, err := strconv.ParseInt(o.first("Duration"), 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(ns)
}

// instant reads a time in one of the forms that logs have: RFC 3339, the
// common log format, Caddy's wall time, seconds since 1970.
func instant(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, commonTime, "2006/01/02 15:04:05.999999999", "2006-01-02T15:04:05.999999999Z0700"} {
		if t, err := time.Parse(layout, strings.Trim(text, "[]")); err == nil {
			return t, nil
		}
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(f) < 1e11 {
		return time.UnixMicro(int64(math.Round(f * 1e6))).UTC(), nil
	}
	return time.Time{}, fault("time", text, "a time in RFC 3339, as 17/May/2015:10:05:03 +0000, or in seconds since 1970")
}
