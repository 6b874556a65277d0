package window

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// key returns the name of a key on the server: its tenant is the tag.
func (r *Redis) key(key []byte) string {
	owner := tenant(key)
	return r.config.Prefix + "{" + string(owner) + "}" + string(key[len(owner):])
}

// tenant returns a key's tenant. One without is our bug: its name would not be
// a tag.
func tenant(key []byte) []byte {
	owner, _, _ := bytes.Cut(key, []byte{0})
	if len(owner) == 0 || bytes.IndexByte(owner, '}') >= 0 {
		panic(fmt.Sprintf("window: key %q, want a tenant up to its first NUL", key))
	}
	return owner
}

// groups returns the places of the requests that go out in one call each.
func (r *Redis) groups(batch []Request) [][]int {
	all := make([]int, len(batch))
	var tenants map[string][]int // of a cluster
	var order []string
	if r.cluster {
		tenants = map[string][]int{}
	}
	for i := range batch {
		req := &batch[i]
		all[i] = i
		var owner []byte // of a request that charges nothing there is none
		for j := range req.Charges {
			req.Charges[j].check()
			if t := tenant(req.Charges[j].Key); j == 0 {
				owner = t
			} else if !bytes.Equal(t, owner) {
				panic(fmt.Sprintf("window: a request that charges tenants %q and %q", owner, t))
			}
		}
		if r.cluster {
			if tenants[string(owner)] == nil {
				order = append(order, string(owner))
			}
			tenants[string(owner)] = append(tenants[string(owner)], i)
		}
	}
	if !r.cluster {
		return [][]int{all}
	}
	groups := make([][]int, len(order))
	for i, owner := range order {
		groups[i] = tenants[owner]
	}
	return groups
}

// command returns the call that decides some requests of a batch.
func (r *Redis) command(ctx context.Context, verb, script string, batch []Request, group []int) *redis.Cmd {
	args := make([]any, 3, 3+len(group)+2)
	requests := make([]byte, 0, 64*len(group))
	for _, i := range group {
		req := &batch[i]
		requests = append(requests, bit(req.Fill))
		requests = binary.BigEndian.AppendUint16(requests, uint16(len(req.Charges)))
		for j := range req.Charges {
			args = append(args, r.key(req.Charges[j].Key))
			if req.Fill { // each for itself
				requests = appendCharge(requests, req.Charges[j:j+1], 0)
			} else {
				requests = appendCharge(requests, req.Charges, j)
			}
		}
	}
	args[0], args[1], args[2] = verb, script, len(args)-3
	return redis.NewCmd(ctx, append(args, requests, r.now())...)
}

func appendCharge(dst []byte, charges []Charge, one int) []byte {
	c := &charges[one]
	var units int64
	var span time.Duration
	for i := range charges {
		if i == one || bytes.Equal(charges[i].Key, c.Key) {
			units += charges[i].Cost
			span = max(span, charges[i].Window, charges[i].Keep)
		}
	}
	dst = append(dst, bit(c.CountDenied))
	dst = appendUint(dst, 5, c.Cost)
	dst = appendUint(dst, 5, units)
	dst = appendUint(dst, 5, c.Limit)
	dst = appendUint(dst, 6, c.Window.Microseconds())
	dst = appendUint(dst, 6, span.Microseconds())
	return appendUint(dst, 6, c.part())
}

// decode reads what became of some requests of a batch.
func decode(answer string, batch []Request, group []int) error {
	want := 7
	for _, i := range group {
		want += 25 * len(batch[i].Charges)
	}
	if len(answer) != want {
		return fmt.Errorf("an answer of %d bytes, want %d", len(answer), want)
	}
	number := func(size int) (v int64) {
		for _, b := range []byte(answer[:size]) {
			v = v<<8 | int64(b)
		}
		answer = answer[size:]
		return v
	}
	at := time.UnixMicro(number(7)).UTC()
	for _, i := range group {
		req := &batch[i]
		req.At, req.Admitted = at, true
		for j := range req.Charges {
			c := &req.Charges[j]
			flags := number(1)
			c.Fits = flags&1 != 0
			req.Admitted = req.Admitted && c.Fits
			c.Charged, c.Remaining = number(5), number(5)
			c.Reset = time.Duration(number(7)) * time.Microsecond
			if c.RetryAfter = time.Duration(number(7)) * time.Microsecond; flags&2 != 0 {
				c.RetryAfter = Never
			}
		}
	}
	return nil
}

func appendUint(dst []byte, size int, v int64) []byte {
	for size--; size >= 0; size-- {
		dst = append(dst, byte(v>>(8*size)))
	}
	return dst
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}
