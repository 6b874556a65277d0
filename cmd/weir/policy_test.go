package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testenv"
)

func TestPolicyLint(t *testing.T) {
	t.Parallel()
	good := write(t, "good.yaml", perClient)
	warned := write(t, "warned.yaml", strings.Replace(perClient, "key: [ip],", "key: [ip], when: false,", 1))
	bad := write(t, "bad.yaml", strings.Replace(perClient, "key: [ip],", "key: [pi], when: request.usr == 'x', cots: 1,", 1))
	out, err := weir(t, "policy", "lint", good, warned)
	if err != nil || !strings.Contains(out, good+": no faults\n") || !strings.Contains(out, warned+":5:60: warning: when: no request meets this condition") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = weir(t, "policy", "lint", good, bad)
	if err == nil {
		t.Error("lint of a faulty file succeeds")
	}
	for _, want := range []string{
		bad + ":5:49: key: want user, api_key, ip,",
		bad + ":5:67: when: undefined field 'usr'; want one of id, tenant,",
		bad + ":5:80: a rule: want one of name, limit, key, match,",
		"weir: policy: errors in 1 of 2 files",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	cmd := exec.Command(testenv.Build(t, "./cmd/weir"), "policy", "lint", "-")
	cmd.Stdin = strings.NewReader(perClient)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "-: no faults\n" {
		t.Errorf("%v\n%s", err, out)
	}
	schema, err := os.ReadFile("../../internal/policy/schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := weir(t, "policy", "schema"); err != nil || out != string(schema) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPolicyRevisions(t *testing.T) {
	t.Parallel()
	nats := "--nats=" + testenv.NATS(t)
	run := func(wantErr string, args ...string) string {
		t.Helper()
		out, err := weir(t, append([]string{"policy", args[0], nats}, args[1:]...)...)
		if wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(out, wantErr)) {
			t.Fatalf("weir policy %q: %v, want %q\n%s", args, err, wantErr, out)
		}
		return out
	}
	contains := func(out string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	}
	builtIn := run("", "show")
	contains(builtIn, "limit: 256/min")
	contains(run("", "history"), "0         built in")

	one, two := perClient, strings.Replace(perClient, "2/min", "3/min", 1)
	file := write(t, "policy.yaml", one)
	out := run("", "apply", "--dry-run", file)
	contains(out, "--- revision 0\n+++ "+file+"\n@@ ", "-        limit: 256/min", "+      - { name: per-client, limit: 2/min")
	if run("", "show") != builtIn || strings.Contains(out, "applied") {
		t.Error("a dry run changed something")
	}
	contains(run("", "apply", file), "Revision 1 is applied.")
	contains(run("", "apply", file), "Nothing to change: revision 1 says the same.")
	if run("", "show") != one {
		t.Error("what runs is not what was applied")
	}
	if err := os.WriteFile(file, []byte(two), 0o600); err != nil {
		t.Fatal(err)
	}
	run("revision 1 runs, not 0", "apply", "--expect=0", file)
	contains(run("", "apply", "--expect=1", file), "--- revision 1", "-      - { name: per-client, limit: 2/min", "+      - { name: per-client, limit: 3/min", "Revision 2 is applied.")
	if run("", "show", "--revision=1") != one || run("", "show", "--revision=0") != builtIn || run("", "show", "--revision=2") != two {
		t.Error("an older revision is not what was applied")
	}
	run("no revision 3 is kept", "show", "--revision=3")

	bad := write(t, "bad.yaml", strings.Replace(one, "2/min", "2/mon", 1))
	run(bad+":5:36: limit: want units per time", "apply", bad)
	run("has errors, and nothing is changed", "apply", bad)

	run("revision 2 runs, not 1", "rollback", "--expect=1", "1")
	run("", "rollback", "--dry-run", "1")
	contains(run("", "rollback", "1"), "--- revision 2\n+++ revision 1\n", "Revision 3 is applied.")
	if run("", "show") != one {
		t.Error("what runs is not what was gone back to")
	}
	contains(run("", "rollback", "0"), "Revision 4 is applied.")
	if run("", "show") != builtIn {
		t.Error("the built-in policy does not run")
	}
	run("no revision 9 is kept", "rollback", "9")
	lines := strings.Split(strings.TrimSpace(run("", "history")), "\n")
	if len(lines) != 6 || !strings.HasPrefix(lines[1], "4 ") || !strings.HasPrefix(lines[5], "0 ") || !strings.Contains(lines[3], "(+1 -1)") {
		t.Errorf("history:\n%s", strings.Join(lines, "\n"))
	}
}

// Of those who apply a policy at once, each that succeeds has shown what it
// replaced: revisions are a chain.
func TestPolicyRace(t *testing.T) {
	t.Parallel()
	nats, bin := "--nats="+testenv.NATS(t), testenv.Build(t, "./cmd/weir")
	const racers = 6
	var outs [racers]bytes.Buffer
	var cmds [racers]*exec.Cmd
	for i := range racers {
		file := write(t, "policy.yaml", strings.Replace(perClient, "2/min", fmt.Sprint(10+i, "/min"), 1))
		cmds[i] = exec.Command(bin, "policy", "apply", nats, file)
		cmds[i].Stdout, cmds[i].Stderr = &outs[i], &outs[i]
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	replaced := map[string]bool{}
	for i := range racers {
		err, out := cmds[i].Wait(), outs[i].String()
		switch {
		case err != nil && !strings.Contains(out, "another policy was applied meanwhile"):
			t.Errorf("%v\n%s", err, out)
		case err == nil:
			before, _, _ := strings.Cut(out, "\n")
			if replaced[before] || !strings.Contains(out, "is applied.") {
				t.Errorf("twice replaced, or nothing: %s", out)
			}
			replaced[before] = true
		}
	}
	if len(replaced) == 0 {
		t.Error("nobody succeeded")
	}
}
