package crashtest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/testenv"
)

// With these flags the test program is a NATS server, to be killed by a test
// that it was started by.
var (
	natsAddr = flag.String("nats-addr", "", "be a NATS server at an address")
	natsDir  = flag.String("nats-dir", "", "with its streams in a directory")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *natsAddr == "" {
		// They wait more than they work.
		if err := flag.Set("test.parallel", "6"); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	}
	_, err := embedded.StartNATS(context.Background(), embedded.NATSOptions{Dir: *natsDir, Addr: *natsAddr, Log: zap.NewNop()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {} // until it is killed
}

// newSystemOnMortalNATS is a system whose NATS server is a process of its own;
// restart kills that and starts it again, at the same address with the same
// streams.
func newSystemOnMortalNATS(t *testing.T) (s *system, restart func()) {
	t.Helper()
	addr, dir := testenv.FreeAddr(t), t.TempDir()
	s = &system{T: t, nats: "nats://" + addr, shards: 1}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	serve := func() *testenv.Process {
		p := testenv.Start(t, program, "-nats-addr", addr, "-nats-dir", dir)
		testenv.Eventually(t, patience, func() error {
			nc, err := nats.Connect(s.nats)
			if err == nil {
				nc.Close()
			}
			return err
		})
		return p
	}
	server := serve()
	return s, func() {
		server.Kill()
		server = serve()
	}
}
