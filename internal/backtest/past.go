package backtest

import (
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
)

const (
	// ownTime bounds how long before its record was made a gateway may have acted:
	// reports wait while its connection is away.
	ownTime = time.Minute
	// maxRecent bounds the ids that are known, in each of two generations.
	maxRecent = 1 << 17
)

// TenantsError says that a history of whatever tenant there is has several.
type TenantsError struct{ One, Other string }

func (e *TenantsError) Error() string {
	return fmt.Sprintf("want the requests of one tenant, found those of %s and %s", e.One, e.Other)
}

// past tells what the records of one tenant say was asked.
type past struct {
	tenant string
	late   int64 // reports that came more than a window late
	twice  int64 // let through without a decision, and decided after all

	seed   maphash.Seed
	recent [2]map[uint64]struct{} // ids, the newer ones first
}

func newPast(tenant string) past {
	return past{tenant: tenant, seed: maphash.MakeSeed(), recent: [2]map[uint64]struct{}{{}, {}}}
}

// asked returns when a record's request was asked and how many it stands for, 0 if
// it is to be left out. What a gateway did itself was asked when it did it, all
// else when it was decided. The first record says which tenant is meant if that
// was not told; then another one's is an error.
func (p *past) asked(r *events.Record) (at time.Time, count int64, err error) {
	if r.Refused != nil {
		return at, 0, nil
	}
	q, d := &r.Request, &r.Decision
	if p.tenant == "" {
		p.tenant = strings.Clone(q.Tenant)
	}
	if q.Tenant != p.tenant {
		return at, 0, &TenantsError{p.tenant, strings.Clone(q.Tenant)}
	}
	at, count = d.DecidedAt, max(q.Count, 1)
	if own := q.Time; q.Verdict != "" && own.Before(at) && at.Sub(own) <= ownTime {
		at = own
	}
	known := p.meet(q.ID)
	switch {
	case d.Reason == events.ReasonLate:
		p.late += count
		return at, 0, nil
	case d.Reason == events.ReasonTimeout && known:
		p.twice += count
		return at, 0, nil
	}
	return at, count, nil
}

// meet takes note of an id, and tells whether it was met before.
func (p *past) meet(id string) bool {
	hash := maphash.String(p.seed, id)
	_, newer := p.recent[0][hash]
	_, older := p.recent[1][hash]
	if len(p.recent[0]) == maxRecent {
		p.recent[0], p.recent[1] = p.recent[1], p.recent[0]
		clear(p.recent[0])
	}
	p.recent[0][hash] = struct{}{}
	return newer || older
}
