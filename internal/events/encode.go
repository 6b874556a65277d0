package events

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

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
		o.dst = AppendText(o.dst, value)
	}
}

func (o *object) texts(name string, values []string) {
	if len(values) == 0 {
		return
	}
	o.name(name)
	o.dst = append(o.dst, '[')
	for i, value := range values {
		if i > 0 {
			o.dst = append(o.dst, ',')
		}
		o.dst = AppendText(o.dst, value)
	}
	o.dst = append(o.dst, ']')
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

func (o *object) flag(name string, value bool) {
	if value {
		o.name(name)
		o.dst = append(o.dst, "true"...)
	}
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
	} else {
		o.number("cost", r.Cost)
	}
	if r.Attrs != "" {
		o.name("attrs")
		o.dst = appendLine(o.dst, r.Attrs)
	}
	o.answer(r.Status, r.LatencyUS, r.BytesIn, r.BytesOut)
	o.text("verdict", string(r.Verdict))
	o.text("reason", string(r.Reason))
	o.text("rule", r.Rule)
	o.number("count", r.Count)
	return append(o.dst, '}')
}

// answer appends what is known of a request once it is answered.
func (o *object) answer(status, latencyUS, bytesIn, bytesOut int64) {
	o.number("status", status)
	o.number("latency_us", latencyUS)
	o.number("bytes_in", bytesIn)
	o.number("bytes_out", bytesOut)
}

// AppendOutcome appends o as one JSON object on one line. The outcome must be
// valid, see Outcome.Validate.
func AppendOutcome(dst []byte, o *Outcome) []byte {
	out := object{dst: append(dst, '{')}
	out.text("id", o.ID)
	out.text("tenant", o.Tenant)
	out.text("gateway", o.Gateway)
	out.instant("time", o.Time)
	out.answer(o.Status, o.LatencyUS, o.BytesIn, o.BytesOut)
	return append(out.dst, '}')
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
		o.dst = AppendText(o.dst, d.Key)
		o.always("limit", d.Limit)
		o.always("window_ms", d.WindowMS)
		o.always("remaining", d.Remaining)
		o.always("reset_ms", d.ResetMS)
		o.number("retry_after_ms", d.RetryAfterMS)
	}
	o.always("cost", d.Cost)
	o.texts("violated", d.Violated)
	o.texts("shadow", d.Shadow)
	o.always("policy", int64(d.Policy))
	o.flag("degraded", d.Degraded)
	o.instant("decided_at", d.DecidedAt)
}

// AppendRecord appends r as one line, without the line's end. The decision's
// id is the request's and not repeated: DecodeRecord sets it. Anybody may have
// chosen a refused report's subject and payload, so they are made to fit here.
func AppendRecord(dst []byte, r *Record) []byte {
	if r.Control != nil {
		control := *r.Control
		control.Block = 0
		dst = append(dst, controlStart...)
		return append(appendJSON(dst, control), '}')
	}
	if r.Refused != nil {
		refused := *r.Refused
		refused.Subject = strings.ReplaceAll(refused.Subject, "\x00", "\uFFFD")
		refused.Payload = refused.Payload[:min(len(refused.Payload), MaxPayload)]
		dst = append(dst, `{"refused":`...)
		return append(appendJSON(dst, refused), '}')
	}
	dst = append(dst, `{"request":`...)
	dst = AppendRequest(dst, &r.Request)
	o := object{dst: append(dst, `,"decision":{`...)}
	o.decision(&r.Decision)
	dst = append(o.dst, '}')
	if len(r.Charges) > 0 {
		dst = append(dst, `,"rules":[`...)
		for i := range r.Charges {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendCharge(dst, &r.Charges[i])
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

func appendCharge(dst []byte, c *Charge) []byte {
	o := object{dst: append(dst, '{')}
	o.text("rule", c.Rule)
	o.name("key")
	o.dst = AppendText(o.dst, c.Key)
	o.always("limit", c.Limit)
	o.always("window_ms", c.WindowMS)
	o.always("cost", c.Cost)
	o.always("remaining", c.Remaining)
	o.number("retry_after_ms", c.RetryAfterMS)
	o.flag("denied", c.Denied)
	o.flag("charged", c.Charged)
	o.number("buckets", int64(c.Buckets))
	o.text("mode", c.Mode)
	return append(o.dst, '}')
}

// appendJSON appends what few records have, through encoding/json.
func appendJSON(dst []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("events: " + err.Error()) // all these types are plain data
	}
	return append(dst, text...)
}
