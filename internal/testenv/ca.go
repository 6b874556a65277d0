package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA signs certificates for the test. It is known by its file alone.
type CA struct {
	File string // its certificate, as PEM
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a CA in a directory of the test's.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	ca := &CA{File: filepath.Join(tb.TempDir(), "ca.pem"), key: mustKey(tb)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := mustSign(tb, template, template, ca.key, ca.key)
	mustPEM(tb, ca.File, "CERTIFICATE", der)
	var err error
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	return ca
}

// Issue writes a certificate for 127.0.0.1, for servers and clients, and its
// key, and returns their files.
func (ca *CA) Issue(tb testing.TB) (cert, key string) {
	tb.Helper()
	dir := tb.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	private := mustKey(tb)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	mustPEM(tb, cert, "CERTIFICATE", mustSign(tb, template, ca.cert, private, ca.key))
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	mustPEM(tb, key, "PRIVATE KEY", der)
	return cert, key
}

// Client returns a client's side: it believes the CA, and shows a certificate of
// each of the others.
func (ca *CA) Client(tb testing.TB, shows ...*CA) *tls.Config {
	tb.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AddCert(ca.cert)
	for _, other := range shows {
		pair, err := tls.LoadX509KeyPair(other.Issue(tb))
		if err != nil {
			tb.Fatal(err)
		}
		config.Certificates = append(config.Certificates, pair)
	}
	return config
}

func mustKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func mustSign(tb testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) []byte {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func mustPEM(tb testing.TB, path, kind string, der []byte) {
	tb.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
}
