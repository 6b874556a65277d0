package embedded_test

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/testenv"
)

func TestDirIsTakenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	dir, err := embedded.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := dir.Path("nats"), filepath.Join(path, "nats"); got != want {
		t.Errorf("Path = %s, want %s", got, want)
	}
	_, err = embedded.OpenDir(path)
	wantText(t, err, path, "in use", strconv.Itoa(os.Getpid()))
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := embedded.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestDirRefuses(t *testing.T) {
	holding := func(name, text string) string {
		path := t.TempDir()
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tt := range map[string]struct {
		path string
		want []string
	}{
		"another layout": {holding("VERSION", "2\n"), []string{`layout "2"`, `reads layout "1"`}},
		"something else": {holding("thesis.tex", ""), []string{"thesis.tex", "choose another"}},
		"below a file":   {filepath.Join(holding("file", ""), "file", "x"), []string{"cannot be written"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := embedded.OpenDir(tt.path)
			wantText(t, err, append(tt.want, tt.path)...)
		})
	}
}

func TestNATSKeepsItsStreams(t *testing.T) {
	opts := embedded.NATSOptions{Dir: filepath.Join(t.TempDir(), "nats"), Addr: "127.0.0.1:0", Log: zap.NewNop()}
	for run := range uint64(2) {
		server, err := embedded.StartNATS(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := nats.Connect("", server.InProcess())
		if err != nil {
			t.Fatal(err)
		}
		if conn.MaxPayload() != 8<<20 {
			t.Errorf("MaxPayload = %d", conn.MaxPayload())
		}
		js, err := conn.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		// A bound far above what the disk has free is no reason to refuse.
		if _, err := js.AddStream(&nats.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxBytes: 1 << 50}); err != nil {
			t.Fatal(err)
		}
		ack, err := js.Publish("s", make([]byte, 7<<20))
		if err != nil {
			t.Fatal(err)
		}
		if ack.Sequence != run+1 {
			t.Errorf("start %d: sequence %d", run, ack.Sequence)
		}
		conn.Close()
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNATSRefuses(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	busy := t.TempDir()
	server, err := embedded.StartNATS(t.Context(), embedded.NATSOptions{Dir: busy, Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for name, tt := range map[string]struct {
		dir, addr string
		want      []string
	}{
		"taken port":      {t.TempDir(), listener.Addr().String(), []string{listener.Addr().String(), "taken", "choose another port"}},
		"every interface": {t.TempDir(), ":4222", []string{`":4222"`, "loopback"}},
		"below a file":    {filepath.Join(file, "x"), "127.0.0.1:0", []string{file, "cannot be written", "choose another"}},
		"in use":          {busy, "127.0.0.1:0", []string{busy, "in use"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := embedded.StartNATS(t.Context(), embedded.NATSOptions{Dir: tt.dir, Addr: tt.addr, Log: zap.NewNop()})
			wantText(t, err, tt.want...)
		})
	}
}

func wantText(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

// cluster returns a directory for a cluster below one that only we may enter.
func cluster(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("postgres"); err != nil {
		testenv.Postgres(t) // skips or fails if there is none elsewhere either
	}
	parent := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(parent, "postgres")
}

func start(t *testing.T, dir string) *embedded.Postgres {
	t.Helper()
	p, err := embedded.StartPostgres(t.Context(), embedded.PostgresOptions{Dir: dir, Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() }) // some tests have closed it
	return p
}

func stop(t *testing.T, p *embedded.Postgres) {
	t.Helper()
	began := time.Now()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("Close took %s", took)
	}
	select {
	case <-p.Done():
	default:
		t.Error("closed, and not done")
	}
}

// model is where a cluster lies that made copies; TestMain removes it.
var model string

// made returns a directory that has a cluster, which takes longer to make than
// to copy.
func made(t *testing.T) string {
	t.Helper()
	dir := cluster(t)
	if model == "" {
		root, err := os.MkdirTemp("", "weir-embedded-")
		if err != nil {
			t.Fatal(err)
		}
		model = root
		stop(t, start(t, filepath.Join(model, "postgres")))
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", filepath.Join(model, "postgres"), dir).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
	return dir
}

// forgotten is a cluster without its password, mistaken one with another.
func forgotten(t *testing.T) string {
	t.Helper()
	dir := made(t)
	if err := os.Remove(filepath.Join(dir, "password")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mistaken(t *testing.T) string {
	t.Helper()
	dir := forgotten(t)
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// serving starts a program that serves the cluster in dir, serve waits for it.
func serving(t *testing.T, dir string) *testenv.Process {
	t.Helper()
	t.Setenv("EMBEDDED_TEST_SERVE", dir)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return testenv.Start(t, program)
}

func serve(t *testing.T, dir string) (program *testenv.Process, dsn string) {
	t.Helper()
	program = serving(t, dir)
	testenv.Eventually(t, 60*time.Second, func() error {
		if out := program.Output(); !strings.HasPrefix(out, "url ") || !strings.HasSuffix(out, "\n") {
			return fmt.Errorf("the program said %q", out)
		}
		return nil
	})
	return program, strings.TrimSpace(strings.TrimPrefix(program.Output(), "url "))
}

// postmaster is the server's process, as its lock file says.
func postmaster(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func query(t *testing.T, dsn, statement string) (text string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	err = conn.QueryRow(t.Context(), statement).Scan(&text)
	if err := errors.Join(err, conn.Close(t.Context())); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return text
}

func show(t *testing.T, dsn, setting string) string {
	t.Helper()
	return query(t, dsn, "SELECT current_setting('"+setting+"')")
}

func execute(t *testing.T, dsn, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), statement)
	if err := errors.Join(err, conn.Close(t.Context())); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func password(t *testing.T, dsn string) string {
	t.Helper()
	address, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := address.User.Password()
	return secret
}
