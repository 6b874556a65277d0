package events

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// DecodeRequest reads a request from the JSON object in payload, which may be
// reused afterwards. Unknown fields are refused when strict, else ignored. The
// error is a *FieldError. What a field may hold is for Validate to say.
func DecodeRequest(payload []byte, strict bool) (Request, error) {
	var r Request
	if len(payload) > MaxPayload {
		return r, &FieldError{Value: strconv.Itoa(len(payload)) + " bytes", Want: "at most " + strconv.Itoa(MaxPayload) + " bytes"}
	}
	if !utf8.Valid(payload) {
		return r, &FieldError{Value: string(payload), Want: "UTF-8"}
	}
	p := scanner{s: string(payload)}
	if err := p.request(&r, strict); err != nil {
		return r, err
	}
	if !p.end() {
		return r, p.fault("", "nothing after the object")
	}
	return r, nil
}

// DecodeDecision reads a decision from the JSON object in payload, which may
// be reused afterwards. Unknown fields are ignored.
func DecodeDecision(payload []byte) (Decision, error) {
	p := scanner{s: string(payload)}
	var d Decision
	err := p.decision(&d)
	return d, err
}

// DecodeRecord reads one line of a block into r, whose strings then share the
// line's memory. Unknown fields are ignored.
func DecodeRecord(line string, r *Record) error {
	*r = Record{}
	p := scanner{s: line}
	if !p.take('{') {
		return p.fault("", "an object")
	}
	for first := true; ; first = false {
		key, more, err := p.key("", first)
		if err != nil {
			return err
		}
		if !more {
			r.Decision.ID = r.Request.ID
			return nil
		}
		switch key {
		case "request":
			err = p.request(&r.Request, false)
		case "decision":
			err = p.decision(&r.Decision)
		case "rules":
			err = p.rare("rules", &r.Charges)
		case "refused":
			err = p.rare("refused", &r.Refused)
		default:
			err = p.skip(key, MaxDepth)
		}
		if err != nil {
			return err
		}
	}
}

// rare reads a value that few records have through encoding/json.
func (p *scanner) rare(field string, into any) error {
	text, err := p.value(field, MaxDepth)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return &FieldError{Field: field, Value: text, Want: err.Error()}
	}
	return nil
}

func (p *scanner) request(r *Request, strict bool) error {
	if !p.take('{') {
		return p.fault("", "a JSON object")
	}
	for first := true; ; first = false {
		key, more, err := p.key("", first)
		if err != nil || !more {
			return err
		}
		if p.null() {
			continue
		}
		switch key {
		case "id":
			r.ID, err = p.text(key)
		case "tenant":
			r.Tenant, err = p.text(key)
		case "gateway":
			r.Gateway, err = p.text(key)
		case "time":
			r.Time, err = p.instant(key)
		case "user":
			r.User, err = p.text(key)
		case "api_key":
			r.APIKey, err = p.text(key)
		case "ip":
			r.IP, err = p.address(key)
		case "method":
			r.Method, err = p.text(key)
		case "host":
			r.Host, err = p.text(key)
		case "path":
			r.Path, err = p.text(key)
		case "route":
			r.Route, err = p.text(key)
		case "cost":
			r.Cost, err = p.integer(key, 0, MaxCost)
			r.Peek = r.Cost == 0
		case "attrs":
			r.Attrs, err = p.value(key, MaxDepth)
		case "status":
			r.Status, err = p.integer(key, 0, 999)
		case "latency_us":
			r.LatencyUS, err = p.integer(key, 0, MaxLatency)
		case "bytes_in":
			r.BytesIn, err = p.integer(key, 0, MaxBytes)
		case "bytes_out":
			r.BytesOut, err = p.integer(key, 0, MaxBytes)
		case "verdict":
			r.Verdict, err = p.verdict(key)
		case "reason":
			r.Reason, err = p.reason(key)
		case "count":
			r.Count, err = p.integer(key, 1, MaxCount)
		default:
			if strict {
				return &FieldError{Field: key, Want: "a known field (others go under attrs)"}
			}
			err = p.skip(key, MaxDepth)
		}
		if err != nil {
			return err
		}
	}
}

func (p *scanner) decision(d *Decision) error {
	if !p.take('{') {
		return p.fault("", "a JSON object")
	}
	const most = 1<<63 - 1
	for first := true; ; first = false {
		key, more, err := p.key("", first)
		if err != nil || !more {
			return err
		}
		switch key {
		case "id":
			d.ID, err = p.text(key)
		case "verdict":
			d.Verdict, err = p.verdict(key)
		case "reason":
			d.Reason, err = p.reason(key)
		case "rule":
			d.Rule, err = p.text(key)
		case "key":
			d.Key, err = p.text(key)
		case "limit":
			d.Limit, err = p.integer(key, 0, most)
		case "window_ms":
			d.WindowMS, err = p.integer(key, 0, most)
		case "remaining":
			d.Remaining, err = p.integer(key, 0, most)
		case "reset_ms":
			d.ResetMS, err = p.integer(key, 0, most)
		case "retry_after_ms":
			d.RetryAfterMS, err = p.integer(key, 0, most)
		case "cost":
			d.Cost, err = p.integer(key, 0, most)
		case "shadow":
			err = p.rare(key, &d.Shadow)
		case "policy":
			var revision int64
			revision, err = p.integer(key, 0, most)
			d.Policy = uint64(revision)
		case "degraded":
			d.Degraded, err = p.boolean(key)
		case "decided_at":
			d.DecidedAt, err = p.instant(key)
		default:
			err = p.skip(key, MaxDepth)
		}
		if err != nil {
			return err
		}
	}
}

func (p *scanner) address(field string) (netip.Addr, error) {
	text, err := p.text(field)
	if err != nil || text == "" {
		return netip.Addr{}, err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, &FieldError{Field: field, Value: text, Want: "an IPv4 or IPv6 address"}
	}
	return addr.Unmap(), nil
}

// verdict reads a verdict, without memory of its own for the known ones.
func (p *scanner) verdict(field string) (Verdict, error) {
	text, err := p.text(field)
	switch Verdict(text) {
	case Allow:
		return Allow, err
	case Deny:
		return Deny, err
	}
	return Verdict(text), err
}

// reason reads a reason, without memory of its own for the known ones.
func (p *scanner) reason(field string) (Reason, error) {
	text, err := p.text(field)
	switch r := Reason(text); r {
	case ReasonRule:
		return ReasonRule, err
	case ReasonExempt:
		return ReasonExempt, err
	case ReasonNoRule:
		return ReasonNoRule, err
	default:
		return r, err
	}
}

// object appends the fields of one JSON object; what is zero is left out.
type object struct {
	dst   []byte
	comma bool
}

func (o *object) name(name string) {
	if o.comma {
		o.dst = append(o.dst, ',')
	}
	o.comma = true
	o.dst = append(o.dst, '"')
	o.dst = append(o.dst, name...)
	o.dst = append(o.dst, '"', ':')
}

func (o *object) text(name, value string) {
	if value != "" {
		o.name(name)
		o.dst = appendText(o.dst, value)
	}
}

func (o *object) number(name string, value int64) {
	if value != 0 {
		o.always(name, value)
	}
}

// always appends a number also when it is zero.
func (o *object) always(name string, value int64) {
	o.name(name)
	o.dst = strconv.AppendInt(o.dst, value, 10)
}

func (o *object) instant(name string, t time.Time) {
	if !t.IsZero() {
		o.name(name)
		o.dst = appendInstant(o.dst, t)
	}
}

// AppendRequest appends r as one JSON object on one line. The request must be
// valid, see Request.Validate.
func AppendRequest(dst []byte, r *Request) []byte {
	o := object{dst: append(dst, '{')}
	o.text("id", r.ID)
	o.text("tenant", r.Tenant)
	o.text("gateway", r.Gateway)
	o.instant("time", r.Time)
	o.text("user", r.User)
	o.text("api_key", r.APIKey)
	if r.IP.IsValid() {
		o.name("ip")
		o.dst = append(o.dst, '"')
		o.dst = r.IP.AppendTo(o.dst)
		o.dst = append(o.dst, '"')
	}
	o.text("method", r.Method)
	o.text("host", r.Host)
	o.text("path", r.Path)
	o.text("route", r.Route)
	if r.Peek {
		o.always("cost", 0)
	} else if r.Cost > 1 {
		o.always("cost", r.Cost)
	}
	if r.Attrs != "" {
		o.name("attrs")
		o.dst = appendLine(o.dst, r.Attrs)
	}
	o.number("status", r.Status)
	o.number("latency_us", r.LatencyUS)
	o.number("bytes_in", r.BytesIn)
	o.number("bytes_out", r.BytesOut)
	o.text("verdict", string(r.Verdict))
	o.text("reason", string(r.Reason))
	if r.Count > 1 {
		o.always("count", r.Count)
	}
	return append(o.dst, '}')
}

// appendLine appends JSON on one line: line breaks between its tokens become
// spaces; inside strings JSON has none.
func appendLine(dst []byte, text string) []byte {
	if strings.IndexByte(text, '\n') < 0 && strings.IndexByte(text, '\r') < 0 {
		return append(dst, text...)
	}
	for i := range len(text) {
		c := text[i]
		if c == '\n' || c == '\r' {
			c = ' '
		}
		dst = append(dst, c)
	}
	return dst
}

// AppendDecision appends d as one JSON object on one line.
func AppendDecision(dst []byte, d *Decision) []byte {
	o := object{dst: append(dst, '{')}
	o.text("id", d.ID)
	o.decision(d)
	return append(o.dst, '}')
}

// decision appends all but the id.
func (o *object) decision(d *Decision) {
	o.text("verdict", string(d.Verdict))
	o.text("reason", string(d.Reason))
	if d.Rule != "" {
		o.text("rule", d.Rule)
		o.name("key")
		o.dst = appendText(o.dst, d.Key)
		o.always("limit", d.Limit)
		o.always("window_ms", d.WindowMS)
		o.always("remaining", d.Remaining)
		o.always("reset_ms", d.ResetMS)
		o.number("retry_after_ms", d.RetryAfterMS)
	}
	o.always("cost", d.Cost)
	if len(d.Shadow) > 0 {
		o.name("shadow")
		o.dst = append(o.dst, '[')
		for i, rule := range d.Shadow {
			if i > 0 {
				o.dst = append(o.dst, ',')
			}
			o.dst = appendText(o.dst, rule)
		}
		o.dst = append(o.dst, ']')
	}
	o.always("policy", int64(d.Policy))
	if d.Degraded {
		o.name("degraded")
		o.dst = append(o.dst, "true"...)
	}
	o.instant("decided_at", d.DecidedAt)
}

// AppendRecord appends r as one line, without the line's end. The decision's
// id is the request's and not repeated: DecodeRecord sets it.
func AppendRecord(dst []byte, r *Record) []byte {
	if r.Refused != nil {
		dst = append(dst, `{"refused":`...)
		return append(appendJSON(dst, r.Refused), '}')
	}
	dst = append(dst, `{"request":`...)
	dst = AppendRequest(dst, &r.Request)
	o := object{dst: append(dst, `,"decision":{`...)}
	o.decision(&r.Decision)
	dst = append(o.dst, '}')
	if len(r.Charges) > 0 {
		dst = append(dst, `,"rules":`...)
		dst = appendJSON(dst, r.Charges)
	}
	return append(dst, '}')
}

// appendJSON appends what few records have, through encoding/json.
func appendJSON(dst []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("events: " + err.Error()) // both types are plain data
	}
	return append(dst, text...)
}
