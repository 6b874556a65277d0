package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/bus"
	"github.com/weirhq/weir/internal/pg"
)

// addresses is where a running system is, as the ready file tells it. It holds
// the private cluster's password.
type addresses struct {
	Check     string `json:"check"`
	GRPC      string `json:"grpc"` // host:port
	Analytics string `json:"analytics"`
	NATS      string `json:"nats"`
	Postgres  string `json:"postgres"`
}

// addressesFile is what a running `weir up` keeps in its data directory, for
// the other commands to find it by.
const addressesFile = "addresses.json"

// write puts the addresses into a file that only its owner can read, and that
// is there only when it is whole.
func (a addresses) write(path string) error {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// dataFlag says which running system a command means.
type dataFlag struct {
	Data string `help:"Data directory of a running 'weir up', to find its addresses in." default:".weir" env:"WEIR_DATA" type:"path"`
}

// found returns the addresses of the running system in the data directory, or
// none.
func (f *dataFlag) found() (addresses, error) {
	path := filepath.Join(f.Data, addressesFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return addresses{}, nil
	}
	if err != nil {
		return addresses{}, err
	}
	var a addresses
	if err := json.Unmarshal(text, &a); err != nil {
		return addresses{}, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// busFlags are for commands that talk to NATS.
type busFlags struct {
	NATS   string `help:"URL of the NATS server; default: what the running 'weir up' says, else nats://127.0.0.1:4222." env:"WEIR_NATS" name:"nats"`
	Prefix string `help:"First token of every subject." default:"weir" env:"WEIR_PREFIX"`
	bus.Credentials
}

// natsFlags are for commands that talk to shards.
type natsFlags struct {
	busFlags
	Shards int `help:"Number of shards; default: what the limiters have." env:"WEIR_SHARDS"`
}

// connectTimeout bounds how long a command looks for a running system.
const connectTimeout = 5 * time.Second

// connect connects to NATS: as told, as found, or at its usual place.
func (f *busFlags) connect(ctx context.Context, data dataFlag) (*nats.Conn, error) {
	url := f.NATS
	if url == "" {
		a, err := data.found()
		if err != nil {
			return nil, err
		}
		url = cmp.Or(a.NATS, "nats://127.0.0.1:4222")
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	nc, err := bus.Connect(ctx, url, f.Credentials, "weir", zap.NewNop())
	if err != nil {
		return nil, fmt.Errorf("%w (is 'weir up' running? else say --nats URL)", err)
	}
	return nc, nil
}

// postgresFlags are for commands that talk to Postgres.
type postgresFlags struct {
	Postgres string `help:"URL of the Postgres database; default: what the running 'weir up' says." env:"WEIR_POSTGRES" name:"postgres"`
}

// open opens Postgres: as told or as found.
func (f *postgresFlags) open(ctx context.Context, data dataFlag) (*pg.DB, error) {
	config := pg.DefaultConfig()
	if config.URL = f.Postgres; config.URL == "" {
		a, err := data.found()
		if err != nil {
			return nil, err
		}
		if config.URL = a.Postgres; config.URL == "" {
			return nil, fmt.Errorf("where is Postgres? There is no running 'weir up' with data in %s: say --postgres URL, or --data DIR", data.Data)
		}
	}
	return pg.Open(ctx, config)
}
