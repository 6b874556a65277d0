package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// ratelimitModule is Envoy's rate limit service.
const ratelimitModule = "github.com/envoyproxy/ratelimit"

// ratelimitRules are the services' rules, as it has them: a file a domain.
var ratelimitRules = map[string]string{
	tenant:       "domain: " + tenant + "\ndescriptors: [{key: user, rate_limit: {unit: minute, requests_per_unit: 1000}}]",
	burstTenant:  "domain: " + burstTenant + "\ndescriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 100}}]",
	deniedTenant: "domain: " + deniedTenant + "\ndescriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 1}}]",
}

// ratelimitBest is what makes it fast where that matters. Its documentation
// recommends a pipeline window of 150 to 500 µs, but in this version that has an
// effect on a cluster alone; few connections have more to send together.
var ratelimitBest = []string{
	"REDIS_TYPE=cluster", "REDIS_PIPELINE_WINDOW=500us", "REDIS_POOL_SIZE=2",
	"LOCAL_CACHE_SIZE_IN_BYTES=16777216", "DISABLE_STATS=true",
}

// ratelimitProgram is the service as it is built.
type ratelimitProgram struct{ path, version string }

// buildRatelimit builds the service. It is a module of its own, in ratelimit/.
func buildRatelimit(ctx context.Context, dir string) (ratelimitProgram, error) {
	p := ratelimitProgram{path: filepath.Join(dir, "ratelimit")}
	build := exec.CommandContext(ctx, "go", "build", "-C", "ratelimit", "-o", p.path, ratelimitModule+"/src/service_cmd")
	if output, err := build.CombinedOutput(); err != nil {
		return p, fmt.Errorf("build %s (is this the directory bench/?): %w\n%s", ratelimitModule, err, output)
	}
	info, err := buildinfo.ReadFile(p.path)
	if err != nil {
		return p, err
	}
	p.version = info.Main.Version // of the module that the program is in
	return p, nil
}

// ratelimit is the service on a Redis server, and connections to it.
type ratelimit struct {
	closers
	grpc *overGRPC
}

// start starts the service as it comes, or at its best, on a Redis server that
// is its own: then on one that is a cluster.
func (p ratelimitProgram) start(ctx context.Context, dir string, atBest bool) (r *ratelimit, err error) {
	for attempt := range startAttempts {
		if r, err = p.tryStart(ctx, filepath.Join(dir, strconv.Itoa(attempt)), atBest); err == nil || ctx.Err() != nil {
			break
		}
	}
	return r, err
}

// startAttempts is how often it is started: the ports that are free when they are
// chosen may be taken by others.
const startAttempts = 3

func (p ratelimitProgram) tryStart(ctx context.Context, dir string, atBest bool) (r *ratelimit, err error) {
	r = &ratelimit{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	rules := filepath.Join(dir, "ratelimit", "config")
	if err := os.MkdirAll(rules, 0o700); err != nil {
		return r, err
	}
	for name, text := range ratelimitRules {
		if err := os.WriteFile(filepath.Join(rules, name+".yaml"), []byte(text), 0o600); err != nil {
			return r, err
		}
	}
	start := startRedis
	if atBest {
		start = startCluster
	}
	server, stop, err := start(ctx, dir)
	if err != nil {
		return r, err
	}
	r.opened(stop)
	host, port, err := freeAddr(ctx)
	if err != nil {
		return r, err
	}
	settings := []string{
		"HOST=" + host, "PORT=0", "DEBUG_HOST=" + host, "DEBUG_PORT=0", "GRPC_HOST=" + host, "GRPC_PORT=" + port,
		"RUNTIME_ROOT=" + dir, "RUNTIME_SUBDIRECTORY=ratelimit", "USE_STATSD=false",
	}
	if atBest {
		settings = append(settings, ratelimitBest...)
	}
	log, err := os.Create(filepath.Join(dir, "log")) // its statistics are printed too
	if err != nil {
		return r, err
	}
	r.opened(log.Close)
	stop, err = startProgram(ctx, log, append(settings, "REDIS_SOCKET_TYPE=tcp", "REDIS_URL="+server.Options().Addr), p.path)
	if err != nil {
		return r, err
	}
	r.opened(stop)
	if r.grpc, err = dialGRPC(net.JoinHostPort(host, port)); err != nil {
		return r, err
	}
	r.opened(r.grpc.close)
	if err := r.grpc.ready(ctx); err != nil {
		said, _ := os.ReadFile(log.Name())
		return r, fmt.Errorf("ratelimit: %w\n%s", err, said)
	}
	return r, nil
}
