package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisWithin is how long a server, or a cluster of them, may take to serve.
const redisWithin = 30 * time.Second

// Redis starts a Redis server for the test and returns its URL. Without Redis
// on the machine the test is skipped, and fails where REQUIRE_ENV=1.
func Redis(tb testing.TB) string {
	tb.Helper()
	addr := FreeAddr(tb)
	StartRedis(tb, addr)
	return "redis://" + addr
}

// StartRedis starts a Redis server at an address, with more settings, and
// waits until it answers. It keeps nothing on disk.
func StartRedis(tb testing.TB, addr string, settings ...string) *Process {
	tb.Helper()
	p := startRedis(tb, addr, settings...)
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer client.Close() //nolint:errcheck // it was for this test of an answer
	Eventually(tb, redisWithin, func() error { return p.running(client.Ping(tb.Context()).Err()) })
	return p
}

// running returns err, or why a process that has ended will not get further.
func (p *Process) running(err error) error {
	select {
	case <-p.done:
		p.tb.Fatalf("%s ended: %v\n%s", p.cmd.Path, p.err, p.Output())
	default:
	}
	return err
}

func startRedis(tb testing.TB, addr string, settings ...string) *Process {
	tb.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil && os.Getenv("REQUIRE_ENV") != "1" {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	args := append([]string{"--bind", host, "--port", port, "--dir", tb.TempDir(), "--save", "", "--appendonly", "no"}, settings...)
	return Start(tb, program, args...)
}

// RedisCluster starts a cluster of three Redis servers for the test, with more
// settings, and returns their addresses.
func RedisCluster(tb testing.TB, settings ...string) []string {
	tb.Helper()
	const nodes, slots = 3, 16384
	addrs := make([]string, nodes)
	clients := make([]*redis.Client, nodes)
	for i := range nodes {
		addrs[i] = FreeAddr(tb)
		_, bus, err := net.SplitHostPort(FreeAddr(tb))
		if err != nil {
			tb.Fatal(err)
		}
		StartRedis(tb, addrs[i], append([]string{"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000"}, settings...)...)
		clients[i] = redis.NewClient(&redis.Options{Addr: addrs[i]})
		tb.Cleanup(func() { _ = clients[i].Close() })
		if err := clients[i].ClusterAddSlotsRange(tb.Context(), i*slots/nodes, (i+1)*slots/nodes-1).Err(); err != nil {
			tb.Fatal(err)
		}
		if i > 0 {
			host, port, _ := net.SplitHostPort(addrs[i])
			if err := clients[0].Do(tb.Context(), "CLUSTER", "MEET", host, port, bus).Err(); err != nil {
				tb.Fatal(err)
			}
		}
	}
	for _, client := range clients {
		Eventually(tb, redisWithin, func() error { return serves(tb.Context(), client, nodes) })
	}
	return addrs
}

// serves tells why a cluster, as one node sees it, does not serve all slots yet.
func serves(ctx context.Context, client *redis.Client, nodes int) error {
	text, err := client.ClusterInfo(ctx).Result()
	if err != nil {
		return err
	}
	for _, want := range []string{"cluster_state:ok", "cluster_slots_ok:16384", fmt.Sprintf("cluster_known_nodes:%d", nodes)} {
		if !strings.Contains(text, want) {
			return errors.New("not " + want)
		}
	}
	return nil
}

// RedisSentinel starts a Redis server, a replica of it and three Sentinels that
// watch both, and returns the URL of a client that follows the Sentinels, and
// the server that is the master.
func RedisSentinel(tb testing.TB) (url string, master *Process) {
	tb.Helper()
	const name = "weir"
	addr, replica := FreeAddr(tb), FreeAddr(tb)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	master = StartRedis(tb, addr)
	StartRedis(tb, replica, "--replicaof", host+" "+port)
	var sentinels []string
	for range 3 {
		sentinel := FreeAddr(tb)
		config := tb.TempDir() + "/sentinel.conf"
		text := fmt.Sprintf("sentinel monitor %[1]s %s %s 2\nsentinel down-after-milliseconds %[1]s 500\nsentinel failover-timeout %[1]s 3000\n", name, host, port)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		_, number, err := net.SplitHostPort(sentinel)
		if err != nil {
			tb.Fatal(err)
		}
		program, err := exec.LookPath("redis-server")
		if err != nil {
			tb.Fatal(err)
		}
		Start(tb, program, config, "--sentinel", "--bind", host, "--port", number, "--dir", tb.TempDir())
		sentinels = append(sentinels, sentinel)
	}
	for _, sentinel := range sentinels {
		client := redis.NewSentinelClient(&redis.Options{Addr: sentinel})
		Eventually(tb, redisWithin, func() error {
			state, err := client.Master(tb.Context(), name).Result()
			if err == nil && (state["num-slaves"] != "1" || state["num-other-sentinels"] != "2" || state["flags"] != "master") {
				err = fmt.Errorf("the Sentinel knows %v", state)
			}
			return err
		})
		if err := client.Close(); err != nil {
			tb.Error(err)
		}
	}
	return "redis://" + sentinels[0] + "?master_name=" + name + "&addr=" + sentinels[1] + "&addr=" + sentinels[2], master
}

// FreeAddr returns a loopback address that nothing listens on. Between that
// and its use somebody else may take it, which is unlikely: the system hands
// out others first.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	var l net.ListenConfig
	listener, err := l.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		tb.Fatal(err)
	}
	return addr
}
