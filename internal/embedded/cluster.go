package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
)

const (
	dataName     = "data"
	passwordName = "password"
	accessName   = "access.conf"
)

// initWithin bounds initdb, which takes a second on an idle machine.
const initWithin = 5 * time.Minute

// access is who may connect: whoever knows the password, from this machine.
const access = `# written at each start
# type  database user address      method
host    all      all  127.0.0.1/32 scram-sha-256
host    all      all  ::1/128      scram-sha-256
`

// cluster is a Postgres cluster on disk:
//
//	data/       the cluster, there as a whole or not at all
//	data.new/   a cluster being made
//	password    of its superuser, mode 0600
//	access.conf who may connect
//
// Only data belongs to whom the server runs as. As root we write nothing in it,
// so that nobody can turn our writes elsewhere by a link.
type cluster struct {
	dir     string // absolute
	log     *zap.Logger
	install installation

	as       *syscall.Credential // whom the server runs as; nil: as we do
	password string
}

func (c *cluster) data() string         { return filepath.Join(c.dir, dataName) }
func (c *cluster) passwordFile() string { return filepath.Join(c.dir, passwordName) }

// prepare finds a Postgres for the cluster, and makes the cluster if there is
// none.
func (c *cluster) prepare(ctx context.Context) error {
	major, err := c.major()
	if err != nil {
		return err
	}
	if c.install, err = choose(ctx, major); err != nil {
		return err
	}
	if err := c.account(); err != nil {
		return err
	}
	if c.as != nil {
		// The server may pass through to its data, and see no more.
		if err := os.Chmod(c.dir, 0o711); err != nil {
			return unwritable(c.dir, err)
		}
	}
	// The access file is no secret, and the server's user must read it.
	if err := write(filepath.Join(c.dir, accessName), access, 0o644); err != nil {
		return unwritable(c.dir, err)
	}
	if major == 0 {
		return c.make(ctx)
	}
	text, err := os.ReadFile(c.passwordFile())
	if err != nil {
		return fmt.Errorf("the password of the cluster in %s: %w: put the file back, or choose another data directory", c.data(), err)
	}
	c.password = string(text)
	return nil
}

// major reads which Postgres made the cluster; 0: there is none.
func (c *cluster) major() (int, error) {
	if _, err := os.Stat(c.data()); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	text, err := os.ReadFile(filepath.Join(c.data(), "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%s is no Postgres cluster (it has no PG_VERSION): choose another data directory", c.data())
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || major <= 0 {
		return 0, fmt.Errorf("%s: PG_VERSION is %q, want a number: choose another data directory", c.data(), text)
	}
	return major, nil
}

// account decides whom the server runs as: it refuses to run as root.
func (c *cluster) account() error {
	if info, err := os.Stat(c.data()); err == nil {
		owner := info.Sys().(*syscall.Stat_t)
		switch us := uint32(os.Geteuid()); {
		case owner.Uid == us && us != 0:
			return nil
		case us == 0 && owner.Uid != 0:
			c.as = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
			return nil
		case us != 0:
			return fmt.Errorf("%s belongs to user %d: start as that user or as root, or choose another data directory", c.data(), owner.Uid)
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(found.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(found.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return fmt.Errorf("user %s: %w", name, err)
		}
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return nil
	}
	return errors.New("a Postgres server does not run as root, and there is no user postgres or nobody: start as another user")
}

// own gives a file or directory to whom the server runs as.
func (c *cluster) own(path string) error {
	if c.as == nil {
		return nil
	}
	return os.Chown(path, int(c.as.Uid), int(c.as.Gid))
}

// write makes a file anew, and on disk.
func write(path, text string, mode os.FileMode) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
}

// make makes the cluster beside its place and moves it there when it is whole.
func (c *cluster) make(ctx context.Context) error {
	fresh := c.data() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return unwritable(c.dir, err)
	}
	c.password = rand.Text()
	// initdb reads the password as the server's user; afterwards it is ours.
	handed := c.passwordFile() + ".new"
	if err := errors.Join(
		write(handed, c.password, 0o600), c.own(handed),
		os.Mkdir(fresh, 0o700), c.own(fresh)); err != nil {
		return unwritable(c.dir, err)
	}
	if err := c.initdb(ctx, fresh, handed); err != nil {
		return err
	}
	if err := errors.Join(write(c.passwordFile(), c.password, 0o600), os.Remove(handed)); err != nil {
		return unwritable(c.dir, err)
	}
	return os.Rename(fresh, c.data())
}

func (c *cluster) initdb(ctx context.Context, fresh, password string) error {
	ctx, cancel := context.WithTimeout(ctx, initWithin)
	defer cancel()
	log := &serverLog{log: c.log}
	cmd := c.command(ctx, "initdb",
		"--username="+role,
		"--auth=scram-sha-256",
		"--encoding=UTF8",
		"--locale=C", // sorts alike on every machine, and after an upgrade of its C library
		"--no-instructions")
	cmd.Stderr = log
	path, opened, err := handOver(cmd, c.dir)
	if err != nil {
		return err
	}
	cmd.Args = append(cmd.Args, "-D", path+"/"+filepath.Base(fresh), "--pwfile="+path+"/"+filepath.Base(password))
	p, err := startProcess(cmd, syscall.SIGKILL)
	if err := errors.Join(err, opened.Close()); err != nil {
		return err
	}
	<-p.done
	if p.err != nil {
		return fmt.Errorf("make the cluster in %s: %w: %s", fresh, errors.Join(p.err, ctx.Err()), log.said())
	}
	return nil
}

// command is a Postgres program with nothing of our environment but the path.
func (c *cluster) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.install.path(program), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	return cmd
}
