package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/testenv"
)

// TestMain lets the test program stand in for a program that runs a cluster
// and is killed.
func TestMain(m *testing.M) {
	dir := os.Getenv("EMBEDDED_TEST_SERVE")
	if dir == "" {
		code := m.Run()
		if model != "" {
			_ = os.RemoveAll(model) // what is left is in the temporary directory
		}
		os.Exit(code)
	}
	p, err := embedded.StartPostgres(context.Background(), embedded.PostgresOptions{Dir: dir, Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("url", p.URL())
	<-p.Done()
	fmt.Println("ended")
	os.Exit(3)
}

func TestPostgresKeepsItsDataAndItsPassword(t *testing.T) {
	dir := made(t)
	first := start(t, dir)
	execute(t, first.URL(), "CREATE TABLE kept (n int)")
	stop(t, first)
	second := start(t, dir)
	execute(t, second.URL(), "INSERT INTO kept VALUES (1)")
	if password(t, first.URL()) != password(t, second.URL()) {
		t.Error("the password changed")
	}
	info, err := os.Stat(filepath.Join(dir, "password"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		t.Errorf("password file: mode %o", info.Mode().Perm())
	}
	for setting, want := range map[string]string{
		"server_encoding": "UTF8", "lc_collate": "C", "password_encryption": "scram-sha-256",
		"unix_socket_directories": "", "listen_addresses": "127.0.0.1", "synchronous_commit": "on", "fsync": "on",
	} {
		if got := show(t, second.URL(), setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
}

func TestPostgresTakesOnlyItsPassword(t *testing.T) {
	p := start(t, made(t))
	address, err := url.Parse(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []*url.Userinfo{url.User("weir"), url.UserPassword("weir", "guess"), url.User("postgres")} {
		address.User = user
		if conn, err := pgx.Connect(t.Context(), address.String()); err == nil {
			t.Errorf("%s got in", user)
			_ = conn.Close(t.Context())
		}
	}
	// Nor does a line added to the cluster's own list of who may connect help,
	// which is not the one in use.
	if got := show(t, p.URL(), "hba_file"); filepath.Base(got) != "access.conf" {
		t.Errorf("hba_file is %s", got)
	}
}

func TestPostgresRefuses(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	holding := func(name, text string) string {
		dir := filepath.Join(cluster(t), "data")
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return filepath.Dir(dir)
	}
	for name, tt := range map[string]struct {
		dir, addr string
		want      []string
	}{
		"taken port":         {cluster(t), listener.Addr().String(), []string{listener.Addr().String(), "taken", "choose another port"}},
		"every interface":    {cluster(t), "0.0.0.0:0", []string{`"0.0.0.0:0"`, "loopback"}},
		"no port":            {cluster(t), "127.0.0.1", []string{`"127.0.0.1"`, "host:port"}},
		"below a file":       {filepath.Join(file, "x"), "127.0.0.1:0", []string{file, "cannot be written", "choose another"}},
		"another version":    {holding("PG_VERSION", "9\n"), "127.0.0.1:0", []string{"Postgres 9", "installed is", "choose another"}},
		"not a version":      {holding("PG_VERSION", "x\n"), "127.0.0.1:0", []string{`"x\n"`, "PG_VERSION"}},
		"something else":     {holding("photo.jpg", ""), "127.0.0.1:0", []string{"no Postgres cluster", "choose another"}},
		"the password gone":  {forgotten(t), "127.0.0.1:0", []string{"password"}},
		"the password wrong": {mistaken(t), "127.0.0.1:0", []string{"password", "put it back"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := embedded.StartPostgres(t.Context(), embedded.PostgresOptions{Dir: tt.dir, Addr: tt.addr, Log: zap.NewNop()})
			if err == nil {
				stop(t, p)
				t.Fatal("started")
			}
			wantText(t, err, tt.want...)
		})
	}
}

func TestPostgresRefusesAClusterInUse(t *testing.T) {
	dir := made(t)
	start(t, dir)
	_, err := embedded.StartPostgres(t.Context(), embedded.PostgresOptions{Dir: dir, Addr: "127.0.0.1:0", Log: zap.NewNop()})
	wantText(t, err, dir, "in use", strconv.Itoa(os.Getpid()))
}

func TestPostgresEndsAHalfMadeCluster(t *testing.T) {
	dir := cluster(t)
	half := filepath.Join(dir, "data.new", "base")
	if err := errors.Join(os.MkdirAll(half, 0o700), os.WriteFile(filepath.Join(half, "1"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir)
	execute(t, p.URL(), "SELECT")
	if _, err := os.Stat(filepath.Join(dir, "data.new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half made cluster: %v", err)
	}
}

func TestPostgresTellsWhenTheServerDies(t *testing.T) {
	dir := made(t)
	p := start(t, dir)
	pid := postmaster(t, dir)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("Done says nothing")
	}
	stop(t, p)
	// Its lock file is still there.
	if postmaster(t, dir) != pid {
		t.Fatal("want the killed server's lock file")
	}
	execute(t, start(t, dir).URL(), "SELECT")
}

// A lock file may name a process that is by now something else, as after a
// restart of a container, where the numbers begin anew.
func TestPostgresStartsWhenItsNumberIsAnotherProcess(t *testing.T) {
	dir := made(t)
	p := start(t, dir)
	path := filepath.Join(dir, "data", "postmaster.pid")
	lock, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stop(t, p)
	_, rest, _ := strings.Cut(string(lock), "\n")
	owner, err := os.Stat(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	uid := int(owner.Sys().(*syscall.Stat_t).Uid)
	other := exec.Command("sleep", "60")
	if os.Geteuid() == 0 {
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	stale := fmt.Sprintf("%d\n%s", other.Process.Pid, rest)
	if err := errors.Join(os.WriteFile(path, []byte(stale), 0o600), os.Chown(path, uid, -1)); err != nil {
		t.Fatal(err)
	}
	execute(t, start(t, dir).URL(), "SELECT")
}

// The server must not outlive a program that is killed, and the next one finds
// what was committed.
func TestPostgresEndsWithAKilledProgram(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a child of its parent's end")
	}
	dir := made(t)
	program, dsn := serve(t, dir)
	execute(t, dsn, "CREATE TABLE kept (n int)")
	pid := postmaster(t, dir)
	program.Kill()
	testenv.Eventually(t, 20*time.Second, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(stat), ") Z ") { // dead: whoever must bury it may take its time
			return fmt.Errorf("server %d outlives its program", pid)
		}
		return nil
	})
	// The next start need not wait for that.
	for range 2 {
		program, dsn = serve(t, dir)
		execute(t, dsn, "INSERT INTO kept VALUES (1)")
		program.Kill()
	}
	if got := query(t, start(t, dir).URL(), "SELECT count(*)::text FROM kept"); got != "2" {
		t.Errorf("%s of 2 committed rows", got)
	}
}

// A program killed while it makes the cluster leaves nothing in the way.
func TestPostgresStartsAfterAKillWhileTheClusterIsMade(t *testing.T) {
	dir := cluster(t)
	program := serving(t, dir)
	testenv.Eventually(t, 20*time.Second, func() error {
		_, err := os.Stat(filepath.Join(dir, "data.new", "PG_VERSION"))
		return err
	})
	program.Kill()
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Fatal("the cluster was made before the kill")
	}
	execute(t, start(t, dir).URL(), "SELECT")
}
