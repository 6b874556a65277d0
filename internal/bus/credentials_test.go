package bus_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/bus"
	"github.com/weirhq/weir/internal/testenv"
)

// key makes a key pair of the kind, and returns its public key too.
func key(t *testing.T, create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pair, public
}

// startTrusting runs a server that takes users of one operator's, and returns
// the file with the credentials of one.
func startTrusting(t *testing.T) (*server.Server, string) {
	t.Helper()
	operator, operatorKey := key(t, nkeys.CreateOperator)
	account, accountKey := key(t, nkeys.CreateAccount)
	user, userKey := key(t, nkeys.CreateUser)
	encode := func(claims jwt.Claims, signer nkeys.KeyPair) string {
		text, err := claims.Encode(signer)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	accounts := &server.MemAccResolver{}
	if err := accounts.Store(accountKey, encode(jwt.NewAccountClaims(accountKey), operator)); err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.FormatUserConfig(encode(jwt.NewUserClaims(userKey), account), seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "user.creds")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, server.Options{Port: server.RANDOM_PORT, TrustedKeys: []string{operatorKey}, AccountResolver: accounts}), file
}

func TestCredentials(t *testing.T) {
	ca := testenv.NewCA(t)
	cert, private := ca.Issue(t)
	config, err := server.GenTLSConfig(&server.TLSConfigOpts{CertFile: cert, KeyFile: private})
	if err != nil {
		t.Fatal(err)
	}
	secret := start(t, server.Options{Port: server.RANDOM_PORT, TLS: true, TLSConfig: config})
	trusting, creds := startTrusting(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		url  string
		as   bus.Credentials
		want []string // of the error; none: connected
	}{
		{"a CA", secret.ClientURL(), bus.Credentials{CA: ca.File}, nil},
		{"another CA", secret.ClientURL(), bus.Credentials{CA: testenv.NewCA(t).File}, []string{"certificate"}},
		{"the system's CAs", secret.ClientURL(), bus.Credentials{}, []string{"certificate"}},
		{"a server that serves no TLS", trusting.ClientURL(), bus.Credentials{CA: ca.File, Creds: creds}, []string{"secure connection not available"}},
		{"credentials", trusting.ClientURL(), bus.Credentials{Creds: creds}, nil},
		{"none", trusting.ClientURL(), bus.Credentials{}, []string{"Authorization Violation"}},
		{"no such files", secret.ClientURL(), bus.Credentials{CA: "nowhere.pem", Creds: "nowhere.creds"}, []string{"--nats-ca: ", "nowhere.pem", "--nats-creds: ", "nowhere.creds"}},
		{"a file with nothing in it", secret.ClientURL(), bus.Credentials{CA: empty}, []string{"--nats-ca: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if tt.want != nil {
				ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
			}
			nc, err := bus.Connect(ctx, tt.url, tt.as, "caller", zap.NewNop())
			if err == nil {
				nc.Close()
			}
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("Connect: %v, want %q", err, tt.want)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}
