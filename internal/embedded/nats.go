package embedded

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

const (
	defaultMaxPayload = 8 << 20
	natsReadyWithin   = 10 * time.Second
)

// NATSOptions says where and how StartNATS serves.
type NATSOptions struct {
	Dir        string      // the streams; made when missing, used by one server at a time
	Addr       string      // host:port, host loopback; port 0 takes a free one
	MaxPayload int32       // bytes a message may have; 0: 8 MiB
	Sync       bool        // every stored message reaches the disk before its ack; else only the system's cache, which a power cut empties and a crash of ours does not
	Log        *zap.Logger // the server's own lines: notices at debug, warnings and errors as such
}

// NATS is a NATS server with JetStream in this process.
type NATS struct {
	server *server.Server
	lock   *os.File
}

// StartNATS starts a server and returns when it serves and its streams are
// recovered.
func StartNATS(ctx context.Context, opts NATSOptions) (*NATS, error) {
	addr, err := loopback(opts.Addr)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	lock, err := lockDir(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	n, err := startNATS(ctx, opts, addr)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", errors.Join(err, lock.Close()))
	}
	n.lock = lock
	return n, nil
}

func startNATS(ctx context.Context, opts NATSOptions, addr netip.AddrPort) (*NATS, error) {
	port := int(addr.Port())
	if port == 0 {
		port = server.RANDOM_PORT
	} else if _, err := free(ctx, addr); err != nil {
		return nil, err
	}
	if opts.MaxPayload == 0 {
		opts.MaxPayload = defaultMaxPayload
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "weir",
		Host:       addr.Addr().String(),
		Port:       port,
		MaxPayload: opts.MaxPayload,
		NoSigs:     true,
		JetStream:  true,
		StoreDir:   opts.Dir,
		SyncAlways: opts.Sync,
		// The default is what the disk has free at the start: a store that fills
		// it halfway would find itself over its limit at the next start. The
		// streams have bounds of their own.
		JetStreamMaxStore:      math.MaxInt64 / 2,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, err
	}
	log := &natsLog{log: opts.Log}
	srv.SetLoggerV2(log, false, false, false)
	srv.Start()
	ready := srv.ReadyForConnections(natsReadyWithin)
	n := &NATS{server: srv}
	if err := log.failure(); err != nil {
		n.shutdown()
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		n.shutdown()
		return nil, err
	}
	if !ready {
		n.shutdown()
		return nil, fmt.Errorf("not ready within %s", natsReadyWithin)
	}
	return n, nil
}

// URL is the address clients connect to.
func (n *NATS) URL() string { return n.server.ClientURL() }

// InProcess makes a connection of this process skip the network.
func (n *NATS) InProcess() nats.Option { return nats.InProcessServer(n.server) }

// Close ends the server and returns when its files are closed.
func (n *NATS) Close() error {
	n.shutdown()
	return n.lock.Close()
}

func (n *NATS) shutdown() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

// natsLog is the server's logger. The server reports why it cannot start only
// there, through Fatalf, and leaves ending it to whoever started it.
type natsLog struct {
	log *zap.Logger

	mu    sync.Mutex // guards fatal
	fatal error      // the first one
}

func (l *natsLog) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *natsLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *natsLog) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *natsLog) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l *natsLog) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *natsLog) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }

func (l *natsLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == nil {
		l.fatal = fmt.Errorf(format, v...)
	}
}
