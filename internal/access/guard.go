package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Config says who may. Its tags are those of a program's flags.
type Config struct {
	Tokens   string `help:"File of the tokens, one of which every caller needs; 'weir token' makes them. Default: nobody needs one." env:"WEIR_TOKENS" type:"path"`
	TLSCert  string `help:"File with the certificate to serve TLS with, and those between it and its CA, as PEM." env:"WEIR_TLS_CERT" name:"tls-cert" type:"path"`
	TLSKey   string `help:"File with the certificate's private key, as PEM." env:"WEIR_TLS_KEY" name:"tls-key" type:"path"`
	ClientCA string `help:"File with the CAs, as PEM, one of which has to have signed the certificate that every caller then needs." env:"WEIR_TLS_CLIENT_CA" name:"tls-client-ca" type:"path"`
	Insecure bool   `help:"Let other machines in though nothing asks who they are, or tokens can be read on the way." env:"WEIR_INSECURE"`
}

// every is how often files are looked at.
const every = time.Second

// Guard lets callers in. Make it with Open.
type Guard struct {
	config Config
	tokens *live[grants]      // nil: nobody needs one
	tls    *live[*tls.Config] // nil: there is no TLS
}

// Open makes a guard. The error names every fault of the config, with the flag
// and the file that it is in; the guard then lets nobody in, but Reach is right.
func Open(config Config) (*Guard, error) {
	g := &Guard{config: config}
	var faults []error
	if config.Tokens != "" {
		g.tokens = &live[grants]{
			files: []file{{"--tokens", config.Tokens}},
			parse: func(texts [][]byte) (grants, error) {
				all, err := parseTokens(string(texts[0]))
				if err != nil {
					return nil, fmt.Errorf("--tokens: %s: %w", config.Tokens, err)
				}
				return all, nil
			},
		}
		_, err := g.tokens.look()
		faults = append(faults, err)
	}
	switch {
	case (config.TLSCert == "") != (config.TLSKey == ""):
		faults = append(faults, errors.New("--tls-cert, --tls-key: want both or neither"))
	case config.TLSCert != "":
		g.tls = &live[*tls.Config]{
			files: []file{{"--tls-cert", config.TLSCert}, {"--tls-key", config.TLSKey}},
			parse: config.parseTLS,
		}
		if config.ClientCA != "" {
			g.tls.files = append(g.tls.files, file{"--tls-client-ca", config.ClientCA})
		}
		_, err := g.tls.look()
		faults = append(faults, err)
	case config.ClientCA != "":
		faults = append(faults, errors.New("--tls-client-ca: want --tls-cert and --tls-key too: who shows no certificate cannot ask for one"))
	}
	return g, errors.Join(faults...)
}

// parseTLS reads the certificate, its key and the clients' CAs.
func (c Config) parseTLS(texts [][]byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %s and %s: %w", c.TLSCert, c.TLSKey, err)
	}
	served := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if len(texts) > 2 {
		served.ClientAuth = tls.RequireAndVerifyClientCert
		served.ClientCAs = x509.NewCertPool()
		if !served.ClientCAs.AppendCertsFromPEM(texts[2]) {
			return nil, fmt.Errorf("--tls-client-ca: %s: want a certificate as PEM, found none", c.ClientCA)
		}
	}
	return served, nil
}

// Follow looks at the files once a second, until ctx ends: what has changed
// holds for requests and connections that come later. Files that are wrong
// change nothing, and are told of.
func (g *Guard) Follow(ctx context.Context, log *zap.Logger) error {
	log = log.Named("access")
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if g.tokens != nil {
			told(log, "tokens", g.tokens)
		}
		if g.tls != nil {
			told(log, "certificates", g.tls)
		}
	}
}

func told[T any](log *zap.Logger, what string, files *live[T]) {
	switch changed, err := files.look(); {
	case err != nil:
		log.Error("wrong files change nothing", zap.String("what", what), zap.Error(err))
	case changed:
		log.Info("changed files hold", zap.String("what", what))
	}
}

// Reach tells whether other machines may reach an address: loopback's none can.
// The error says what is missing.
func (g *Guard) Reach(loopback bool) error {
	asks := g.tokens != nil || g.config.ClientCA != ""
	switch {
	case loopback || g.config.Insecure:
		return nil
	case !asks:
		return errors.New("whoever reaches it can act for every tenant: " +
			"say --tokens or --tls-client-ca, with --tls-cert and --tls-key, or --insecure if something else keeps strangers away")
	case g.tls == nil:
		return errors.New("whoever is on the way can read the tokens: " +
			"say --tls-cert and --tls-key, or --insecure if something else serves TLS")
	}
	return nil
}

// Listener serves TLS on a listener, if the guard has certificates. HTTP/2 is
// offered, which is what gRPC speaks.
func (g *Guard) Listener(l net.Listener) net.Listener {
	if g.tls == nil {
		return l
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return *g.tls.value.Load(), nil },
	})
}

// URL is how to reach what Listener serves at an address.
func (g *Guard) URL(addr net.Addr) string {
	if g.tls == nil {
		return "http://" + addr.String()
	}
	return "https://" + addr.String()
}

// UnauthorizedError says that nobody is known to ask.
type UnauthorizedError struct {
	code   string // of RFC 6750, section 3.1; empty if no token was shown
	Detail string
}

func (e *UnauthorizedError) Error() string { return e.Detail }

// Challenge is the value of the field WWW-Authenticate.
func (e *UnauthorizedError) Challenge() string {
	if e.code == "" {
		return `Bearer realm="weir"`
	}
	return `Bearer realm="weir", error="` + e.code + `"`
}

// Admit returns what the caller may who sends these values of the field, or
// gRPC's metadata, Authorization. The error is an *UnauthorizedError, or a
// *DeniedError if the token is for another role.
func (g *Guard) Admit(authorization []string, role Role) (*Grant, error) {
	if g.tokens == nil {
		return nil, nil
	}
	if len(authorization) > 1 {
		return nil, &UnauthorizedError{"invalid_request", "Want one Authorization, found several."}
	}
	scheme, token := "", ""
	if len(authorization) == 1 {
		scheme, token, _ = strings.Cut(authorization[0], " ")
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, &UnauthorizedError{Detail: "A token is needed: Authorization: Bearer " + tokenPrefix + "…"}
	}
	grant, known := g.tokens.value.Load().find(strings.Trim(token, " "))
	if !known {
		return nil, &UnauthorizedError{"invalid_token", "The token is not known."}
	}
	if err := grant.allows(role); err != nil {
		return nil, err
	}
	return grant, nil
}
