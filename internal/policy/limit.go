package policy

import (
	"math"
	"regexp"
	"strconv"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// Unlimited is the limit of a rule or an override that counts nothing.
const Unlimited int64 = math.MaxInt64

var limitForm = regexp.MustCompile(`^([0-9]+) *(?:/|per ) *([0-9]*)(s|sec|second|m|min|minute|h|hour|d|day)$`)

var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "second": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hour": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour,
}

// limitForms is what a limit may be, for whoever wrote something else.
const limitForms = "units per time, such as 256/min, 10/s, 100 per 30s, 5000/hour or 1000000/day, or 0, or unlimited"

// ParseLimit reads a limit such as 256/min, 10/s or 100 per 30s, 0 or unlimited.
// The error is a *FieldError.
func ParseLimit(text string) (limit int64, window time.Duration, err error) {
	fault := func(want string) (int64, time.Duration, error) {
		return 0, 0, &events.FieldError{Field: "limit", Value: text, Want: want}
	}
	switch text {
	case "0":
		return 0, time.Second, nil
	case "unlimited":
		return Unlimited, time.Second, nil
	}
	m := limitForm.FindStringSubmatch(text)
	if m == nil {
		return fault(limitForms)
	}
	limit, err = strconv.ParseInt(m[1], 10, 64)
	if err != nil || limit > MaxLimit {
		return fault("a limit of at most " + strconv.FormatInt(MaxLimit, 10))
	}
	count := int64(1)
	if m[2] != "" {
		count, err = strconv.ParseInt(m[2], 10, 64)
	}
	unit := units[m[3]]
	if err != nil || count < 1 || count > int64(MaxWindow/unit) {
		return fault("a window from 1s to 25d")
	}
	return limit, time.Duration(count) * unit, nil
}
