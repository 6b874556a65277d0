package writer

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	rows, deadLetters, gaps  *prometheus.CounterVec // by shard
	retries                  *prometheus.CounterVec // by shard and fault: transient, configuration
	batchRows, commitSeconds prometheus.Histogram
	lagBlocks, lagSeconds    *prometheus.GaugeVec   // by shard
	held, standingBy         *prometheus.GaugeVec   // by shard
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
		rows:          counter("rows_total", "Records stored as rows.", "shard"),
		deadLetters:   counter("dead_letters_total", "Records that could not be rows.", "shard"),
		gaps:          counter("gaps_total", "Times that blocks were missing from the journal.", "shard"),
		retries:       counter("retries_total", "Attempts that failed and are made again; fault configuration stays until somebody mends it.", "shard", "fault"),
		batchRows:     histogram("batch_rows", "Records of one transaction.", prometheus.ExponentialBuckets(1, 4, 8)),
		commitSeconds: histogram("commit_seconds", "Time to store one batch.", prometheus.ExponentialBuckets(0.001, 2, 14)),
		lagBlocks:     gauge("lag_blocks", "Blocks of the journal that are not stored yet."),
		lagSeconds:    gauge("lag_seconds", "Age of the last block stored while there are others after it; 0 when all are stored."),
		held:          gauge("held", "1 while nothing is stored because the configuration is wrong."),
		standingBy:    gauge("standing_by", "1 while another writer stores the shard."),
		queries:       counter("queries_total", "Analytics queries answered, by HTTP status.", "status"),
		querySeconds:  histogram("query_seconds", "Time to answer one analytics query.", prometheus.ExponentialBuckets(0.001, 2, 14)),
	}
	r.MustRegister(m.rows, m.deadLetters, m.gaps, m.retries, m.batchRows, m.commitSeconds,
		m.lagBlocks, m.lagSeconds, m.held, m.standingBy, m.queries, m.querySeconds)
	return m
}

// shardMetrics are those of one shard, there from its start so that alarms see
// zeros.
type shardMetrics struct {
	rows, deadLetters, gaps  prometheus.Counter
	transient, configuration prometheus.Counter
	lagBlocks, lagSeconds    prometheus.Gauge
	held, standingBy         prometheus.Gauge
}

func (m *metrics) shard(number int) shardMetrics {
	n := strconv.Itoa(number)
	return shardMetrics{
		rows:          m.rows.WithLabelValues(n),
		deadLetters:   m.deadLetters.WithLabelValues(n),
		gaps:          m.gaps.WithLabelValues(n),
		transient:     m.retries.WithLabelValues(n, "transient"),
		configuration: m.retries.WithLabelValues(n, "configuration"),
		lagBlocks:     m.lagBlocks.WithLabelValues(n),
		lagSeconds:    m.lagSeconds.WithLabelValues(n),
		held:          m.held.WithLabelValues(n),
		standingBy:    m.standingBy.WithLabelValues(n),
	}
}
