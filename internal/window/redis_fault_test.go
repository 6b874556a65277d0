package window_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/window"
)

// soon is how long a call that is bound to 50 ms may take on a busy machine.
const soon = 2 * time.Second

// impatient returns a store with the bounds of production.
func impatient(t *testing.T, url string) *window.Redis {
	t.Helper()
	config := window.DefaultRedisConfig()
	config.URL, config.Retry = url, 200*time.Millisecond
	store, err := window.OpenRedis(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// ask decides one request of one unit.
func ask(ctx context.Context, store *window.Redis, key string, limit int64) (window.Charge, error) {
	batch := []window.Request{{Charges: []window.Charge{{Key: []byte("acme\x00" + key), Cost: 1, Limit: limit, Window: time.Hour}}}}
	err := store.Decide(ctx, time.Time{}, batch)
	if (err == nil) == batch[0].At.IsZero() {
		err = errors.Join(err, fmt.Errorf("decided at %v", batch[0].At))
	}
	return batch[0].Charges[0], err
}

// answers waits until the server answers.
func answers(t *testing.T, store *window.Redis) {
	t.Helper()
	testenv.Eventually(t, 30*time.Second, func() error { return store.Ping(t.Context()) })
}

// used returns how many units a key has been charged.
func used(t *testing.T, url, key string) int64 {
	t.Helper()
	batch := []window.Request{{Charges: []window.Charge{{Key: []byte("acme\x00" + key), Limit: 1000, Window: time.Hour}}}}
	store := openRedis(t, url)
	testenv.Eventually(t, 10*time.Second, func() error { // sentinels may not agree yet
		return store.Decide(t.Context(), time.Time{}, batch)
	})
	return 1000 - batch[0].Charges[0].Remaining
}

func TestRedisGoneAndBack(t *testing.T) {
	t.Parallel()
	addr := testenv.FreeAddr(t)
	server := testenv.StartRedis(t, addr)
	url := "redis://" + addr
	store := impatient(t, url)
	answers(t, store)
	if _, err := ask(t.Context(), store, "k", 10); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	for range window.DefaultRedisConfig().Trip {
		began := time.Now()
		if _, err := ask(t.Context(), store, "k", 10); err == nil || time.Since(began) > soon {
			t.Fatalf("a server that is gone: %v after %v", err, time.Since(began))
		}
	}
	if store.Available() {
		t.Fatal("still asked after all those failures")
	}
	began := time.Now()
	for range 1000 {
		if _, err := ask(t.Context(), store, "k", 10); err == nil {
			t.Fatal("an answer of a server that is gone")
		}
	}
	if took := time.Since(began); took > soon {
		t.Errorf("1000 calls while it is known to be gone took %v", took)
	}
	testenv.StartRedis(t, addr)
	answers(t, store)
	if n := used(t, url, "k"); n != 0 {
		t.Errorf("%d units charged by calls that had failed", n)
	}
	if c, err := ask(t.Context(), store, "k", 10); err != nil || c.Remaining != 9 {
		t.Errorf("after it is back: %+v, %v", c, err)
	}
}

func TestRedisHangs(t *testing.T) {
	t.Parallel()
	addr := testenv.FreeAddr(t)
	server := testenv.StartRedis(t, addr)
	store := impatient(t, "redis://"+addr)
	answers(t, store)
	if err := syscall.Kill(server.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	const calls = 20
	began := time.Now()
	for range calls {
		if _, err := ask(t.Context(), store, "k", 100); err == nil {
			t.Error("an answer of a server that sleeps")
		}
	}
	if took := time.Since(began); took > soon {
		t.Errorf("%d calls took %v", calls, took)
	}
	patient := openRedis(t, "redis://"+addr)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	if _, err := ask(ctx, patient, "k", 100); err == nil || time.Since(began) > soon {
		t.Errorf("a caller's own deadline: %v after %v", err, time.Since(began))
	}
	if err := syscall.Kill(server.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	answers(t, store)
	// What was sent before it was known to hang may have been obeyed, once each.
	if n, most := used(t, "redis://"+addr, "k"), int64(window.DefaultRedisConfig().Trip)+1; n > most {
		t.Errorf("%d units charged by %d calls", n, most)
	}
}

// A caller that gives up does not make the server one that is gone.
func TestRedisCallerGone(t *testing.T) {
	t.Parallel()
	store := impatient(t, testenv.Redis(t))
	answers(t, store)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 * window.DefaultRedisConfig().Trip {
		if _, err := ask(ctx, store, "k", 10); !errors.Is(err, context.Canceled) {
			t.Fatalf("%v, want %v", err, context.Canceled)
		}
	}
	if !store.Available() {
		t.Error("not asked any more")
	}
}

// An answer that is lost is not asked for again: the charge would be made twice.
func TestRedisAnswerLost(t *testing.T) {
	t.Parallel()
	urls := map[string]string{"single": testenv.Redis(t), "cluster": clusterURL(testenv.RedisCluster(t))}
	for name, url := range urls {
		t.Run(name, func(t *testing.T) {
			store := openRedis(t, url)
			lost := window.LoseAnswer(store)
			if _, err := ask(t.Context(), store, "k", 10); err != nil { // knows the script from now on
				t.Fatal(err)
			}
			lost.Store(true)
			if _, err := ask(t.Context(), store, "k", 10); err == nil {
				t.Error("no error though the answer was lost")
			}
			if n := used(t, url, "k"); n != 2 {
				t.Errorf("%d units charged by two calls", n)
			}
		})
	}
}

func TestRedisForgetsScripts(t *testing.T) {
	t.Parallel()
	addrs := testenv.RedisCluster(t)
	store := openRedis(t, clusterURL(addrs))
	nodes := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	t.Cleanup(func() { _ = nodes.Close() })
	for i := range int64(3) {
		if err := nodes.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
			return node.ScriptFlush(ctx).Err()
		}); err != nil {
			t.Fatal(err)
		}
		var batch []window.Request
		for tenant := range 50 {
			for range 2 {
				batch = append(batch, window.Request{Charges: []window.Charge{
					{Key: fmt.Appendf(nil, "t%d\x00k", tenant), Cost: 1, Limit: 100, Window: time.Hour}}})
			}
		}
		if err := store.Decide(t.Context(), time.Time{}, batch); err != nil {
			t.Fatal(err)
		}
		for j, r := range batch { // in order
			if want := 100 - 2*i - 1 - int64(j%2); r.Charges[0].Remaining != want || !r.Admitted || r.At.IsZero() {
				t.Fatalf("request %d of round %d: %+v, want %d left", j, i, r, want)
			}
		}
		c := batch[0].Charges[0]
		c.Cost = 1
		if _, err := store.Refund(t.Context(), batch[0].At.Add(time.Hour), c); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRedisReadOnlyReplica(t *testing.T) {
	t.Parallel()
	addr, replica := testenv.FreeAddr(t), testenv.FreeAddr(t)
	testenv.StartRedis(t, addr)
	host, port, _ := net.SplitHostPort(addr)
	testenv.StartRedis(t, replica, "--replicaof", host+" "+port)
	store := openRedis(t, "redis://"+replica)
	if _, err := ask(t.Context(), store, "k", 10); err == nil || !strings.Contains(err.Error(), "READONLY") {
		t.Errorf("a replica that may not be written to: %v", err)
	}
}

func TestRedisClusterSlotMoves(t *testing.T) {
	t.Parallel()
	addrs := testenv.RedisCluster(t)
	store := openRedis(t, clusterURL(addrs))
	if _, err := ask(t.Context(), store, "k", 10); err != nil {
		t.Fatal(err)
	}
	nodes := make([]*redis.Client, len(addrs))
	ids := make([]string, len(addrs))
	for i, addr := range addrs {
		nodes[i] = redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { _ = nodes[i].Close() })
		var err error
		if ids[i], err = nodes[i].ClusterMyID(t.Context()).Result(); err != nil {
			t.Fatal(err)
		}
	}
	slot := nodes[0].ClusterKeySlot(t.Context(), "{other}").Val()
	to := int(slot+1) % len(addrs)
	for _, i := range []int{to, (to + 1) % len(addrs), (to + 2) % len(addrs)} {
		if err := nodes[i].Do(t.Context(), "CLUSTER", "SETSLOT", slot, "NODE", ids[to]).Err(); err != nil {
			t.Fatal(err)
		}
	}
	batch := []window.Request{
		{Charges: []window.Charge{{Key: []byte("other\x00k"), Cost: 1, Limit: 2, Window: time.Hour}}},
		{Charges: []window.Charge{{Key: []byte("acme\x00k"), Cost: 1, Limit: 2, Window: time.Hour}}},
	}
	if err := store.Decide(t.Context(), time.Time{}, batch); err != nil || batch[0].Charges[0].Remaining != 1 || batch[1].Charges[0].Remaining != 0 {
		t.Errorf("after a slot has moved: %+v, %v", batch, err)
	}
}

// One node less: the tenants of the others are decided.
func TestRedisClusterNodeGone(t *testing.T) {
	t.Parallel()
	addrs := testenv.RedisCluster(t, "--cluster-require-full-coverage", "no")
	store := openRedis(t, clusterURL(addrs))
	batch := make([]window.Request, 30)
	for i := range batch {
		batch[i].Charges = []window.Charge{{Key: fmt.Appendf(nil, "t%d\x00k", i), Cost: 1, Limit: 2, Window: time.Hour}}
	}
	if err := store.Decide(t.Context(), time.Time{}, batch); err != nil {
		t.Fatal(err)
	}
	node := redis.NewClient(&redis.Options{Addr: addrs[1], MaxRetries: -1})
	t.Cleanup(func() { _ = node.Close() })
	_ = node.ShutdownNoSave(t.Context()).Err() // the connection ends without an answer
	if err := store.Decide(t.Context(), time.Time{}, batch); err == nil {
		t.Error("no error though a node is gone")
	}
	decided := 0
	for _, r := range batch {
		if !r.At.IsZero() {
			decided++
		}
	}
	if decided < 10 || decided == len(batch) {
		t.Errorf("%d of %d requests decided without one of three nodes", decided, len(batch))
	}
}

func TestRedisSentinelFailsOver(t *testing.T) {
	t.Parallel()
	url, master := testenv.RedisSentinel(t)
	store := impatient(t, url)
	answers(t, store)
	testenv.Eventually(t, 10*time.Second, func() error { _, err := ask(t.Context(), store, "k", 1000); return err })
	before := used(t, url, "k")
	window.Replicated(t, store)
	master.Kill()
	testenv.Eventually(t, 60*time.Second, func() error { _, err := ask(t.Context(), store, "k", 1000); return err })
	if n := used(t, url, "k"); n <= before {
		t.Errorf("%d units after the failover, want more than the %d before", n, before)
	}
}
