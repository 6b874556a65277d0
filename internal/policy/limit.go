package policy

import (
	"regexp"
	"strconv"
	"time"

	"github.com/weirhq/weir/internal/events"
)

var limitForm = regexp.MustCompile(`^([0-9]+) *(?:/|per ) *([0-9]*)(s|sec|second|m|min|minute|h|hour|d|day)$`)

var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "second": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hour": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour,
}

// parseLimit reads a limit such as 256/min, 10/s or 100 per 30s.
func parseLimit(text string) (limit int64, window time.Duration, err error) {
	fault := func(want string) error {
		return &events.FieldError{Field: "limit", Value: text, Want: want}
	}
	if text == "0" || text == "unlimited" {
		return 0, 0, fault("a limit of 1 or more (none at all is not supported yet)")
	}
	m := limitForm.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, fault("units per time, such as 256/min, 10/s, 100 per 30s, 5000/hour or 1000000/day")
	}
	limit, err = strconv.ParseInt(m[1], 10, 64)
	switch {
	case err != nil || limit > MaxLimit:
		return 0, 0, fault("a limit of at most " + strconv.FormatInt(MaxLimit, 10))
	case limit == 0:
		return 0, 0, fault("a limit of 1 or more (none at all is not supported yet)")
	}
	count := int64(1)
	if m[2] != "" {
		count, err = strconv.ParseInt(m[2], 10, 64)
	}
	unit := units[m[3]]
	if err != nil || count < 1 || count > int64(MaxWindow/unit) {
		return 0, 0, fault("a window from 1s to 25d")
	}
	return limit, time.Duration(count) * unit, nil
}
