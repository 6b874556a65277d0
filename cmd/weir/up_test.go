package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ratelimit "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/testenv"
)

// system is a `weir up` of the test's own.
type system struct {
	*testenv.Process
	data      string
	addresses struct{ Check, GRPC, Analytics, NATS, Postgres string }
}

// freePorts are the flags with which no two systems meet.
var freePorts = []string{"--http-addr=127.0.0.1:0", "--grpc-addr=127.0.0.1:0", "--analytics-addr=127.0.0.1:0", "--nats-addr=127.0.0.1:0", "--postgres-addr=127.0.0.1:0"}

// up starts a system on a data directory and waits until it serves.
func up(t *testing.T, data string, args ...string) *system {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	args = append(append([]string{"up", "--data", data, "--ready-file", ready}, freePorts...), args...)
	s := &system{Process: testenv.Start(t, testenv.Build(t, "./cmd/weir"), args...), data: data}
	testenv.Eventually(t, time.Minute, func() error {
		select {
		case <-s.Done():
			t.Fatalf("weir up has ended:\n%s", s.Output())
		default:
		}
		text, err := os.ReadFile(ready)
		if err != nil {
			return err
		}
		return json.Unmarshal(text, &s.addresses)
	})
	info, err := os.Stat(ready)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the ready file holds a password and has mode %v, %v", info.Mode(), err)
	}
	return s
}

// weir runs a command to its end.
func weir(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.Command(testenv.Build(t, "./cmd/weir"), args...)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// check asks over HTTP, as README does with curl.
func (s *system) check(t *testing.T, user string) (status int, decision struct {
	Verdict      string
	Remaining    int64
	RetryAfterMS int64 `json:"retry_after_ms"`
}) {
	t.Helper()
	body := fmt.Sprintf(`{"tenant":"acme","user":%q,"method":"GET","path":"/api/order/history/"}`, user)
	answer, err := http.Post(s.addresses.Check+"/v1/check", "application/x-www-form-urlencoded", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&decision); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, decision
}

// envoy asks as Envoy does.
func (s *system) envoy(t *testing.T, user string) string {
	t.Helper()
	conn, err := grpc.NewClient(s.addresses.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	entry := &ratelimit.RateLimitDescriptor_Entry{Key: "user", Value: user}
	answer, err := rls.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &rls.RateLimitRequest{
		Domain: "acme", Descriptors: []*ratelimit.RateLimitDescriptor{{Entries: []*ratelimit.RateLimitDescriptor_Entry{entry}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	only := answer.GetStatuses()[0]
	return fmt.Sprintf("%v, %d of %d left", answer.GetOverallCode(), only.GetLimitRemaining(), only.GetCurrentLimit().GetRequestsPerUnit())
}

// patient is the built-in policy for machines that are busy: what it decides is
// tested, not how soon.
func patient(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	text := strings.Replace(policy.DefaultSource(), "timeout: 50ms", "timeout: 10s", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// counts asks how many requests are stored.
func (s *system) counts(t *testing.T) int64 {
	t.Helper()
	out, err := weir(t, "query", "--data", s.data, "--json")
	if err != nil {
		t.Fatalf("weir query: %v\n%s", err, out)
	}
	var answer struct{ Rows []struct{ Count int64 } }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || len(answer.Rows) != 1 {
		t.Fatalf("weir query: %v\n%s", err, out)
	}
	return answer.Rows[0].Count
}

// postmaster returns the number of the private cluster's process.
func postmaster(t *testing.T, data string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(bytes.SplitN(text, []byte("\n"), 2)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, func() error {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // empty when it is gone
		if len(stat) > 0 && !bytes.Contains(stat, []byte(") Z ")) {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	})
}

// A denied request and its row, a restart that forgets nothing, and an end that
// leaves nothing behind.
func TestUp(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "weir")
	s := up(t, data)
	for i := range 256 {
		if status, d := s.check(t, "42"); status != http.StatusOK || d.Remaining != int64(255-i) {
			t.Fatalf("check %d: %d, %+v", i+1, status, d)
		}
	}
	status, d := s.check(t, "42")
	if status != http.StatusTooManyRequests || d.Verdict != "deny" || d.RetryAfterMS < 1 || d.RetryAfterMS > 60_000 {
		t.Fatalf("the 257th: %d, %+v", status, d)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if n := s.counts(t); n != 257 {
			return fmt.Errorf("%d rows, want 257", n)
		}
		return nil
	})
	pid := postmaster(t, data)
	if err := s.Process.Stop(); err != nil {
		t.Fatalf("weir up, told to end: %v", err)
	}
	gone(t, pid)
	if out := s.Output(); !strings.Contains(out, "Weir is up.") || !strings.Contains(out, "Everything has ended.") {
		t.Errorf("it said:\n%s", out)
	}

	s = up(t, data)
	if status, _ := s.check(t, "42"); status != http.StatusTooManyRequests {
		t.Errorf("after a restart the same user gets %d", status)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if n := s.counts(t); n != 258 {
			return fmt.Errorf("%d rows, want 258", n)
		}
		return nil
	})
	out, err := weir(t, "check", "--data", data, "--tenant=acme", "--user=42")
	if err != nil || !strings.HasPrefix(out, `deny by rule per-minute: key "42", 0 of 256 left in 1m0s; would pass in `) {
		t.Errorf("weir check: %v\n%s", err, out)
	}
	if out, err := weir(t, "up", "--data", data); err == nil || !strings.Contains(out, "is in use by process "+strconv.Itoa(s.Pid())) {
		t.Errorf("a second system on the same data: %v\n%s", err, out)
	}
}

// Whatever is killed, everything ends, and the next start has all that was
// acknowledged.
func TestUpEndsWithItsParts(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "weir")
	s := up(t, data)
	s.check(t, "1")
	pid := postmaster(t, data)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(60 * time.Second):
		t.Fatal("Postgres is killed and weir up lives")
	}
	if !strings.Contains(s.Output(), "the private Postgres cluster has ended by itself") {
		t.Errorf("it said:\n%s", s.Output())
	}

	s = up(t, data)
	s.check(t, "1")
	pid = postmaster(t, data)
	s.Kill()
	gone(t, pid)

	s = up(t, data)
	if _, d := s.check(t, "1"); d.Remaining != 253 {
		t.Errorf("after two crashes: %+v, want 253 left", d)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if n := s.counts(t); n != 3 {
			return fmt.Errorf("%d rows, want 3", n)
		}
		return nil
	})
}

// A system with four shards is told so once.
func TestUpWithShards(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "weir")
	s := up(t, data, "--shards=4", "--policy", patient(t))
	for i := range 12 {
		out, err := weir(t, "check", "--data", data, "--tenant", fmt.Sprint("tenant-", i), "--user=42")
		if err != nil || !strings.HasPrefix(out, `allow by rule per-minute: key "42", 255 of 256 left`) {
			t.Errorf("tenant-%d: %v\n%s", i, err, out)
		}
	}
	if _, d := s.check(t, "42"); d.Remaining != 255 {
		t.Errorf("over HTTP: %+v", d)
	}
	if got := s.envoy(t, "42"); got != "OK, 254 of 256 left" {
		t.Errorf("over gRPC: %s", got)
	}
	if !strings.Contains(s.Output(), "  grpc       "+s.addresses.GRPC+" (") {
		t.Errorf("it said:\n%s", s.Output())
	}
	out, err := weir(t, "audit", "--data", data)
	if err != nil || !strings.Contains(out, "shard 3: ") || strings.Contains(out, "no journal") || strings.Contains(out, " 0 records") {
		t.Errorf("weir audit: %v\n%s", err, out)
	}
	const want = "shards: want 4, as this system has since its first limiter was started, found 2"
	if out, err := weir(t, "check", "--data", data, "--tenant=acme", "--shards=2"); err == nil || !strings.Contains(out, want) {
		t.Errorf("a check of another number: %v\n%s", err, out)
	}
	if err := s.Process.Stop(); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"up", "--data", data, "--shards=2"}, freePorts...)
	if out, err := weir(t, args...); err == nil || !strings.Contains(out, want) {
		t.Errorf("a start with another number: %v\n%s", err, out)
	}
	s = up(t, data)
	if _, d := s.check(t, "42"); d.Remaining != 253 {
		t.Errorf("a start that is not told: %+v", d)
	}
}

func TestUpAppliesAPolicyAndKeepsIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data, file := filepath.Join(dir, "weir"), filepath.Join(dir, "policy.yaml")
	const text = "version: 1\ntenants:\n  \"*\":\n    rules:\n      - {name: two, limit: 2/hour, key: [user]}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := up(t, data, "--policy", file)
	if _, d := s.check(t, "1"); d.Remaining != 1 {
		t.Errorf("under the policy: %+v", d)
	}
	if err := s.Process.Stop(); err != nil {
		t.Fatal(err)
	}
	s = up(t, data)
	if _, d := s.check(t, "1"); d.Remaining != 0 {
		t.Errorf("without --policy, after a restart: %+v", d)
	}
	if err := s.Process.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text+"  umbrella: {rulez: []}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"up", "--data", data, "--policy", file}, freePorts...)
	if out, err := weir(t, args...); err == nil || !strings.Contains(out, "line 6, column 14") || !strings.Contains(out, "rulez") {
		t.Errorf("a policy with a fault: %v\n%s", err, out)
	}
}

func TestUpRefusesKindly(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	other := t.TempDir()
	for path, text := range map[string]string{file: "", filepath.Join(other, "VERSION"): "99\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := taken.Addr().String()
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"http port taken", []string{"--http-addr", at}, "--http-addr: " + at + " is taken"},
		{"grpc port taken", []string{"--grpc-addr", at}, "--grpc-addr: " + at + " is taken"},
		{"analytics port taken", []string{"--analytics-addr", at}, "--analytics-addr: " + at + " is taken"},
		{"nats port taken", []string{"--nats-addr", at}, "--nats-addr: "},
		{"postgres port taken", []string{"--postgres-addr", at}, "--postgres-addr: "},
		{"not loopback", []string{"--http-addr", "0.0.0.0:0"}, "--insecure"},
		{"grpc not loopback", []string{"--grpc-addr", ":0"}, "--grpc-addr: want a loopback host"},
		{"proxies, before anything is opened", []string{"--trusted-proxies", "some", "--data", file}, "--trusted-proxies: proxies: want"},
		{"data is a file", []string{"--data", file}, file},
		{"another version", []string{"--data", other}, `has layout "99", this program reads layout "1"`},
		{"no such policy", []string{"--policy", "nowhere.yaml"}, "nowhere.yaml"},
		{"no such flag", []string{"--prot", "1"}, "unknown flag --prot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"up", "--data", filepath.Join(t.TempDir(), "weir")}, freePorts...)
			out, err := weir(t, append(args, c.args...)...)
			if err == nil || !strings.Contains(out, c.want) {
				t.Errorf("%v: %v\n%s\nwant %q in it", c.args, err, out, c.want)
			}
		})
	}
}

func TestCommandsWithoutASystem(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"check", "--tenant=acme", "--data", data, "--nats=nats://127.0.0.1:1"}, "is 'weir up' running?"},
		{[]string{"query", "--data", data}, "where is Postgres?"},
		{[]string{"query", "--data", data, "--postgres=postgres://u:secret@127.0.0.1:1/x"}, "127.0.0.1"},
	} {
		out, err := weir(t, c.args...)
		if err == nil || !strings.Contains(out, c.want) || strings.Contains(out, "secret") {
			t.Errorf("%v: %v\n%s\nwant %q in it, and no password", c.args, err, out, c.want)
		}
	}
}
