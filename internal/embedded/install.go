package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNoPostgres means that the machine has no Postgres server to run. Its text
// tells how to install one.
var ErrNoPostgres = errors.New("no Postgres server is installed: run `sudo apt-get install postgresql` " +
	"(Fedora: `sudo dnf install postgresql-server`, Alpine: `apk add postgresql`, macOS: `brew install postgresql`)")

// installation is one Postgres on the machine.
type installation struct {
	bin   string // holds postgres and initdb
	major int
}

func (i installation) path(program string) string { return filepath.Join(i.bin, program) }

// places are where packages put the server, often outside of PATH.
var places = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // Postgres' own packages for Fedora and kin
	"/usr/libexec/postgresql*",  // Alpine
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
}

// choose returns the installation of the given major version, or the newest
// one when that is 0.
func choose(ctx context.Context, major int) (installation, error) {
	found := installations(ctx)
	if len(found) == 0 {
		return installation{}, ErrNoPostgres
	}
	if major == 0 {
		return slices.MaxFunc(found, func(a, b installation) int { return a.major - b.major }), nil
	}
	versions := make([]string, 0, len(found))
	for _, i := range found {
		if i.major == major {
			return i, nil
		}
		versions = append(versions, strconv.Itoa(i.major))
	}
	return installation{}, fmt.Errorf("the cluster was made by Postgres %d, installed is %s: install Postgres %d or choose another data directory",
		major, strings.Join(versions, ", "), major)
}

func installations(ctx context.Context) []installation {
	var bins []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			bins = append(bins, filepath.Dir(path))
		}
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		bins = append(bins, strings.TrimSpace(string(out)))
	}
	for _, pattern := range places {
		match, err := filepath.Glob(pattern)
		if err != nil {
			panic(err) // the pattern is a constant
		}
		bins = append(bins, match...)
	}
	slices.Sort(bins)
	var found []installation
	for _, bin := range slices.Compact(bins) {
		i := installation{bin: bin}
		if _, err := os.Stat(i.path("initdb")); err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, i.path("postgres"), "--version").Output()
		if err != nil {
			continue
		}
		if i.major = majorVersion(string(out)); i.major != 0 {
			found = append(found, i)
		}
	}
	return found
}

// majorVersion reads "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)",
// also "17devel" and "18beta1"; 0 when it is something else.
func majorVersion(text string) int {
	_, version, ok := strings.Cut(text, "(PostgreSQL) ")
	if !ok {
		return 0
	}
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(version)
	}
	major, err := strconv.Atoi(version[:end])
	if err != nil {
		return 0
	}
	return major
}
