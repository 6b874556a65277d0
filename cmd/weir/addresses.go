package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// addresses is where a running system is, as the ready file tells it. It holds
// the private cluster's password.
type addresses struct {
	Check     string `json:"check"`
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

// system is what commands need that talk to a running system.
type system struct {
	Data     string `help:"Data directory of a running 'weir up', to find its addresses in." default:".weir" env:"WEIR_DATA" type:"path"`
	NATS     string `help:"URL of the NATS server; default: what the running 'weir up' says, else nats://127.0.0.1:4222." env:"WEIR_NATS" name:"nats"`
	Prefix   string `help:"First token of every subject." default:"weir" env:"WEIR_PREFIX"`
	Shards   int    `help:"Number of shards, as the limiters have it." default:"1" env:"WEIR_SHARDS"`
	Postgres string `help:"URL of the Postgres database; default: what the running 'weir up' says." env:"WEIR_POSTGRES" name:"postgres"`
}

// found returns the addresses of the running system in the data directory, or
// none.
func (s *system) found() (addresses, error) {
	path := filepath.Join(s.Data, addressesFile)
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

// natsURL returns where NATS is: as told, as found, or at its usual place.
func (s *system) natsURL() (string, error) {
	if s.NATS != "" {
		return s.NATS, nil
	}
	a, err := s.found()
	if err != nil || a.NATS != "" {
		return a.NATS, err
	}
	return "nats://127.0.0.1:4222", nil
}

// postgresURL returns where Postgres is: as told or as found.
func (s *system) postgresURL() (string, error) {
	if s.Postgres != "" {
		return s.Postgres, nil
	}
	a, err := s.found()
	if err != nil || a.Postgres != "" {
		return a.Postgres, err
	}
	return "", fmt.Errorf("where is Postgres? There is no running 'weir up' with data in %s: say --postgres URL, or --data DIR", s.Data)
}
