package ingest

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/internal/events"
)

type metrics struct {
	requests *prometheus.CounterVec
	calls    *prometheus.CounterVec
	refused  *prometheus.CounterVec
	reports  prometheus.Counter
	outcomes prometheus.Counter
	check    *prometheus.HistogramVec
}

// newMetrics registers them all. unrecorded counts what the gateway's client
// could not record.
func newMetrics(r prometheus.Registerer, unrecorded func() int64) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_ingest_requests_total", Help: "HTTP requests answered, by endpoint and status; 499 is a client that did not wait."}, []string{"handler", "code"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_ingest_grpc_requests_total", Help: "gRPC requests answered, by method and by what Envoy was told (OK, OVER_LIMIT), or the error's code."}, []string{"method", "code"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_ingest_refused_total", Help: "Events refused, by the field that is wrong."}, []string{"field"}),
		reports: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_ingest_reports_stored_total", Help: "Reports acknowledged as stored."}),
		outcomes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_ingest_outcomes_stored_total", Help: "Outcomes acknowledged as stored."}),
		check: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_ingest_check_seconds", Help: "Time until a check had its decision, by verdict.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 14)}, []string{"verdict"}),
	}
	lost := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "weir_ingest_unrecorded_total", Help: "Requests without a decision that could not be recorded either."},
		func() float64 { return float64(unrecorded()) })
	r.MustRegister(m.requests, m.calls, m.refused, m.reports, m.outcomes, m.check, lost)
	return m
}

func (m *metrics) decided(v events.Verdict, took time.Duration) {
	m.check.WithLabelValues(string(v)).Observe(took.Seconds())
}

// refuse counts one event, by the first field that is wrong. The fields are
// ours: no sender can make up another.
func (m *metrics) refuse(err error) {
	field := "body"
	if fault, ok := errors.AsType[*events.FieldError](err); ok && fault.Field != "" {
		field = fault.Field
	}
	m.refused.WithLabelValues(field).Inc()
}
