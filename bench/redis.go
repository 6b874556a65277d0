package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisWithin bounds the start of a server.
const redisWithin = 10 * time.Second

// startRedis starts a Redis server on loopback that keeps nothing on disk.
func startRedis(ctx context.Context, dir string) (client *redis.Client, stop func() error, err error) {
	return startRedisWith(ctx, dir)
}

// startCluster starts one that is all of a cluster.
func startCluster(ctx context.Context, dir string) (client *redis.Client, stop func() error, err error) {
	_, bus, err := freeAddr(ctx)
	if err != nil {
		return nil, nil, err
	}
	client, stop, err = startRedisWith(ctx, dir, "--cluster-enabled", "yes", "--cluster-port", bus)
	if err != nil {
		return nil, nil, err
	}
	if err := takeSlots(ctx, client); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("redis cluster: %w", err), stop())
	}
	return client, stop, nil
}

// takeSlots has a server take all slots of a cluster, and waits until it has.
func takeSlots(ctx context.Context, server *redis.Client) error {
	ctx, cancel := context.WithTimeout(ctx, redisWithin)
	defer cancel()
	const slots = 16384
	if err := server.ClusterAddSlotsRange(ctx, 0, slots-1).Err(); err != nil {
		return err
	}
	for {
		info, err := server.ClusterInfo(ctx).Result()
		if err != nil || strings.Contains(info, "cluster_state:ok") {
			return err
		}
		time.Sleep(look)
	}
}

// startRedisWith starts one with more arguments.
func startRedisWith(ctx context.Context, dir string, more ...string) (client *redis.Client, stop func() error, err error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, nil, err
	}
	host, port, err := freeAddr(ctx)
	if err != nil {
		return nil, nil, err
	}
	args := []string{"--bind", host, "--port", port, "--dir", dir, "--save", "", "--appendonly", "no", "--loglevel", "warning"}
	ended, err := startProgram(ctx, os.Stderr, nil, program, append(args, more...)...)
	if err != nil {
		return nil, nil, err
	}
	client = redis.NewClient(&redis.Options{Addr: net.JoinHostPort(host, port), MaxRetries: -1})
	stop = func() error { return errors.Join(client.Close(), ended()) }
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
