// Package bus connects the services to NATS, all in the same way: for ever,
// with backoff, and saying what happens.
//
// While there is no connection nothing is held back to be sent later. A
// publisher hears of it at once and knows best what becomes of its message: a
// check that arrives after its gateway gave up would only charge somebody.
package bus

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

const (
	// firstWait and longestWait bound the pause between two attempts.
	firstWait   = 100 * time.Millisecond
	longestWait = 5 * time.Second
	// attemptTimeout bounds one attempt at one server.
	attemptTimeout = 2 * time.Second
	// pingEvery, times the two pings that may be missing, is how long a server
	// that has vanished goes unnoticed.
	pingEvery = 10 * time.Second
)

// Credentials say who a program is to NATS, and whom it believes. Its tags are
// those of the program's flags.
type Credentials struct {
	Creds string `help:"File with the credentials to show the NATS server; default: what its URL says, nats://user:password@host." env:"WEIR_NATS_CREDS" name:"nats-creds" type:"path"`
	CA    string `help:"File with the CAs, as PEM, one of which has signed the NATS server's certificate; default: TLS as the server wants it, by the CAs of the system." env:"WEIR_NATS_CA" name:"nats-ca" type:"path"`
}

// options returns them for a connection. The error names every flag whose file
// is of no use.
func (c Credentials) options() ([]nats.Option, error) {
	var list []nats.Option
	var tried nats.Options
	var faults []error
	if c.CA != "" {
		list = append(list, nats.RootCAs(c.CA))
		if err := list[0](&tried); err != nil {
			faults = append(faults, fmt.Errorf("--nats-ca: %w", err))
		}
	}
	if c.Creds != "" {
		option := nats.UserCredentials(c.Creds)
		list = append(list, option)
		err := option(&tried)
		if err == nil {
			_, err = tried.UserJWT()
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("--nats-creds: %w", err))
		}
	}
	return list, errors.Join(faults...)
}

// Connect connects to the NATS server at one URL, or to one of several,
// separated by commas, and goes on trying until ctx ends. A connection that
// breaks later is made again for as long as it takes; the caller closes it.
//
// The error tells of a URL or of credentials that no waiting would mend, or of
// the last attempt before ctx ended. Passwords in urls are neither logged nor
// told.
func Connect(ctx context.Context, urls string, as Credentials, name string, log *zap.Logger) (*nats.Conn, error) {
	shown, err := as.options()
	if err != nil {
		return nil, err
	}
	where := redacted(urls)
	log = log.Named("nats").With(zap.String("url", where))
	for one := range strings.SplitSeq(urls, ",") {
		if err := check(one); err != nil {
			return nil, err
		}
	}
	var nc *nats.Conn
	var last error // of the attempts; Retry itself only tells that ctx ended
	attempt := func() error {
		nc, last = nats.Connect(urls, append(options(name, log), shown...)...)
		if errors.Is(last, nats.ErrAuthorization) {
			return backoff.Permanent(last)
		}
		return last
	}
	again := backoff.NewExponentialBackOff(backoff.WithInitialInterval(firstWait),
		backoff.WithMaxInterval(longestWait), backoff.WithMaxElapsedTime(0))
	err = backoff.RetryNotify(attempt, backoff.WithContext(again, ctx), func(err error, wait time.Duration) {
		log.Warn("no connection yet", zap.Error(err), zap.Duration("next_attempt_in", wait))
	})
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", where, last)
	}
	log.Debug("connected", zap.String("server", nc.ConnectedServerName()))
	return nc, nil
}

func options(name string, log *zap.Logger) []nats.Option {
	return []nats.Option{
		nats.Name(name),
		nats.CustomInboxPrefix("_INBOX." + name), // which no other program may read, see deployments/nats
		nats.Timeout(attemptTimeout),
		nats.PingInterval(pingEvery),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // credentials may be changed under way
		nats.ReconnectBufSize(-1),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // else we closed it
				log.Warn("connection lost", zap.Error(err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("connected again", zap.String("server", nc.ConnectedServerName()), zap.Uint64("reconnects", nc.Stats().Reconnects))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if sub == nil {
				log.Error("server or connection reports", zap.Error(err))
				return
			}
			dropped, _ := sub.Dropped() // its error says that sub is closed: nothing more to tell
			log.Error("subscription reports", zap.String("subject", sub.Subject), zap.Int("dropped", dropped), zap.Error(err))
		}),
	}
}

// reconnectDelay is the pause after the nth round over all servers. It has no
// jitter: a handful of services is no thundering herd.
func reconnectDelay(round int) time.Duration {
	return min(firstWait<<min(max(round-1, 0), 10), longestWait)
}

// check refuses what no server can be reached by; nats.go itself takes URLs
// without a scheme.
func check(one string) error {
	text := strings.TrimSpace(one)
	if !strings.Contains(text, "://") {
		text = "nats://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return fmt.Errorf("NATS URL: want one such as %s, found %q", nats.DefaultURL, redacted(one))
	}
	switch u.Scheme {
	case "nats", "tls", "ws", "wss":
		return nil
	}
	return fmt.Errorf("NATS URL: want nats, tls, ws or wss as its scheme, found %q", redacted(one))
}

// redacted hides users, passwords and tokens.
func redacted(urls string) string {
	parts := strings.Split(urls, ",")
	for i, one := range parts {
		if at := strings.LastIndexByte(one, '@'); at >= 0 {
			scheme, _, ok := strings.Cut(one[:at], "://")
			parts[i] = "…" + one[at:]
			if ok {
				parts[i] = scheme + "://" + parts[i]
			}
		}
	}
	return strings.Join(parts, ",")
}
