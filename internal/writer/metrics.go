package writer

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	rows, deadLetters, gaps  *prometheus.CounterVec // by shard
	present                  *prometheus.CounterVec // by shard
	outcomes                 prometheus.Counter
	retries                  *prometheus.CounterVec // by shard and fault: transient, configuration
	batchRows, commitSeconds prometheus.Histogram
	lagBlocks, lagSeconds    *prometheus.GaugeVec // by shard
	held, standingBy         *prometheus.GaugeVec // by shard
	upkeepFailures           prometheus.Counter
	daysExpired              prometheus.Counter
	queries                  *prometheus.CounterVec // by status
	querySeconds             prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_writer_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weir_writer_" + name, Help: help}, []string{"shard"})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "weir_writer_" + name, Help: help, Buckets: buckets})
	}
	m := &metrics{
		rows:           counter("rows_total", "Records stored as rows.", "shard"),
		deadLetters:    counter("dead_letters_total", "Records, or outcomes, that could not be rows.", "shard"),
		gaps:           counter("gaps_total", "Times that blocks were missing from the journal, or outcomes from their stream.", "shard"),
		present:        counter("present_total", "Records that were stored already, or outcomes of requests that had one.", "shard"),
		outcomes:       prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_writer_outcomes_total", Help: "Outcomes stored as rows."}),
		retries:        counter("retries_total", "Attempts that failed and are made again; fault configuration stays until somebody mends it.", "shard", "fault"),
		batchRows:      histogram("batch_rows", "Records, or outcomes, of one transaction.", prometheus.ExponentialBuckets(1, 4, 8)),
		commitSeconds:  histogram("commit_seconds", "Time to store one batch.", prometheus.ExponentialBuckets(0.001, 2, 14)),
		lagBlocks:      gauge("lag_blocks", "Blocks of the journal, or outcomes, that are not stored yet."),
		lagSeconds:     gauge("lag_seconds", "Age of the last block, or outcome, stored while there are others after it; 0 when all are stored."),
		held:           gauge("held", "1 while nothing is stored because the configuration is wrong."),
		standingBy:     gauge("standing_by", "1 while another writer stores the shard, or outcomes."),
		upkeepFailures: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_writer_upkeep_failures_total", Help: "Times that partitions could not be made ahead, analysed or dropped; it is tried again."}),
		daysExpired:    prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_writer_days_expired_total", Help: "Days of rows that were dropped when their retention was over."}),
		queries:        counter("queries_total", "Analytics queries answered, by HTTP status.", "status"),
		querySeconds:   histogram("query_seconds", "Time to answer one analytics query.", prometheus.ExponentialBuckets(0.001, 2, 14)),
	}
	r.MustRegister(m.rows, m.deadLetters, m.gaps, m.present, m.outcomes, m.retries, m.batchRows, m.commitSeconds,
		m.lagBlocks, m.lagSeconds, m.held, m.standingBy, m.upkeepFailures, m.daysExpired, m.queries, m.querySeconds)
	return m
}

// shardMetrics are those of one shard, there from its start so that alarms see
// zeros.
type shardMetrics struct {
	rows, deadLetters, gaps  prometheus.Counter
	present                  prometheus.Counter
	transient, configuration prometheus.Counter
	lagBlocks, lagSeconds    prometheus.Gauge
	held, standingBy         prometheus.Gauge
}

func (m *metrics) shard(number int) shardMetrics {
	n := strconv.Itoa(number)
	return m.labelled(n, m.rows.WithLabelValues(n))
}

// ofOutcomes are those of the stream of outcomes: of what is about all streams,
// under a shard of that name. Its rows are counted apart, so that those of all
// shards add up to the records.
func (m *metrics) ofOutcomes() shardMetrics { return m.labelled("outcomes", m.outcomes) }

func (m *metrics) labelled(shard string, rows prometheus.Counter) shardMetrics {
	return shardMetrics{
		rows:          rows,
		deadLetters:   m.deadLetters.WithLabelValues(shard),
		gaps:          m.gaps.WithLabelValues(shard),
		present:       m.present.WithLabelValues(shard),
		transient:     m.retries.WithLabelValues(shard, "transient"),
		configuration: m.retries.WithLabelValues(shard, "configuration"),
		lagBlocks:     m.lagBlocks.WithLabelValues(shard),
		lagSeconds:    m.lagSeconds.WithLabelValues(shard),
		held:          m.held.WithLabelValues(shard),
		standingBy:    m.standingBy.WithLabelValues(shard),
	}
}
