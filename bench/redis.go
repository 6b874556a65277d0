package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisWithin bounds the start of a server.
const redisWithin = 10 * time.Second

// watch runs a server until its standard input ends, as it does when this
// process does, however that comes about.
const watch = `"$0" "$@" & cat; kill $! && wait $!`

// startRedis starts a Redis server on loopback that keeps nothing on disk.
func startRedis(ctx context.Context, dir string) (client *redis.Client, stop func() error, err error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, nil, err
	}
	var l net.ListenConfig
	free, err := l.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	addr := free.Addr().(*net.TCPAddr)
	if err := free.Close(); err != nil {
		return nil, nil, err
	}
	server := exec.CommandContext(context.WithoutCancel(ctx), "sh", "-c", watch, program, "--bind", addr.IP.String(), "--port", fmt.Sprint(addr.Port),
		"--dir", dir, "--save", "", "--appendonly", "no", "--loglevel", "warning")
	server.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's Ctrl-C is for us
	server.Stderr = os.Stderr
	input, err := server.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	client = redis.NewClient(&redis.Options{Addr: addr.String(), MaxRetries: -1})
	stop = func() error { return errors.Join(client.Close(), input.Close(), server.Wait()) }
	ctx, cancel := context.WithTimeout(ctx, redisWithin)
	defer cancel()
	for client.Ping(ctx).Err() != nil {
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return nil, nil, errors.Join(fmt.Errorf("redis-server did not answer within %v", redisWithin), stop())
		}
	}
	return client, stop, nil
}

func redisVersion(ctx context.Context, client *redis.Client) (string, error) {
	info, err := client.InfoMap(ctx, "server").Result()
	return info["Server"]["redis_version"], err
}
