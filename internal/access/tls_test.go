package access_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/testenv"
)

// mustServe serves HTTP through a guard, and follows its files, until the test
// ends. It returns where.
func mustServe(t *testing.T, config access.Config) string {
	t.Helper()
	guard := mustOpen(t, config)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ErrorLog: zap.NewStdLog(zap.NewNop()), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Spoken", r.Proto)
	})}
	ctx, stop := context.WithCancel(t.Context())
	served, followed := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.Serve(guard.Listener(inner)) }()
	go func() { followed <- guard.Follow(ctx, zap.NewNop()) }()
	t.Cleanup(func() {
		stop()
		_ = server.Close()
		if err := errors.Join(<-served, <-followed); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return guard.URL(inner.Addr())
}

// get asks on a connection of its own. Over HTTP/1 the error tells what TLS
// found wrong.
func get(url string, client *tls.Config, http2 bool) (*http.Response, error) {
	transport := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: http2, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get(url)
	if err == nil {
		_ = resp.Body.Close()
	}
	return resp, err
}

func TestTLS(t *testing.T) {
	ours, theirs := testenv.NewCA(t), testenv.NewCA(t)
	cert, key := ours.Issue(t)
	plain := mustServe(t, access.Config{TLSCert: cert, TLSKey: key})
	mutual := mustServe(t, access.Config{TLSCert: cert, TLSKey: key, ClientCA: ours.File})
	old := ours.Client(t, ours)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	for _, tt := range []struct {
		name, url string
		client    *tls.Config
		want      string // of the error; empty: HTTP/2
	}{
		{"TLS", plain, ours.Client(t), ""},
		{"a CA that the client does not know", plain, theirs.Client(t), "unknown authority"},
		{"TLS 1.1", plain, old, "protocol version"},
		{"a client certificate", mutual, ours.Client(t, ours), ""},
		{"none", mutual, ours.Client(t), "certificate required"},
		{"one of another CA", mutual, ours.Client(t, theirs), "unknown certificate authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := get(tt.url, tt.client, tt.want == "")
			switch {
			case err != nil && (tt.want == "" || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %q", err, tt.want)
			case err == nil && (tt.want != "" || resp.Header.Get("Spoken") != "HTTP/2.0"):
				t.Errorf("let in with %q, want %q", resp.Header.Get("Spoken"), tt.want)
			}
		})
	}
	resp, err := get("http://"+strings.TrimPrefix(mutual, "https://"), nil, false)
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without TLS: %v, %v", resp, err)
	}
}

// TestTLSFollows puts another server's certificate and other clients' CA into
// the files, key last: connections that come later meet them.
func TestTLSFollows(t *testing.T) {
	ours, theirs := testenv.NewCA(t), testenv.NewCA(t)
	cert, key := ours.Issue(t)
	url := mustServe(t, access.Config{TLSCert: cert, TLSKey: key, ClientCA: ours.File})
	before, after := ours.Client(t, ours), theirs.Client(t, theirs)
	before.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	before.InsecureSkipVerify = true // it believes any server, and offers its session
	if _, err := get(url, before, true); err != nil {
		t.Fatal(err)
	}
	newCert, newKey := theirs.Issue(t)
	for _, move := range [][2]string{{newCert, cert}, {theirs.File, ours.File}, {newKey, key}} {
		if _, err := get(url, before, true); err != nil {
			t.Errorf("before all is changed: %v", err)
		}
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		_, err := get(url, after, true)
		return err
	})
	if _, err := get(url, before, true); err == nil {
		t.Error("a certificate of the CA that was, with its session, is let in")
	}
}
