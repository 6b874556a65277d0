package events_test

import (
	"hash/fnv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/events"
)

func TestNames(t *testing.T) {
	n := events.Names{Prefix: "weir"}
	for want, got := range map[string]string{
		"weir.check.3.acme.edge-1":           n.Check(3, "acme", "edge-1"),
		"weir.report.0.acme.cli":             n.Report(0, "acme", "cli"),
		"weir.outcome.2.acme.edge-1":         n.Outcome(2, "acme", "edge-1"),
		"weir.outcome.2.>":                   n.Outcomes(2),
		"WEIR_OUTCOMES":                      n.OutcomesStream(),
		"weir.decision.deny.acme.edge-1":     n.Decision(events.Deny, "acme", "edge-1"),
		"weir.decision.allow.acme.edge-1":    n.Decision(events.Allow, "acme", "edge-1"),
		"weir.check.3.>":                     n.Checks(3),
		"weir.report.3.>":                    n.Reports(3),
		"weir.decision.*.acme.edge-1":        n.Decisions("acme", "edge-1"),
		"weir.decision.>":                    n.AllDecisions(),
		"weir.explain.3.acme.edge-1":         n.Explain(3, "acme", "edge-1"),
		"weir.explain.3.>":                   n.Explains(3),
		"weir.command.3.acme":                n.Command(3, "acme"),
		"weir.command.3.*":                   n.Commands(3),
		"weir.control.acme":                  n.Notice("acme"),
		"weir.control.@all":                  n.NoticeToAll(),
		"weir.control.*":                     n.Notices(),
		"weir.journal.12":                    n.Journal(12),
		"WEIR_JOURNAL_12":                    n.JournalStream(12),
		"WEIR_REPORTS":                       n.ReportsStream(),
		"weir_policy":                        n.PolicyBucket(),
		"t1.check.0.acme.cli and T1_REPORTS": events.Names{Prefix: "t1"}.Check(0, "acme", "cli") + " and " + events.Names{Prefix: "t1"}.ReportsStream(),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestParseOrigin(t *testing.T) {
	n := events.Names{Prefix: "weir"}
	const (
		form  = "subject: want weir.<check|report|outcome|explain>.<shard>.<tenant>.<gateway>, found "
		token = "want 1 to 64 characters of A-Z a-z 0-9 _ -, found "
	)
	for _, tt := range []struct{ subject, want string }{
		{"", form + `nothing`},
		{"weir", form + `"weir"`},
		{"weir.check.0.acme", form + `"weir.check.0.acme"`},
		{"other.check.0.acme.cli", form + `"other.check.0.acme.cli"`},
		{"weirs.check.0.acme.cli", form + `"weirs.check.0.acme.cli"`},
		{"weir.decision.0.acme.cli", form + `"weir.decision.0.acme.cli"`},
		{"weir..0.acme.cli", form + `"weir..0.acme.cli"`},
		{"weir.check..acme.cli", `subject's shard: want a number, found nothing`},
		{"weir.check.x.acme.cli", `subject's shard: want a number, found "x"`},
		{"weir.check.-1.acme.cli", `subject's shard: want a number, found "-1"`},
		{"weir.check.65536.acme.cli", `subject's shard: want a number, found "65536"`},
		{"weir.check.0..cli", "tenant: " + token + "nothing"},
		{"weir.check.0.*.cli", "tenant: " + token + `"*"`},
		{"weir.check.0.a\x00b.cli", "tenant: " + token + `"a\x00b"`},
		{"weir.check.0.acme.", "gateway: " + token + "nothing"},
		{"weir.check.0.acme.cli.x", "gateway: " + token + `"cli.x"`},
		{"weir.check.0.acme." + strings.Repeat("g", 65), "gateway: " + token + `"` + strings.Repeat("g", 64) + `"…`},
	} {
		o, err := n.ParseOrigin(tt.subject)
		if err == nil || err.Error() != tt.want || o != (events.Origin{}) {
			t.Errorf("%q: %+v, %v; want %s", tt.subject, o, err, tt.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		token := rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`)
		want := events.Origin{Shard: rapid.IntRange(0, 65535).Draw(t, "shard"), Tenant: token.Draw(t, "tenant"), Gateway: token.Draw(t, "gateway")}
		n := events.Names{Prefix: token.Draw(t, "prefix")}
		for _, subject := range []string{n.Check(want.Shard, want.Tenant, want.Gateway), n.Report(want.Shard, want.Tenant, want.Gateway), n.Outcome(want.Shard, want.Tenant, want.Gateway), n.Explain(want.Shard, want.Tenant, want.Gateway)} {
			if got, err := n.ParseOrigin(subject); err != nil || got != want {
				t.Fatalf("%s: %+v, %v; want %+v", subject, got, err, want)
			}
			if n.IsCommand(subject) {
				t.Fatalf("%s is taken for a command's", subject)
			}
		}
		subject := n.Command(want.Shard, want.Tenant)
		if got, err := n.ParseCommand(subject); err != nil || got != (events.Origin{Shard: want.Shard, Tenant: want.Tenant}) || !n.IsCommand(subject) {
			t.Fatalf("%s: %+v, %v; want %+v", subject, got, err, want)
		}
		for _, bad := range []string{"", "x." + subject, subject + ".x", subject + ".", n.Prefix + ".command.x." + want.Tenant, n.Check(1, "a", "b")} {
			if got, err := n.ParseCommand(bad); err == nil {
				t.Fatalf("%s: %+v", bad, got)
			}
		}
	})
}

func TestFill(t *testing.T) {
	o := events.Origin{Tenant: "acme", Gateway: "cli"}
	for _, tt := range []struct{ tenant, gateway, want string }{
		{"", "", ""},
		{"acme", "cli", ""},
		{"globex", "", `tenant: want the subject's, acme, found "globex"`},
		{"acme", "edge", `gateway: want the subject's, cli, found "edge"`},
	} {
		err := o.Fill(&tt.tenant, &tt.gateway)
		if tt.want == "" && (err != nil || tt.tenant != "acme" || tt.gateway != "cli") || tt.want != "" && (err == nil || err.Error() != tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestCheckToken(t *testing.T) {
	for _, ok := range []string{"a", "Z9_-", "-", strings.Repeat("x", 64)} {
		if err := events.CheckToken("tenant", ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "a.b", "a b", "é", "*", ">", "a\n", "a@", "[", "`", "/", ":", strings.Repeat("x", 65)} {
		if err := events.CheckToken("tenant", bad); err == nil {
			t.Errorf("%q is taken for a token", bad)
		}
	}
}

func TestShard(t *testing.T) {
	// FNV-1a 32 of the empty string, a and foobar, from the reference
	// implementation's test vectors (Fowler, Noll, Vo).
	for tenant, hash := range map[string]uint32{"": 0x811c9dc5, "a": 0xe40c292c, "foobar": 0xbf9cf968} {
		for _, shards := range []int{1, 2, 3, 16, 99, 65536} {
			if got, want := events.Shard(tenant, shards), int(hash%uint32(shards)); got != want {
				t.Errorf("%q of %d shards: %d, want %d", tenant, shards, got, want)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		tenant, shards := rapid.String().Draw(t, "tenant"), rapid.IntRange(1, 65536).Draw(t, "shards")
		h := fnv.New32a()
		_, _ = h.Write([]byte(tenant))
		if got, want := events.Shard(tenant, shards), int(h.Sum32()%uint32(shards)); got != want {
			t.Fatalf("%q of %d shards: %d, want %d", tenant, shards, got, want)
		}
	})
}

func TestToken(t *testing.T) {
	for text, want := range map[string]string{
		"shop-1": "shop-1", "shop_1.eu.example.org": "shop_1-eu-example-org", "é": "-", "\xff.": "--",
		strings.Repeat("x", 70): strings.Repeat("x", 64),
	} {
		if got := events.Token(text); got != want || events.CheckToken("gateway", got) != nil {
			t.Errorf("of %q: %q, want %q", text, got, want)
		}
	}
}
