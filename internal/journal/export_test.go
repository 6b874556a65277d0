package journal

import (
	"strconv"

	"github.com/nats-io/nats.go"
)

// Headers returns the headers that an appender's next block bears.
func Headers(a *Appender, count int) nats.Header {
	return nats.Header{headerCount: {strconv.Itoa(count)}, headerOwner: {a.owner}, headerReport: {"0"}}
}
