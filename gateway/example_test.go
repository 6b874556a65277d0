package gateway_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

// startWeir runs NATS and a limiter, which lets each user of a tenant make two
// requests an hour; outside of an example that is: weir up --policy FILE.
func startWeir() (nc *nats.Conn, stop func()) {
	tb := &outside{}
	url := testenv.NATS(tb)
	nc = testenv.Connect(tb, url)
	apply(tb, nc, twoPerHour)
	limitertest.Start(tb, testenv.Connect(tb, url))
	return nc, tb.stop
}

// outside stands in for a test where there is none.
type outside struct {
	testing.TB
	cleanups []func()
}

func (*outside) Helper()                  {}
func (*outside) Context() context.Context { return context.Background() }
func (*outside) Error(args ...any)        { log.Print(args...) }
func (*outside) Fatal(args ...any)        { log.Panic(args...) }
func (o *outside) Cleanup(cleanup func()) { o.cleanups = append(o.cleanups, cleanup) }
func (o *outside) TempDir() string {
	dir, err := os.MkdirTemp("", "weir-example-")
	if err != nil {
		log.Panic(err)
	}
	o.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (o *outside) stop() {
	for _, cleanup := range slices.Backward(o.cleanups) {
		cleanup()
	}
}

// Two requests of a user fit the limit, the third does not.
func Example() {
	nc, stop := startWeir() // or nats.Connect("nats://127.0.0.1:4222")
	defer stop()

	client, err := gateway.Connect(nc, gateway.Config{Name: "shop-1", Timeout: 10 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	for range 3 {
		decision, err := client.Check(context.Background(), gateway.Request{Tenant: "acme", User: "42", Method: "GET"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(decision.Verdict, "by rule", decision.Rule, "with", decision.Remaining, "of", decision.Limit, "left")
	}
	// Output:
	// allow by rule few with 1 of 2 left
	// allow by rule few with 0 of 2 left
	// deny by rule few with 0 of 2 left
}

// What costs more than one unit says so. Asked again with the same id, it is
// charged once.
func ExampleClient_Check() {
	nc, stop := startWeir()
	defer stop()
	client, err := gateway.Connect(nc, gateway.Config{Name: "shop-1", Timeout: 10 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	export := gateway.Request{ID: "export-2026-11", Tenant: "acme", User: "42", Cost: 2}
	for range 2 {
		decision, err := client.Check(context.Background(), export)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(decision.Verdict, decision.Remaining)
	}
	// Output:
	// allow 0
	// allow 0
}

// A batch job has made its requests already. They count, and they are in Postgres.
func ExampleClient_Report() {
	nc, stop := startWeir()
	defer stop()
	client, err := gateway.Connect(nc, gateway.Config{Name: "batch-1"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	err = client.Report(context.Background(),
		gateway.Request{ID: "job-7/1", Tenant: "acme", User: "42", Method: "GET", Path: "/orders/1", Status: 200},
		gateway.Request{ID: "job-7/2", Tenant: "acme", User: "42", Method: "GET", Path: "/orders/2", Status: 404},
	)
	fmt.Println("stored:", err == nil)

	err = client.Report(context.Background(), gateway.Request{Tenant: "acme", Cost: -1})
	fmt.Println(err)
	// Output:
	// stored: true
	// request 0: cost: want a whole number from 0 to 4294967296, found "-1"
}

// A service behind one load balancer limits the users of each of its routes.
func ExampleClient_Middleware() {
	nc, stop := startWeir()
	defer stop()
	client, err := gateway.Connect(nc, gateway.Config{Name: "shop-1", Timeout: 10 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	proxies, err := gateway.ParseProxies("1")
	if err != nil {
		log.Fatal(err)
	}
	limit, err := client.Middleware(gateway.MiddlewareConfig{
		Tenant:  "acme",
		Proxies: proxies,
		Describe: func(r *http.Request, request *gateway.Request) {
			request.User, _, _ = r.BasicAuth() // which has been checked by now
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		decision, _ := gateway.DecisionFrom(r.Context())
		fmt.Fprintf(w, "order %s, %d requests left", r.PathValue("id"), decision.Remaining)
	})
	service := limit(mux) // for http.ListenAndServe

	for range 3 {
		r := httptest.NewRequest("GET", "/orders/7", nil)
		r.SetBasicAuth("ann", "secret")
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			fmt.Println(w.Code, w.Body)
		} else {
			fmt.Println(w.Code, w.Header().Get("Content-Type"))
		}
	}
	// Output:
	// 200 order 7, 1 requests left
	// 200 order 7, 0 requests left
	// 429 application/problem+json
}

// Whatever a client writes into X-Forwarded-For stands to the left of what the
// proxy in front of the service writes.
func ExampleProxies() {
	proxies, err := gateway.ParseProxies("10.0.0.0/8")
	if err != nil {
		log.Fatal(err)
	}
	header := http.Header{"X-Forwarded-For": {"127.0.0.1, 203.0.113.7"}}
	fmt.Println(proxies.Client("10.0.0.9:41234", header))
	fmt.Println(proxies.Client("198.51.100.1:41234", header)) // past the proxy
	// Output:
	// 203.0.113.7
	// 198.51.100.1
}
