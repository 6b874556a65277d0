package ingest

import (
	"bytes"
	"math"
	"net/http"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
)

// answer tells of each decision, and to whoever sent the request of the worst as
// HTTP answers would.
func (s *rateLimits) answer(decisions []events.Decision) *rls.RateLimitResponse {
	response := &rls.RateLimitResponse{
		OverallCode: rls.RateLimitResponse_OK,
		Statuses:    make([]*rls.RateLimitResponse_DescriptorStatus, len(decisions)),
	}
	worst := &decisions[0]
	for i := range decisions {
		d := &decisions[i]
		response.Statuses[i] = envoyStatus(d)
		if worse(d, worst) {
			worst = d
		}
	}
	if worst.Verdict == events.Deny {
		response.OverallCode = rls.RateLimitResponse_OVER_LIMIT
	}
	p := pages.Get().(*page)
	defer pages.Put(p)
	response.ResponseHeadersToAdd, response.RawBody = p.write(worst, s.headers)
	return response
}

// worse tells whether a says more than b to whoever sent the request: that it
// is denied, and for how long, or what is left of the tightest limit.
func worse(a, b *events.Decision) bool {
	if a.Verdict != b.Verdict {
		return a.Verdict == events.Deny
	}
	if a.Verdict == events.Deny {
		return wait(a) > wait(b)
	}
	return a.Rule != "" && (b.Rule == "" || a.Remaining < b.Remaining)
}

// wait is how long a denied request has to, for ever if it can never pass.
func wait(d *events.Decision) int64 {
	if d.RetryAfterMS == 0 && d.Rule != "" {
		return math.MaxInt64
	}
	return d.RetryAfterMS
}

// envoyStatus tells of one decision. What no rule bound has no limit.
func envoyStatus(d *events.Decision) *rls.RateLimitResponse_DescriptorStatus {
	all := &struct { // of one allocation
		status     rls.RateLimitResponse_DescriptorStatus
		limit      rls.RateLimitResponse_RateLimit
		multiplier wrapperspb.UInt32Value
		reset      durationpb.Duration
	}{}
	all.status.Code = rls.RateLimitResponse_OK
	if d.Verdict == events.Deny {
		all.status.Code = rls.RateLimitResponse_OVER_LIMIT
	}
	if d.Rule == "" {
		if d.Reason == events.ReasonExempt {
			all.status.LimitRemaining = math.MaxUint32
		}
		return &all.status
	}
	all.limit.Name, all.limit.RequestsPerUnit = d.Rule, clamp(d.Limit)
	var units uint32
	all.limit.Unit, units = envoyUnit(d.WindowMS)
	if units != 1 {
		all.multiplier.Value = units
		all.limit.UnitMultiplier = &all.multiplier
	}
	all.reset.Seconds, all.reset.Nanos = d.ResetMS/1000, int32(d.ResetMS%1000*1e6)
	all.status.CurrentLimit = &all.limit
	all.status.LimitRemaining = clamp(d.Remaining)
	all.status.DurationUntilReset = &all.reset
	return &all.status
}

// clamp fits a number into what Envoy has for it.
func clamp(n int64) uint32 { return uint32(min(n, math.MaxUint32)) }

// envoyUnit returns the longest of Envoy's units that make up a window, and how
// many do. A window is whole seconds, see policy.ParseLimit. Months and years
// have no length of their own.
func envoyUnit(windowMS int64) (rls.RateLimitResponse_RateLimit_Unit, uint32) {
	seconds := max(windowMS/1000, 1)
	for _, unit := range [...]struct {
		seconds int64
		unit    rls.RateLimitResponse_RateLimit_Unit
	}{
		{7 * 24 * 3600, rls.RateLimitResponse_RateLimit_WEEK},
		{24 * 3600, rls.RateLimitResponse_RateLimit_DAY},
		{3600, rls.RateLimitResponse_RateLimit_HOUR},
		{60, rls.RateLimitResponse_RateLimit_MINUTE},
	} {
		if seconds%unit.seconds == 0 {
			return unit.unit, uint32(seconds / unit.seconds)
		}
	}
	return rls.RateLimitResponse_RateLimit_SECOND, uint32(seconds)
}

// page is an answer over HTTP that Envoy will give.
type page struct {
	header http.Header
	body   bytes.Buffer
}

var pages = sync.Pool{New: func() any { return &page{header: make(http.Header)} }}

func (p *page) Header() http.Header         { return p.header }
func (p *page) Write(b []byte) (int, error) { return p.body.Write(b) }
func (p *page) WriteHeader(int)             {} // Envoy has rate_limited_status

// write returns the headers of the answer to a decision and, for a denial, the
// body. They share no memory with the page.
func (p *page) write(d *events.Decision, kinds answer.Headers) ([]*core.HeaderValue, []byte) {
	clear(p.header)
	p.body.Reset()
	answer.SetLimits(p.header, d, kinds)
	var body []byte
	if d.Verdict == events.Deny {
		answer.Deny(p, d, events.AppendDecision(nil, d))
		delete(p.header, "Content-Length") // is Envoy's to say
		body = bytes.Clone(p.body.Bytes())
	}
	if len(p.header) == 0 {
		return nil, body
	}
	values := make([]core.HeaderValue, len(p.header))
	headers := make([]*core.HeaderValue, 0, len(values))
	for name, value := range p.header {
		header := &values[len(headers)]
		header.Key, header.Value = name, value[0]
		headers = append(headers, header)
	}
	return headers, body
}
