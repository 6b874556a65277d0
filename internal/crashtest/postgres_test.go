package crashtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/testenv"
)

// database is a Postgres server of the test's own.
type database struct {
	*system
	options embedded.PostgresOptions
	server  *embedded.Postgres
}

// database starts a server that the writer stores on.
func (s *system) database(dir string, settings ...string) *database {
	s.Helper()
	d := &database{system: s, options: embedded.PostgresOptions{Dir: dir, Addr: "127.0.0.1:0", Settings: settings, Log: zap.NewNop()}}
	s.Cleanup(func() {
		if d.server != nil {
			_ = d.server.Close()
		}
	})
	d.start()
	return d
}

// start starts the server, again on the same address.
func (d *database) start() {
	d.Helper()
	var err error
	d.server, err = embedded.StartPostgres(d.Context(), d.options)
	if err != nil {
		d.Fatal(err)
	}
	d.postgres = d.server.URL()
	if d.conn, err = pgx.Connect(d.Context(), d.postgres); err != nil {
		d.Fatal(err)
	}
	conn := d.conn
	d.Cleanup(func() { _ = conn.Close(context.Background()) })
	config := conn.Config()
	d.options.Addr = fmt.Sprintf("%s:%d", config.Host, config.Port)
}

// stop stops the server, at once or in good order.
func (d *database) stop(atOnce bool) {
	d.Helper()
	if atOnce {
		text, err := os.ReadFile(filepath.Join(d.options.Dir, "data", "postmaster.pid"))
		if err != nil {
			d.Fatal(err)
		}
		line, _, _ := strings.Cut(string(text), "\n")
		pid, err := strconv.Atoi(line)
		if err != nil {
			d.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil { // as pg_ctl stop -m immediate does
			d.Fatal(err)
		}
		<-d.server.Done()
	}
	if err := d.server.Close(); err != nil {
		d.Fatal(err)
	}
	d.server = nil
}

// A server that is stopped at once loses its last transactions where commits are
// not waited for; the writer stores again what they held.
func TestPostgresStopsAtOnce(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	d := s.database(t.TempDir(), "synchronous_commit=off", "wal_writer_delay=10s", "wal_writer_flush_after=1GB")
	s.limiter("one")
	writer := s.writer()
	l := s.load()
	for range kills {
		l.awaitAnswers(answersBetween)
		s.awaitRows(s.rows() + answersBetween)
		d.stop(true)
		d.start()
	}
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
	if !strings.Contains(writer.Output(), "the database went back") {
		t.Error("no transaction was lost")
	}
}

// The database is restored from an older copy while nobody asks: the writer
// finds that out by itself.
func TestPostgresIsRestored(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	d := s.database(filepath.Join(t.TempDir(), "postgres"))
	s.limiter("one")
	s.writer()
	l := s.load()
	s.awaitRows(answersBetween)
	d.stop(false)
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", d.options.Dir, d.options.Dir+"-old").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.start()
	s.awaitRows(s.rows() + answersBetween)
	l.stop()
	s.check(l)
	d.stop(false)
	if err := errors.Join(os.Rename(d.options.Dir, d.options.Dir+"-new"), os.Rename(d.options.Dir+"-old", d.options.Dir)); err != nil {
		t.Fatal(err)
	}
	d.start()
	s.check(l)
}

// While the schema is missing or the login refused the writer holds, and says so;
// nothing is buried, and it goes on once that is mended.
func TestPostgresIsMisconfigured(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.database(t.TempDir())
	s.limiter("one")
	writer := s.writer()
	l := s.load()
	for _, change := range [][2]string{
		{`ALTER SCHEMA public RENAME TO hidden`, `ALTER SCHEMA hidden RENAME TO public`},
		{`ALTER ROLE weir NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`, `ALTER ROLE weir LOGIN`},
	} {
		s.awaitRows(s.rows() + answersBetween)
		s.ready(writer, http.StatusOK, "")
		s.exec(change[0])
		s.ready(writer, http.StatusServiceUnavailable, "configuration")
		l.awaitAnswers(answersBetween)
		s.exec(change[1])
	}
	l.stop()
	s.check(l)
	s.ready(writer, http.StatusOK, "")
}

func (s *system) exec(sql string) {
	s.Helper()
	if _, err := s.conn.Exec(s.Context(), sql); err != nil {
		s.Fatal(err)
	}
}

var servesAt = regexp.MustCompile(`"serving","addr":"([^"]+)"`)

// ready waits until a program says how it is.
func (s *system) ready(p *testenv.Process, status int, says string) {
	s.Helper()
	testenv.Eventually(s.T, patience, func() error {
		at := servesAt.FindStringSubmatch(p.Output())
		if at == nil {
			return errors.New("it does not serve")
		}
		response, err := http.Get("http://" + at[1] + "/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && (response.StatusCode != status || !strings.Contains(string(body), says)) {
			err = fmt.Errorf("want %d %q, found %d %s", status, says, response.StatusCode, body)
		}
		return err
	})
}
