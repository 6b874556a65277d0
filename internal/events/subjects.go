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

// Outcome is where a gateway tells what became of a request.
func (n Names) Outcome(shard int, tenant, gateway string) string {
	return n.sharded("outcome", shard, tenant, gateway)
}

// Decision is where the limiter publishes a decision.
func (n Names) Decision(v Verdict, tenant, gateway string) string {
	return n.Prefix + ".decision." + string(v) + "." + tenant + "." + gateway
}

// Explain is where a gateway asks what would be decided, and why.
func (n Names) Explain(shard int, tenant, gateway string) string {
	return n.sharded("explain", shard, tenant, gateway)
}

// Explains matches every such question to a shard.
func (n Names) Explains(shard int) string { return n.Prefix + ".explain." + strconv.Itoa(shard) + ".>" }

// Command is where a reset or an override is asked for.
func (n Names) Command(shard int, tenant string) string {
	return n.Prefix + ".command." + strconv.Itoa(shard) + "." + tenant
}

// Commands matches every command to a shard.
func (n Names) Commands(shard int) string { return n.Prefix + ".command." + strconv.Itoa(shard) + ".*" }

// Notice is where gateways are told of what was done to a key of a tenant's.
func (n Names) Notice(tenant string) string { return n.Prefix + ".control." + tenant }

// NoticeToAll is where they are told of what concerns every tenant. No tenant
// has its last token for a name.
func (n Names) NoticeToAll() string { return n.Notice("@all") }

// Notices matches every notice.
func (n Names) Notices() string { return n.Notice("*") }

// Checks matches every check of a shard.
func (n Names) Checks(shard int) string { return n.Prefix + ".check." + strconv.Itoa(shard) + ".>" }

// Reports matches every report of a shard.
func (n Names) Reports(shard int) string { return n.Prefix + ".report." + strconv.Itoa(shard) + ".>" }

// Outcomes matches every outcome of a shard.
func (n Names) Outcomes(shard int) string { return n.Prefix + ".outcome." + strconv.Itoa(shard) + ".>" }

// Decisions matches every decision of a tenant, or * for all, for one gateway.
func (n Names) Decisions(tenant, gateway string) string { return n.Decision("*", tenant, gateway) }

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

// OutcomesStream is the stream that holds the outcomes of all shards.
func (n Names) OutcomesStream() string { return n.upper() + "_OUTCOMES" }

// Query is where queries about every tenant are asked.
func (n Names) Query() string { return n.Prefix + ".query" }

// QueryOf is where those about one tenant are: who may ask there alone learns of
// no other.
func (n Names) QueryOf(tenant string) string { return n.Query() + "." + tenant }

// QueriesOf matches every query about one tenant.
func (n Names) QueriesOf() string { return n.QueryOf("*") }

// Limiters is where limiters tell each other that they are there.
func (n Names) Limiters() string { return n.Prefix + ".limiter" }

// LeaseBucket is the KV bucket of the shards' owners.
func (n Names) LeaseBucket() string { return n.Prefix + "_lease" }

// PolicyBucket is the KV bucket of versioned policies.
func (n Names) PolicyBucket() string { return n.Prefix + "_policy" }

// SnapshotBucket is the object store bucket of a shard's saved windows.
func (n Names) SnapshotBucket(shard int) string { return n.Prefix + "_snapshot_" + strconv.Itoa(shard) }

func (n Names) upper() string { return strings.ToUpper(n.Prefix) }

func (n Names) sharded(kind string, shard int, tenant, gateway string) string {
	return n.Prefix + "." + kind + "." + strconv.Itoa(shard) + "." + tenant + "." + gateway
}

// Origin is what the subject of a check, a report, an outcome or an explain says
// of its sender; that of a command names no gateway.
type Origin struct {
	Shard   int
	Tenant  string
	Gateway string
}

// Fill sets the tenant and the gateway of an event that came on the subject. The
// error says that the event names others.
func (o Origin) Fill(tenant, gateway *string) error {
	if *tenant != "" && *tenant != o.Tenant {
		return &FieldError{Field: "tenant", Value: *tenant, Want: "the subject's, " + o.Tenant}
	}
	if *gateway != "" && *gateway != o.Gateway {
		return &FieldError{Field: "gateway", Value: *gateway, Want: "the subject's, " + o.Gateway}
	}
	*tenant, *gateway = o.Tenant, o.Gateway
	return nil
}

// ParseOrigin reads the subject of a check, a report, an outcome or an explain.
// Its strings share the subject's memory. The error names the part that is
// wrong.
func (n Names) ParseOrigin(subject string) (Origin, error) {
	kind, shard, rest, ours := n.cutShard(subject)
	tenant, gateway, whole := strings.Cut(rest, ".")
	if !ours || !whole || kind != "check" && kind != "report" && kind != "outcome" && kind != "explain" {
		return Origin{}, &FieldError{Field: "subject", Value: subject, Want: n.Prefix + ".<check|report|outcome|explain>.<shard>.<tenant>.<gateway>"}
	}
	o, err := parseOrigin(shard, tenant)
	if err != nil {
		return Origin{}, err
	}
	if err := checkToken("gateway", gateway); err != nil {
		return Origin{}, err
	}
	o.Gateway = gateway
	return o, nil
}

// ParseCommand is ParseOrigin for the subject of a command.
func (n Names) ParseCommand(subject string) (Origin, error) {
	kind, shard, tenant, ours := n.cutShard(subject)
	if !ours || kind != "command" {
		return Origin{}, &FieldError{Field: "subject", Value: subject, Want: n.Prefix + ".command.<shard>.<tenant>"}
	}
	return parseOrigin(shard, tenant)
}

// IsCommand tells a command's subject from those of requests.
func (n Names) IsCommand(subject string) bool {
	kind, _, _, _ := n.cutShard(subject)
	return kind == "command"
}

// cutShard takes the prefix, the kind and the shard off a subject.
func (n Names) cutShard(subject string) (kind, shard, rest string, ours bool) {
	rest, ours = strings.CutPrefix(subject, n.Prefix+".")
	kind, rest, _ = strings.Cut(rest, ".")
	shard, rest, _ = strings.Cut(rest, ".")
	return kind, shard, rest, ours
}

func parseOrigin(shardText, tenant string) (Origin, error) {
	shard, err := strconv.ParseUint(shardText, 10, 16)
	if err != nil {
		return Origin{}, &FieldError{Field: "subject's shard", Value: shardText, Want: "a number"}
	}
	if err := checkToken("tenant", tenant); err != nil {
		return Origin{}, err
	}
	return Origin{Shard: int(shard), Tenant: tenant}, nil
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
		ok = inToken(rune(s[i]))
	}
	if !ok {
		return &FieldError{Field: field, Value: s, Want: "1 to 64 characters of A-Z a-z 0-9 _ -"}
	}
	return nil
}

func inToken(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// Token makes of a text, such as a host's name, what can stand for a tenant or a
// gateway in a subject, unless it is empty.
func Token(text string) string {
	token := strings.Map(func(c rune) rune {
		if inToken(c) {
			return c
		}
		return '-'
	}, text)
	return token[:min(len(token), maxToken)]
}
