// Package examples_test holds the examples in other languages to what Weir does: the
// one for Python as it runs, the one for Node as it is written.
package examples_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

var names = events.Names{Prefix: events.DefaultPrefix}

// python runs check.py. Its time-out is short, so on a busy machine it may take
// more than one run until all decisions come in time.
func python(t *testing.T, nats string, want *regexp.Regexp) {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil && os.Getenv("REQUIRE_ENV") == "1" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
	testenv.Eventually(t, 30*time.Second, func() error {
		out, err := exec.Command(path, "check.py", nats).Output()
		if err == nil && !want.Match(out) {
			err = fmt.Errorf("%s\nwant %s", out, want)
		}
		return err
	})
}

func TestPython(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	limitertest.Start(t, nc)
	python(t, url, regexp.MustCompile(`^[0-9a-f]{32}: allow, \d+ left
\S+: allow, \d+ left
allow
no decision: cost: want a whole number from 0 to 4294967296, found "-1"
allow
$`))
	for _, r := range limitertest.Records(t, nc) {
		if r.Request.Tenant != "acme" || r.Request.Gateway != "python-1" || r.Request.User != "43" || r.Request.Path != "/orders" {
			t.Errorf("recorded: %+v", r.Request)
		}
	}
}

func TestPythonWithoutALimiter(t *testing.T) {
	t.Parallel()
	python(t, testenv.NATS(t), regexp.MustCompile(`^(no decision: timed out\nallow\n){2}$`))
}

// Reads check.mjs and does not run it, as its package may be out of reach: that its
// subjects are Weir's, and that Weir understands its events. That it runs, and what
// it does with the answers, is not tested.
func TestSourceForNode(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("check.mjs")
	if err != nil {
		t.Fatal(err)
	}
	subjects := regexp.MustCompile(`"weir\.[^"]*"`).FindAllString(string(text), -1)
	origin, err := names.ParseOrigin(strings.Trim(subjects[0], `"`))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{names.Check(0, origin.Tenant, origin.Gateway), names.Decision("*", origin.Tenant, origin.Gateway)}
	if got := strings.Split(strings.Trim(strings.Join(subjects, " "), `"`), `" "`); !slices.Equal(got, want) {
		t.Errorf("subjects %q, want %q", got, want)
	}
	objects := regexp.MustCompile(`{[^{}]*user: [^{}]*}`).FindAllString(string(text), -1)
	if len(objects) != 3 {
		t.Fatalf("events: %q", objects)
	}
	for _, object := range objects {
		object = strings.ReplaceAll(object, "crypto.randomUUID()", `"1"`)
		object = regexp.MustCompile(`(\w+):`).ReplaceAllString(object, `"$1":`)
		object = regexp.MustCompile(`,\s*}`).ReplaceAllString(object, "}")
		_, err := events.DecodeRequest([]byte(object), true)
		if wrong, ok := errors.AsType[*events.FieldError](err); err != nil && (!ok || wrong.Field != "cost") {
			t.Errorf("%s: %v", object, err)
		}
	}
}
