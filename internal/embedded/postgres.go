package embedded

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"
)

const (
	role     = "weir" // superuser of the cluster
	database = "weir"

	startTries   = 5                // of a port that another program may take first
	readyWithin  = 5 * time.Minute  // recovery replays at most max_wal_size or so
	orphanWithin = 30 * time.Second // a server left behind ends by itself, see bind
	poll         = 10 * time.Millisecond
)

// PostgresOptions says where and how StartPostgres serves.
type PostgresOptions struct {
	Dir      string      // the cluster and its password; made when missing, used by one server at a time
	Addr     string      // host:port, host loopback; port 0 takes a free one
	Settings []string    // further settings of the server, name=value
	Log      *zap.Logger // the server's own lines: remarks at debug, errors and worse as such
}

// Postgres is a private cluster that serves.
type Postgres struct {
	server *process
	lock   *os.File
	url    string
}

// StartPostgres makes the cluster if there is none, starts its server and
// returns when a connection to the database has been answered; ctx bounds the
// start only. The server takes only the generated password over loopback. It
// ends with Close, and with this process when that is killed (Linux).
//
// The cluster belongs to the Postgres version that made it. Started as root,
// the server runs as the owner of the cluster, at first the user postgres, else
// nobody.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	p, err := startPostgres(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return p, nil
}

func startPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	addr, err := loopback(opts.Addr)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, log: opts.Log}
	p, err := c.open(ctx, addr, opts.Settings)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	p.lock = lock
	return p, nil
}

// URL holds everything a client needs, the password too.
func (p *Postgres) URL() string { return p.url }

// Done is closed when the server has ended, by Close or by itself.
func (p *Postgres) Done() <-chan struct{} { return p.server.done }

// Close ends the sessions and the server and returns when it has ended, after
// 40 seconds at the latest.
func (p *Postgres) Close() error {
	p.server.stop()
	return p.lock.Close()
}

// open makes the cluster if need be and serves it.
func (c *cluster) open(ctx context.Context, addr netip.AddrPort, settings []string) (*Postgres, error) {
	if _, err := free(ctx, addr); err != nil {
		return nil, err
	}
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		at, err := free(ctx, addr)
		if err != nil {
			return nil, err
		}
		p, err := c.serve(ctx, at, settings)
		if err == nil {
			return p, nil
		}
		// Another program may have taken a port that was free. Sessions of a
		// server that was killed may not have noticed yet, and hold its memory.
		raced := addr.Port() == 0 && strings.Contains(err.Error(), "could not create any TCP/IP sockets")
		held := strings.Contains(err.Error(), "pre-existing shared memory block")
		if !raced && !held || try == startTries {
			return nil, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// serve starts the server and waits until it answers.
func (c *cluster) serve(ctx context.Context, addr netip.AddrPort, settings []string) (*Postgres, error) {
	stale, err := c.awaitOrphan(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{
		"-c", "listen_addresses=" + addr.Addr().String(),
		"-c", "port=" + strconv.Itoa(int(addr.Port())),
		"-c", "unix_socket_directories=", // the one way in is loopback, by password
		"-c", "cluster_name=weir",
		"-c", "shared_buffers=128MB",
		"-c", "max_wal_size=1GB",
		"-c", "synchronous_commit=on",
		"-c", "timezone=UTC",
		"-c", "logging_collector=off",
		"-c", "log_destination=stderr",
		"-c", "log_line_prefix=",
		"-c", "log_min_error_statement=panic", // statements may hold what users sent
	}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	// The server outlives ctx.
	cmd := c.command(context.WithoutCancel(ctx), "postgres", args...)
	if stale != 0 {
		// The lock file of a server that is gone names a process that is none.
		// Postgres takes any living process of that number for the server, but
		// for its own ancestors; it then still looks for sessions left behind.
		cmd.Env = append(cmd.Env, "PG_GRANDPARENT_PID="+strconv.Itoa(stale))
	}
	log := &serverLog{log: c.log}
	cmd.Stderr = log
	path, opened, err := handOver(cmd, c.dir)
	if err != nil {
		return nil, err
	}
	cmd.Args = append(cmd.Args, "-D", path+"/"+dataName, "-c", "hba_file="+path+"/"+accessName)
	server, err := startProcess(cmd, syscall.SIGINT)
	if err := errors.Join(err, opened.Close()); err != nil {
		return nil, err
	}
	address := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(role, c.password),
		Host:     addr.String(),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	p := &Postgres{server: server, url: address.String()}
	if err := c.ready(ctx, p, log); err != nil {
		server.stop()
		return nil, err
	}
	return p, nil
}

// awaitOrphan waits until no server runs on the cluster. We hold its lock, so
// such a server is one that a killed process of ours left behind, and on its
// way out. It returns the number the server's lock file names if that is by now
// another program's.
func (c *cluster) awaitOrphan(ctx context.Context) (stale int, err error) {
	for began := time.Now(); ; {
		pid, _, err := c.postmaster()
		if err != nil || pid == 0 {
			return 0, err
		}
		alive, postgres, ours := running(pid, c.data())
		if !alive {
			return 0, nil
		}
		if !postgres {
			return pid, nil
		}
		waited := time.Since(began)
		if waited > orphanWithin/2 && ours {
			_ = syscall.Kill(pid, syscall.SIGQUIT) // fails only when it has ended
		}
		if waited > orphanWithin {
			return 0, fmt.Errorf("a Postgres server, process %d, still runs on %s: stop it (kill -INT %d) and start again", pid, c.data(), pid)
		}
		select {
		case <-time.After(5 * poll):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// postmaster reads the server's own lock file: its process (0: no file) and
// its state. The lines are those of src/include/utils/pidfile.h.
func (c *cluster) postmaster() (pid int, state string, err error) {
	text, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", err
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) > 7 {
		state = strings.TrimSpace(lines[7])
	}
	// No number: being written, or cut short by a crash, which Postgres tells.
	pid, _ = strconv.Atoi(strings.TrimSpace(lines[0]))
	return max(pid, 0), state, nil
}

// ready waits until the server answers, and has the database.
func (c *cluster) ready(ctx context.Context, p *Postgres, log *serverLog) error {
	for deadline := time.Now().Add(readyWithin); ; {
		pid, state, err := c.postmaster()
		if err != nil {
			return err
		}
		if pid == p.server.cmd.Process.Pid && state == "ready" {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready within %s: %s", readyWithin, log.said())
		}
		select {
		case <-p.server.done:
			return fmt.Errorf("the server ended at its start: %s", log.said())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
	err := ensureDatabase(ctx, p.url)
	if fault, ok := errors.AsType[*pgconn.PgError](err); ok && fault.Code == "28P01" { // wrong password
		return fmt.Errorf("%s does not hold the cluster's password: put it back, or choose another data directory: %w", c.passwordFile(), err)
	}
	return err
}

// ensureDatabase makes the database in a new cluster.
func ensureDatabase(ctx context.Context, url string) (err error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	config.Database = "postgres" // always there
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	var there bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database).Scan(&there)
	if err == nil && !there {
		_, err = conn.Exec(ctx, "CREATE DATABASE "+database)
	}
	return err
}
