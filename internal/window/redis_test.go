package window_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/window"
	"github.com/weirhq/weir/internal/window/windowtest"
)

// openRedis opens a store that waits as long as a busy machine may take.
func openRedis(t testing.TB, url string) *window.Redis {
	t.Helper()
	config := window.DefaultRedisConfig()
	config.URL, config.Timeout = url, 10*time.Second
	store, err := window.OpenRedis(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func clusterURL(addrs []string) string {
	return "redis://" + addrs[0] + "?addr=" + strings.Join(addrs[1:], "&addr=")
}

// connect connects to a server itself.
func connect(t *testing.T, url string) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	server := redis.NewClient(options)
	t.Cleanup(func() { _ = server.Close() })
	return server
}

func TestRedis(t *testing.T) {
	t.Parallel()
	url := testenv.Redis(t)
	server := connect(t, url)
	store := openRedis(t, url)
	windowtest.Run(t, func(t *testing.T) windowtest.Store {
		if err := server.FlushDB(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		return window.Timed(store)
	})
}

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	addrs := testenv.RedisCluster(t)
	store := openRedis(t, clusterURL(addrs))
	nodes := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	t.Cleanup(func() { _ = nodes.Close() })
	windowtest.Run(t, func(t *testing.T) windowtest.Store {
		if err := nodes.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
			return node.FlushDB(ctx).Err()
		}); err != nil {
			t.Fatal(err)
		}
		return window.Timed(store)
	})
}

// Three stores on one server, each asked by several at once, keep to the limit
// together, and deny only when it is due.
func TestRedisIsShared(t *testing.T) {
	t.Parallel()
	const stores, callers, span = 3, 3, 100 * time.Millisecond
	limits := []int64{1, 20, 300}
	url := testenv.Redis(t)
	var mu sync.Mutex // guards decided
	decided := make([][]window.Request, len(limits))
	var g errgroup.Group
	stop := time.Now().Add(time.Second)
	for range stores {
		store := openRedis(t, url)
		for range callers {
			g.Go(func() error {
				for n := 0; time.Now().Before(stop); n++ {
					batch := make([]window.Request, 1+n%7)
					for i := range batch {
						key := (n + i) % len(limits)
						batch[i].Charges = []window.Charge{{Key: fmt.Append(nil, "acme\x00", key),
							Cost: int64(1 + i%2), Limit: limits[key], Window: span}}
					}
					if err := store.Decide(t.Context(), time.Time{}, batch); err != nil {
						return err
					}
					mu.Lock()
					for i := range batch {
						key := (n + i) % len(limits)
						decided[key] = append(decided[key], batch[i])
					}
					mu.Unlock()
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for key, requests := range decided {
		slices.SortStableFunc(requests, func(a, b window.Request) int { return a.At.Compare(b.At) })
		audit(t, requests, limits[key], span)
	}
}

// audit looks at what was decided, in the order of time.
func audit(t *testing.T, requests []window.Request, limit int64, span time.Duration) {
	var used, admitted, denied int64
	first, last := 0, 0
	for i := range requests {
		now := requests[i].At
		for ; last < len(requests) && !requests[last].At.After(now); last++ {
			used += requests[last].Charges[0].Charged
		}
		for ; now.Sub(requests[first].At) >= span; first++ {
			used -= requests[first].Charges[0].Charged
		}
		if used > limit {
			t.Fatalf("limit %d: %d units in the window up to %v", limit, used, now)
		}
		c := requests[i].Charges[0]
		if !requests[i].Admitted && used+c.Cost <= limit {
			t.Fatalf("limit %d: %d units denied at %v with %d in the window", limit, c.Cost, now, used)
		}
		if requests[i].Admitted {
			admitted += c.Charged
		} else {
			denied++
		}
	}
	if admitted < 5*limit || denied == 0 {
		t.Errorf("limit %d: %d units admitted and %d requests denied; the test wants some of both", limit, admitted, denied)
	}
}

// A server is not held up by a batch, however large: it goes out in parts, and
// is decided in order.
func TestRedisLargeBatch(t *testing.T) {
	t.Parallel()
	url := testenv.Redis(t)
	server, store := connect(t, url), openRedis(t, url)
	const requests, rules, limit = 512, 20, 300
	batch := make([]window.Request, requests)
	for i := range batch {
		for rule := range rules {
			batch[i].Charges = append(batch[i].Charges, window.Charge{Key: fmt.Appendf(nil, "acme\x00%d", rule), Cost: 1, Limit: limit, Window: time.Hour})
		}
	}
	if err := store.Decide(t.Context(), time.Time{}, batch); err != nil {
		t.Fatal(err)
	}
	for i := range batch {
		if batch[i].Admitted != (i < limit) || batch[i].At.IsZero() {
			t.Fatalf("request %d: %v at %v", i, batch[i].Admitted, batch[i].At)
		}
	}
	info, err := server.InfoMap(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	const want = "calls=11," // of 50 requests each
	if calls := info["Commandstats"]["cmdstat_evalsha"]; !strings.HasPrefix(calls, want) {
		t.Errorf("%s, want %s", calls, want)
	}
}

// A key lives as long as its window needs it, whatever came before, and not
// much longer.
func TestRedisExpires(t *testing.T) {
	t.Parallel()
	url := testenv.Redis(t)
	server := connect(t, url)
	store := openRedis(t, url)
	const key = "weir:{acme}\x00k"
	for _, span := range []time.Duration{200 * time.Millisecond, 40 * time.Millisecond, 200 * time.Millisecond} {
		for _, buckets := range []int{0, 4} {
			for range 100 {
				batch := []window.Request{{Charges: []window.Charge{{Key: []byte("acme\x00k"), Cost: 1, Limit: 1000, Window: span, Buckets: buckets}}}}
				if err := store.Decide(t.Context(), time.Time{}, batch); err != nil {
					t.Fatal(err)
				}
				ttl, err := server.PTTL(t.Context(), key).Result()
				if err != nil {
					t.Fatal(err)
				}
				if now := time.Now(); ttl < span-now.Sub(batch[0].At) || ttl > 3*time.Second {
					t.Fatalf("lives for %v, window %v, %d buckets", ttl, span, buckets)
				}
			}
		}
	}
	// A denied request that names a longer window makes it live longer.
	batch := []window.Request{{Charges: []window.Charge{{Key: []byte("acme\x00k"), Window: 5 * time.Second}}}}
	if err := store.Decide(t.Context(), time.Time{}, batch); err != nil {
		t.Fatal(err)
	}
	if ttl, err := server.PTTL(t.Context(), key).Result(); ttl < 4*time.Second || err != nil {
		t.Errorf("lives for %v, %v, want about 5s", ttl, err)
	}
	testenv.Eventually(t, 30*time.Second, func() error {
		if n, err := server.Exists(t.Context(), key).Result(); n != 0 || err != nil {
			return fmt.Errorf("%d keys, %v", n, err)
		}
		return nil
	})
}

func TestRedisMemoryOfUnits(t *testing.T) {
	t.Parallel()
	url := testenv.Redis(t)
	server := connect(t, url)
	store := window.Timed(openRedis(t, url))
	const keys, limit = 10, 1000
	memory := func() (sum int64) {
		for i := range keys {
			n, err := server.MemoryUsage(t.Context(), fmt.Sprint("weir:{acme}\x00", i), 0).Result()
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		return sum
	}
	batch := make([]window.Request, keys)
	for i := range batch {
		batch[i].Charges = []window.Charge{{Key: fmt.Append(nil, "acme\x00", i), Cost: 1, Limit: limit, Window: time.Minute}}
	}
	at := start
	for n := range 3 * limit {
		at = at.Add(60 * time.Millisecond)
		if err := store.Decide(t.Context(), at, batch); err != nil {
			t.Fatal(err)
		}
		if n%170 != 169 {
			continue
		}
		perUnit := float64(memory()) / float64(keys*min(n+1, limit))
		t.Logf("%.2f bytes a unit of %d", perUnit, min(n+1, limit))
		if n+1 >= limit && perUnit > 16 {
			t.Errorf("%.2f bytes a unit, want at most 16, the key included", perUnit)
		}
	}
}

func TestRedisConfigNamesEveryFault(t *testing.T) {
	t.Parallel()
	config := window.RedisConfig{URL: "http://somewhere", Prefix: "{", Timeout: -1, Trip: 0, Retry: time.Hour}
	err := config.Validate()
	for _, name := range []string{"url", "prefix", "timeout", "trip", "retry"} {
		if err == nil || !strings.Contains(err.Error(), "redis "+name+":") {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	config = window.DefaultRedisConfig()
	if err := config.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}

func TestRedisKeysOfTwoTenantsPanic(t *testing.T) {
	t.Parallel()
	store := openRedis(t, "redis://127.0.0.1:1")
	for _, keys := range [][]string{{"a\x00k", "b\x00k"}, {"\x00k"}, {"a}b\x00k"}} {
		var batch [1]window.Request
		for _, key := range keys {
			batch[0].Charges = append(batch[0].Charges, window.Charge{Key: []byte(key), Window: time.Second})
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("took keys %q", keys)
				}
			}()
			_ = store.Decide(t.Context(), time.Time{}, batch[:])
		}()
	}
}
