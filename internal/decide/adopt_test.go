package decide_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// randomPolicy has some of a few rules, with windows from a few.
func randomPolicy(t *rapid.T, random *rand.Rand, at time.Time) *policy.Policy {
	var text strings.Builder
	limit := func() string {
		return fmt.Sprintf("%d per %ds", 1+random.IntN(4), []int{1, 5, 20}[random.IntN(3)])
	}
	section := func(name string) {
		fmt.Fprintf(&text, "  %q:\n    rules:", name)
		rules := 0
		for _, rule := range []string{"a", "b"} {
			if random.IntN(4) == 0 {
				continue
			}
			rules++
			fmt.Fprintf(&text, "\n      - name: %s\n        limit: %s\n        key: [user]", rule, limit())
			if random.IntN(3) == 0 {
				text.WriteString("\n        algorithm: buckets")
			}
			if random.IntN(2) == 0 {
				text.WriteString("\n        overrides:")
				for _, user := range []string{"u0", "u1"} {
					if random.IntN(2) == 0 {
						fmt.Fprintf(&text, "\n          - { key: [%s], limit: %s, until: %s }", user, limit(),
							at.Add(time.Duration(1+random.IntN(9))*time.Second).Format(time.RFC3339))
					}
					fmt.Fprintf(&text, "\n          - { key: [%s], limit: %s }", user, limit())
				}
			}
		}
		if rules == 0 {
			text.WriteString(" []")
		}
		text.WriteByte('\n')
	}
	text.WriteString("version: 1\ntenants:\n")
	section("*")
	if random.IntN(2) == 0 {
		section("t1")
	}
	p, err := policy.Parse([]byte(text.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text.String())
	}
	return p
}

// Windows that a policy is adopted in decide like those that are made anew from
// all that was recorded; also after they were saved and loaded under another.
func TestAdoptedLikeRebuilt(t *testing.T) {
	adopted, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		at := time.Date(2026, 5, 17, 10, 5, 3, 0, time.UTC)
		p := randomPolicy(t, random, at)
		d, windows := newDecider(p)
		var journal []events.Record
		rebuild := func(p *policy.Policy) (*decide.Decider, *window.Memory) {
			fresh, windows := newDecider(p)
			for i := range journal {
				fresh.Replay(&journal[i])
			}
			return fresh, windows
		}
		check := func(d *decide.Decider, tenant, user string) events.Record {
			r := events.Record{Request: events.Request{ID: "x", Tenant: tenant, User: user, Cost: 1}}
			d.Check(&r)
			_ = d.Decide(t.Context(), at) // memory does not fail
			return r
		}
		for range rapid.IntRange(1, 5).Draw(t, "policies") {
			for range random.IntN(40) {
				at = at.Add(time.Duration(random.IntN(600_000)) * time.Microsecond)
				r := check(d, fmt.Sprint("t", random.IntN(2)), fmt.Sprint("u", random.IntN(3)))
				journal = append(journal, r)
			}
			p = randomPolicy(t, random, at)
			switch random.IntN(3) {
			case 0: // a restart
				d, windows = rebuild(p)
			case 1: // a restart with a snapshot
				d, windows = resume(t, d, windows, p, at)
				if d == nil {
					d, windows = rebuild(p)
				}
			default:
				if d.Adopt(p, at) {
					adopted++
				} else {
					refused++
					d, windows = rebuild(p)
				}
			}
			fresh, _ := rebuild(p)
			for range 20 {
				at = at.Add(time.Duration(random.IntN(600_000)) * time.Microsecond)
				tenant, user := fmt.Sprint("t", random.IntN(2)), fmt.Sprint("u", random.IntN(3))
				got, want := check(d, tenant, user), check(fresh, tenant, user)
				g, w := fmt.Sprintf("%+v %+v", got.Decision, got.Charges), fmt.Sprintf("%+v %+v", want.Decision, want.Charges)
				if g != w {
					t.Fatalf("%s of %s:\ngot  %s\nwant %s", user, tenant, g, w)
				}
				journal = append(journal, got)
			}
		}
	})
	t.Logf("%d adopted, %d not", adopted, refused)
	if adopted == 0 || refused == 0 {
		t.Error("want some of both")
	}
}

func newDecider(p *policy.Policy) (*decide.Decider, *window.Memory) {
	windows := window.NewMemory()
	return decide.New(p, windows), windows
}

// resume saves the windows and loads them for another policy, if they are enough.
func resume(t *rapid.T, d *decide.Decider, was *window.Memory, p *policy.Policy, at time.Time) (*decide.Decider, *window.Memory) {
	text, err := json.Marshal(d.Spans())
	if err != nil {
		t.Fatal(err)
	}
	var spans policy.Spans
	if err := json.Unmarshal(text, &spans); err != nil {
		t.Fatal(err)
	}
	fresh, windows := newDecider(p)
	if !fresh.Resume(spans, at) {
		return nil, nil
	}
	for part := range window.Parts {
		if err := windows.LoadPart(was.AppendPart(nil, part)); err != nil {
			t.Fatal(err)
		}
	}
	return fresh, windows
}

func TestAdopt(t *testing.T) {
	at := time.Date(2026, 5, 17, 10, 5, 3, 0, time.UTC)
	text := func(rules string) string { return "version: 1\ntenants:\n  \"*\":\n    rules:" + rules }
	const rule = "\n      - { name: %s, limit: %s, key: [user] }"
	for _, c := range []struct {
		name    string
		was     []string
		now     string
		adopted bool
	}{
		{"the limit is raised", []string{text(fmt.Sprintf(rule, "a", "1/min"))}, text(fmt.Sprintf(rule, "a", "9/min")), true},
		{"the window gets shorter", []string{text(fmt.Sprintf(rule, "a", "1/min"))}, text(fmt.Sprintf(rule, "a", "1/s")), true},
		{"the window gets longer", []string{text(fmt.Sprintf(rule, "a", "1/min"))}, text(fmt.Sprintf(rule, "a", "1/hour")), false},
		{"a rule is new", []string{text(fmt.Sprintf(rule, "a", "1/min"))}, text(fmt.Sprintf(rule+rule, "a", "1/min", "b", "1/hour")), true},
		{"shorter and back", []string{text(fmt.Sprintf(rule, "a", "1/min")), text(fmt.Sprintf(rule, "a", "1/s"))}, text(fmt.Sprintf(rule, "a", "1/min")), false},
		{"removed and added", []string{text(fmt.Sprintf(rule, "a", "1/min")), text(" []")}, text(fmt.Sprintf(rule, "a", "2/min")), true},
		{"removed and added for longer", []string{text(fmt.Sprintf(rule, "a", "1/min")), text(" []")}, text(fmt.Sprintf(rule, "a", "2/hour")), false},
		{"a section of one's own", []string{text(fmt.Sprintf(rule, "a", "1/min"))},
			strings.ReplaceAll(text(fmt.Sprintf(rule, "a", "1/hour")), "*", "acme") + "\n  \"*\":\n    rules:" + fmt.Sprintf(rule, "a", "1/min"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, _ := newDecider(mustParse(t, c.was[0]))
			for _, text := range c.was[1:] {
				if !d.Adopt(mustParse(t, text), at) {
					t.Fatal("not adopted on the way")
				}
			}
			if got := d.Adopt(mustParse(t, c.now), at); got != c.adopted {
				t.Errorf("adopted: %v, want %v", got, c.adopted)
			}
		})
	}
}
