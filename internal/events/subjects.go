package events

import (
	"hash/fnv"
	"strconv"
	"strings"
)

// DefaultPrefix is the first token of every subject.
const DefaultPrefix = "weir"

// MaxShards is how many shards there can be: ids have two digits for them.
const MaxShards = 100

// Names builds the subjects and stream names under one prefix.
type Names struct {
	Prefix string // one subject token
}

// Shard returns the shard that owns a tenant: FNV-1a 32 of the tenant modulo
// shards, the same function as the server's {{partition(n,token)}}.
func Shard(tenant string, shards int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(tenant))
	return int(h.Sum32() % uint32(shards))
}

// Check is where a gateway asks for a decision.
func (n Names) Check(shard int, tenant, gateway string) string {
	return n.sharded("check", shard, tenant, gateway)
}

// Report is where a gateway tells of a request that nobody waits for.
func (n Names) Report(shard int, tenant, gateway string) string {
	return n.sharded("report", shard, tenant, gateway)
}

// Decision is where the limiter publishes a decision.
func (n Names) Decision(v Verdict, tenant, gateway string) string {
	return n.Prefix + ".decision." + string(v) + "." + tenant + "." + gateway
}

// Checks matches every check of a shard.
func (n Names) Checks(shard int) string { return n.Prefix + ".check." + strconv.Itoa(shard) + ".>" }

// Reports matches every report of a shard.
func (n Names) Reports(shard int) string { return n.Prefix + ".report." + strconv.Itoa(shard) + ".>" }

// Decisions matches every decision for one gateway.
func (n Names) Decisions(gateway string) string { return n.Prefix + ".decision.*.*." + gateway }

// AllDecisions matches every decision.
func (n Names) AllDecisions() string { return n.Prefix + ".decision.>" }

// Journal is the one subject of a shard's journal.
func (n Names) Journal(shard int) string { return n.Prefix + ".journal." + strconv.Itoa(shard) }

// JournalStream is the stream that holds a shard's journal.
func (n Names) JournalStream(shard int) string {
	return n.upper() + "_JOURNAL_" + strconv.Itoa(shard)
}

// ReportsStream is the stream that holds the reports of all shards.
func (n Names) ReportsStream() string { return n.upper() + "_REPORTS" }

// LeaseBucket is the KV bucket of the shards' owners.
func (n Names) LeaseBucket() string { return n.Prefix + "_lease" }

// PolicyBucket is the KV bucket of versioned policies.
func (n Names) PolicyBucket() string { return n.Prefix + "_policy" }

func (n Names) upper() string { return strings.ToUpper(n.Prefix) }

func (n Names) sharded(kind string, shard int, tenant, gateway string) string {
	return n.Prefix + "." + kind + "." + strconv.Itoa(shard) + "." + tenant + "." + gateway
}

// Origin is what the subject of a check or a report says of its sender.
type Origin struct {
	Shard   int
	Tenant  string
	Gateway string
}

// ParseOrigin reads the subject of a check or a report. Its strings share the
// subject's memory. The error names the part that is wrong.
func (n Names) ParseOrigin(subject string) (Origin, error) {
	rest, ours := strings.CutPrefix(subject, n.Prefix+".")
	kind, rest, _ := strings.Cut(rest, ".")
	shardText, rest, _ := strings.Cut(rest, ".")
	tenant, gateway, whole := strings.Cut(rest, ".")
	if !ours || !whole || kind != "check" && kind != "report" {
		return Origin{}, &FieldError{Field: "subject", Value: subject, Want: n.Prefix + ".<check|report>.<shard>.<tenant>.<gateway>"}
	}
	shard, err := strconv.ParseUint(shardText, 10, 16)
	if err != nil {
		return Origin{}, &FieldError{Field: "subject's shard", Value: shardText, Want: "a number"}
	}
	o := Origin{Shard: int(shard), Tenant: tenant, Gateway: gateway}
	if err := checkToken("tenant", o.Tenant); err != nil {
		return Origin{}, err
	}
	if err := checkToken("gateway", o.Gateway); err != nil {
		return Origin{}, err
	}
	return o, nil
}

// maxToken is the longest tenant or gateway, in bytes.
const maxToken = 64

// CheckToken tells whether s can stand for a tenant or a gateway in a subject.
// The error is a *FieldError that bears the field's name.
func CheckToken(field, s string) error {
	if err := checkToken(field, s); err != nil {
		return err
	}
	return nil
}

func checkToken(field, s string) *FieldError {
	ok := s != "" && len(s) <= maxToken
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
	}
	if !ok {
		return &FieldError{Field: field, Value: s, Want: "1 to 64 characters of A-Z a-z 0-9 _ -"}
	}
	return nil
}
