package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// Severity says what a fault does to a policy.
type Severity int

// The severities.
const (
	Error   Severity = iota // the policy is refused
	Warning                 // the policy does what it says, which is hardly what was meant
)

// Fault is one thing that is wrong with a policy, and where.
type Fault struct {
	Line     int // from 1
	Column   int // in characters, from 1
	Severity Severity
	Err      error
}

func (f *Fault) Error() string {
	if f.Severity == Warning {
		return fmt.Sprintf("line %d, column %d: warning: %v", f.Line, f.Column, f.Err)
	}
	return fmt.Sprintf("line %d, column %d: %v", f.Line, f.Column, f.Err)
}

func (f *Fault) Unwrap() error { return f.Err }

// Parse reads a policy file. The error names every fault of it but the
// warnings, as joined *Faults in the order of the file.
func Parse(src []byte) (*Policy, error) {
	p, faults := examine(src)
	var all []error
	for _, f := range faults {
		if f.Severity == Error {
			all = append(all, f)
		}
	}
	if len(all) > 0 {
		return nil, errors.Join(all...)
	}
	return p, nil
}

// Lint returns every fault of a policy file, in the order of the file. Rules
// that are wrong in themselves are not looked at for warnings.
func Lint(src []byte) []*Fault {
	_, faults := examine(src)
	return faults
}

func examine(src []byte) (*Policy, []*Fault) {
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	root, fault := read(src)
	if fault != nil {
		return nil, []*Fault{fault}
	}
	r := reader{
		policy: &Policy{OnError: events.Allow, Timeout: 50 * time.Millisecond, tenants: map[string][]*Rule{}},
		lines:  strings.Split(string(src), "\n"),
	}
	r.file(root)
	slices.SortStableFunc(r.faults, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return r.policy, r.faults
}
