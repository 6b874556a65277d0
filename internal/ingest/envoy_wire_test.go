package ingest_test

import (
	"bytes"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/weirhq/weir/internal/events"
)

// A header that is not UTF-8 is asked about, and so are the others.
func TestEnvoyTakesWhatIsNotUTF8(t *testing.T) {
	asked := make(chan events.Request, 2)
	c := mustCall(t, recorder(asked), always)
	request := shouldLimit("acme", adding(0xc3, descriptor("path", "/é/??x", "user", "é??")), adding(7, descriptor("plan", "??")))
	wire, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	wire = bytes.ReplaceAll(wire, []byte("??"), []byte("\xff\xc3"))
	var response rls.RateLimitResponse
	if err := c.Invoke(t.Context(), rls.RateLimitService_ShouldRateLimit_FullMethodName, wire, &response, grpc.ForceCodecV2(raw{encoding.GetCodecV2("proto")})); err != nil {
		t.Fatal(err)
	}
	want := map[events.Request]bool{
		{Tenant: "acme", Path: "/é/\uFFFD\uFFFDx", User: "é\uFFFD\uFFFD", Cost: 0xc3}: true,
		{Tenant: "acme", Attrs: "{\"plan\":\"\uFFFD\uFFFD\"}", Cost: 7}:               true,
	}
	for range 2 {
		if r := <-asked; !want[r] {
			t.Errorf("asked %+v", r)
		}
	}
}

// raw sends a request that is on the wire already.
type raw struct{ encoding.CodecV2 }

func (raw) Marshal(wire any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(wire.([]byte))}, nil
}
