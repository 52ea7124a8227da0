package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/phigate/phigate/policy"
)

// metrics are counted without a word of mail: labels are codes, actions and
// outcomes, all from small fixed sets.
type metrics struct {
	registry     *prometheus.Registry
	decisions    *prometheus.CounterVec // by code
	refused      *prometheus.CounterVec // before any decision, by code
	outcomes     *prometheus.CounterVec // of delivery attempts
	refusals     *prometheus.CounterVec // of other servers, by what they are about
	returns      *prometheus.CounterVec // what came back, by what it was
	queue        *prometheus.CounterVec // what happens in the queue
	accept       prometheus.Histogram
	authFailures prometheus.Counter
	turnedAway   prometheus.Counter
	storeErrors  prometheus.Counter
	unsigned     prometheus.Counter
	reloads      *prometheus.CounterVec // by result
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "gateway", Name: name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "gateway", Name: name, Help: help}, []string{label})
		m.registry.MustRegister(c)
		return c
	}
	m.decisions = vec("decisions_total", "Decisions for recipients, by code.", "code")
	m.refused = vec("refused_total", "Commands refused before any decision, by code.", "code")
	m.outcomes = vec("deliveries_total", "Ends of delivery attempts, by outcome.", "outcome")
	m.refusals = vec("refusals_total", "Replies of other servers that refused, by what they are about.", "class")
	m.returns = vec("returns_total", "Bounces and complaints that came back, by what became of them.", "what")
	m.queue = vec("queue_events_total", "Events of the queue, by kind.", "event")
	m.reloads = vec("reloads_total", "Reloads of policy and certificates, by result.", "result")
	m.authFailures = counter("auth_failures_total", "Wrong passwords.")
	m.turnedAway = counter("connections_refused_total", "Connections over the limit.")
	m.storeErrors = counter("store_errors_total", "Messages answered 451 because the store failed.")
	m.unsigned = counter("unsigned_total", "Messages sent without DKIM, for want of a key.")
	m.accept = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "gateway", Name: "accept_seconds",
		Help: "From the end of DATA's 354 to the final reply.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)})
	m.registry.MustRegister(m.accept, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (g *Gateway) count(v policy.Verdict) { g.metrics.decisions.WithLabelValues(string(v.Code)).Inc() }

// handler serves /metrics and /healthz.
func (m *metrics) handler(g *Gateway) http.Handler {
	mux := http.NewServeMux()
	m.registry.MustRegister(queueCollector{g})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := g.store.Check(r.Context()); err != nil {
			http.Error(w, "store unavailable", http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	return mux
}

// queueCollector reads the queue's size when it is asked.
type queueCollector struct{ g *Gateway }

var (
	descQueued  = prometheus.NewDesc("gateway_queue_envelopes", "Envelopes by state.", []string{"state"}, nil)
	descOldest  = prometheus.NewDesc("gateway_queue_oldest_seconds", "Age of the oldest queued message.", nil, nil)
	descPickups = prometheus.NewDesc("gateway_pickups", "Messages waiting on the portal.", nil, nil)
	descLeaves  = prometheus.NewDesc("gateway_audit_leaves", "Leaves of the audit log.", nil, nil)
	descClients = prometheus.NewDesc("gateway_connections", "Open SMTP connections of clients.", nil, nil)
)

func (queueCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descQueued, descOldest, descPickups, descLeaves, descClients} {
		ch <- d
	}
}

func (c queueCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descClients, float64(c.g.clients.count()))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := c.g.store.Stats(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descQueued, err)
		return
	}
	gauge(descQueued, float64(s.Ready), "ready")
	gauge(descQueued, float64(s.Leased), "leased")
	gauge(descQueued, float64(s.Held), "held")
	gauge(descPickups, float64(s.Pickups))
	gauge(descLeaves, float64(s.Leaves))
	if !s.Oldest.IsZero() {
		gauge(descOldest, c.g.clock().Sub(s.Oldest).Seconds())
	}
}
