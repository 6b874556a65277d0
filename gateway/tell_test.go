package gateway

import (
	"testing"

	"github.com/weirhq/weir/internal/testenv"
)

// Outcomes that nobody stores hold up nobody who tells of them; what finds no
// room is counted.
func TestLostOutcomesAreCounted(t *testing.T) {
	t.Parallel()
	c, err := Connect(testenv.Connect(t, testenv.NATS(t)), Config{Name: "g", Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	const told = 12_000
	for range told {
		c.tell(Outcome{ID: "one", Tenant: "acme"})
	}
	if n := c.LostOutcomes(); n < 1700 || n > 2000 {
		t.Errorf("%d of %d outcomes are counted as lost, want what is over 10,000 and a batch", n, told)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := c.LostOutcomes(); n != told {
		t.Errorf("after Close %d outcomes are counted as lost, want all %d", n, told)
	}
}
