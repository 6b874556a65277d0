package ingest

import (
	"unicode/utf8"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// lenient reads also requests of Envoy's with values that are not UTF-8. HTTP has
// such headers, Envoy passes them on, and what cannot be read is let pass.
type lenient struct{ encoding.CodecV2 }

func (c lenient) Unmarshal(data mem.BufferSlice, into any) error {
	err := c.CodecV2.Unmarshal(data, into)
	asked, ok := into.(*rls.RateLimitRequest)
	if err == nil || !ok {
		return err
	}
	wire := data.Materialize()
	mend(wire, 2, 1, 2) // the value of an entry of a descriptor
	return proto.Unmarshal(wire, asked)
}

// mend makes NUL, which events.Cut knows, of what is not UTF-8 in a text of a
// message: the last of the fields, the others leading there. No length changes.
func mend(message []byte, field protowire.Number, inside ...protowire.Number) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return
		}
		if number == field && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			if len(inside) > 0 {
				mend(value, inside[0], inside[1:]...)
			} else {
				mendText(value)
			}
		}
		message = message[n:]
	}
}

func mendText(text []byte) {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 {
			text[0] = 0
		}
		text = text[size:]
	}
}
