package limiter

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/internal/events"
)

type metrics struct {
	windowBytes    prometheus.Gauge
	evictedLive    prometheus.Counter
	decisions      *prometheus.CounterVec
	refused        *prometheus.CounterVec
	repeated       prometheus.Counter
	unsent         prometheus.Counter
	append         prometheus.Histogram
	appendFailures prometheus.Counter
	unreplayed     prometheus.Counter
	dropped        prometheus.Counter

	refusedPolicies prometheus.Counter
	lost            prometheus.Counter
	block           prometheus.Histogram
	windows         prometheus.Gauge
	waiting         prometheus.Gauge
	owner           prometheus.Gauge
	available       prometheus.Gauge
	degraded        prometheus.Gauge
	backlog         prometheus.Gauge

	snapshotBytes    prometheus.Gauge
	snapshotTime     prometheus.Gauge
	failedSnapshots  prometheus.Counter
	ignoredSnapshots prometheus.Counter
	recovery         prometheus.Gauge
	recovered        prometheus.Gauge
}

func newMetrics(r prometheus.Registerer, number int) *metrics {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_limiter_decisions_total", Help: "Requests decided, by verdict and reason."}, []string{"verdict", "reason"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_limiter_refused_total", Help: "Events that could not be decided, by kind: check or report."}, []string{"kind"}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_repeated_total", Help: "Requests whose id was decided before."}),
		unsent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_unsent_total", Help: "Decisions that are in the journal and could not be published."}),
		append: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_limiter_append_seconds", Help: "Time until the journal had a block.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 16)}),
		appendFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_append_failures_total", Help: "Attempts to append a block that failed and were tried again."}),
		unreplayed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_unreplayed_blocks_total", Help: "Blocks of the journal that could not be read back whole."}),
		refusedPolicies: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_refused_policies_total", Help: "Revisions of the policy that could not be decided under."}),
		snapshotBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_snapshot_bytes", Help: "Size of the last snapshot of the windows that this limiter has stored."}),
		snapshotTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_snapshot_timestamp_seconds", Help: "When that one was begun."}),
		failedSnapshots: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_failed_snapshots_total", Help: "Snapshots that could not be stored; the one before stays."}),
		ignoredSnapshots: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_ignored_snapshots_total", Help: "Snapshots that did not fit the journal or the policy: the journal was read instead."}),
		recovery: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_recovery_seconds", Help: "How long it took to know what the owner before knew."}),
		recovered: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_recovered_records", Help: "Records of the journal that were charged again then: those since the snapshot began, or all that still matter."}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_dropped_checks_total", Help: "Checks that found the queue full."}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_lost_blocks_total", Help: "Blocks whose decisions went out as degraded and that never came into the journal."}),
		block: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_limiter_block_records", Help: "Records in a block.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10)}),
		windows: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_windows", Help: "Windows in memory."}),
		windowBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_window_bytes", Help: "About what the windows take."}),
		evictedLive: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_limiter_evicted_live_windows_total", Help: "Windows that had to make room while they counted something: their limits began anew."}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_waiting_checks", Help: "Checks that wait for a decision."}),
		owner: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_owner", Help: "1 while this limiter holds the shard's lease."}),
		available: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_windows_available", Help: "0 while the windows cannot be asked and rules' on_error decides."}),
		degraded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_degraded", Help: "1 while decisions go out before the journal has them."}),
		backlog: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_limiter_backlog_bytes", Help: "Decided and not yet in the journal."}),
	}
	m.available.Set(1)
	shard := prometheus.WrapRegistererWith(prometheus.Labels{"shard": strconv.Itoa(number)}, r)
	shard.MustRegister(m.decisions, m.refused, m.repeated, m.unsent, m.append, m.appendFailures, m.unreplayed, m.dropped, m.refusedPolicies, m.lost, m.block, m.windows, m.windowBytes, m.evictedLive, m.waiting, m.owner, m.available, m.degraded, m.backlog)
	shard.MustRegister(m.snapshotBytes, m.snapshotTime, m.failedSnapshots, m.ignoredSnapshots, m.recovery, m.recovered)
	return m
}

func (m *metrics) count(d *events.Decision) {
	m.decisions.WithLabelValues(string(d.Verdict), string(d.Reason)).Inc()
}
