package events

import (
	"encoding/json"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DecodeRequest reads a request from the JSON object in payload, which may be
// reused afterwards. Unknown fields are refused when strict, else ignored. The
// error is a *FieldError. What a field may hold is for Validate to say.
func DecodeRequest(payload []byte, strict bool) (Request, error) {
	var r Request
	p, err := scanPayload(payload, MaxPayload)
	if err != nil {
		return r, err
	}
	if err := p.request(&r, strict); err != nil {
		return r, err
	}
	return r, p.finish("")
}

// DecodeOutcome is DecodeRequest for an outcome.
func DecodeOutcome(payload []byte, strict bool) (Outcome, error) {
	var o Outcome
	p, err := scanPayload(payload, MaxOutcome)
	if err != nil {
		return o, err
	}
	if err := p.outcome(&o, strict); err != nil {
		return o, err
	}
	return o, p.finish("")
}

// scanPayload begins to read what came from a gateway.
func scanPayload(payload []byte, most int) (scanner, error) {
	if len(payload) > most {
		return scanner{}, &FieldError{Value: strconv.Itoa(len(payload)) + " bytes", Want: "at most " + strconv.Itoa(most) + " bytes"}
	}
	return scan(string(payload))
}

// DecodeDecision reads a decision from the JSON object in payload, which may
// be reused afterwards. Unknown fields are ignored.
func DecodeDecision(payload []byte) (Decision, error) {
	var d Decision
	p, err := scan(string(payload))
	if err != nil {
		return d, err
	}
	if err := p.decision(&d); err != nil {
		return d, err
	}
	return d, p.finish("")
}

// DecodeRecord reads one line of a block into r, whose strings then share the
// line's memory. Unknown fields are ignored.
func DecodeRecord(line string, r *Record) error {
	*r = Record{}
	p, err := scan(line)
	if err != nil {
		return err
	}
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
			return p.finish("")
		}
		switch key {
		case "request":
			err = p.request(&r.Request, false)
		case "decision":
			err = p.decision(&r.Decision)
		case "rules":
			r.Charges, err = p.charges()
		case "refused":
			err = p.rare("refused", &r.Refused)
		case "control":
			err = p.rare("control", &r.Control)
		default:
			err = p.skip("", MaxDepth)
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
		return &FieldError{Field: field, Value: text, Want: printable(err.Error())}
	}
	return nil
}

// texts reads a list of strings that few decisions have.
func (p *scanner) texts(field string) (list []string, err error) {
	err = p.rare(field, &list)
	return list, err
}

// printable makes what others say of a value fit to be shown: they quote it.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, text)
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "") + "…"
	}
	return text
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
		case "rule":
			r.Rule, err = p.text(key)
		case "count":
			r.Count, err = p.integer(key, 1, MaxCount)
		default:
			if strict {
				return &FieldError{Value: key, Want: "a known field (others go under attrs)"}
			}
			err = p.skip("", MaxDepth)
		}
		if err != nil {
			return err
		}
	}
}

func (p *scanner) outcome(o *Outcome, strict bool) error {
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
			o.ID, err = p.text(key)
		case "tenant":
			o.Tenant, err = p.text(key)
		case "gateway":
			o.Gateway, err = p.text(key)
		case "time":
			o.Time, err = p.instant(key)
		case "status":
			o.Status, err = p.integer(key, 0, 999)
		case "latency_us":
			o.LatencyUS, err = p.integer(key, 0, MaxLatency)
		case "bytes_in":
			o.BytesIn, err = p.integer(key, 0, MaxBytes)
		case "bytes_out":
			o.BytesOut, err = p.integer(key, 0, MaxBytes)
		default:
			if strict {
				return &FieldError{Value: key, Want: "a known field"}
			}
			err = p.skip("", MaxDepth)
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
		case "violated":
			d.Violated, err = p.texts(key)
		case "shadow":
			d.Shadow, err = p.texts(key)
		case "policy":
			var revision int64
			revision, err = p.integer(key, 0, most)
			d.Policy = uint64(revision)
		case "degraded":
			d.Degraded, err = p.boolean(key)
		case "decided_at":
			d.DecidedAt, err = p.instant(key)
		default:
			err = p.skip("", MaxDepth)
		}
		if err != nil {
			return err
		}
	}
}

// charges reads a list of charges.
func (p *scanner) charges() ([]Charge, error) {
	if !p.take('[') {
		return nil, p.fault("rules", "a list")
	}
	if p.take(']') {
		return nil, nil
	}
	list := make([]Charge, 0, 4)
	for {
		list = append(list, Charge{})
		if err := p.charge(&list[len(list)-1]); err != nil {
			return nil, err
		}
		if p.take(']') {
			return list, nil
		}
		if !p.take(',') {
			return nil, p.fault("rules", "a comma or the end of the list")
		}
	}
}

func (p *scanner) charge(c *Charge) error {
	if !p.take('{') {
		return p.fault("rules", "an object")
	}
	const most = 1<<63 - 1
	for first := true; ; first = false {
		key, more, err := p.key("rules", first)
		if err != nil || !more {
			return err
		}
		switch key {
		case "rule":
			c.Rule, err = p.text(key)
		case "key":
			c.Key, err = p.text(key)
		case "limit":
			c.Limit, err = p.integer(key, 0, most)
		case "window_ms":
			c.WindowMS, err = p.integer(key, 0, most)
		case "cost":
			c.Cost, err = p.integer(key, 0, most)
		case "remaining":
			c.Remaining, err = p.integer(key, 0, most)
		case "retry_after_ms":
			c.RetryAfterMS, err = p.integer(key, 0, most)
		case "denied":
			c.Denied, err = p.boolean(key)
		case "charged":
			c.Charged, err = p.boolean(key)
		case "buckets":
			var n int64
			n, err = p.integer(key, 0, math.MaxInt32)
			c.Buckets = int(n)
		case "mode":
			c.Mode, err = p.text(key)
		default:
			err = p.skip("rules", MaxDepth)
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
