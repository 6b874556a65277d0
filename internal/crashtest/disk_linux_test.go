package crashtest

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/testenv"
)

// The disk runs full, of rows or of what Postgres needs to live at all, and is
// given room again.
func TestPostgresDiskRunsFull(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	disk := t.TempDir()
	if err := syscall.Mount("weir-test", disk, "tmpfs", 0, "size=160m"); err != nil {
		t.Skipf("a small disk takes the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := s.database(filepath.Join(disk, "postgres"), "max_wal_size=32MB", "min_wal_size=32MB")
	s.limiter("one")
	writer := s.writer()
	l := s.load()
	s.awaitRows(answersBetween)

	ballast, err := os.Create(filepath.Join(disk, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(ballast, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk takes all: %v", err)
	}
	if err := ballast.Close(); err != nil {
		t.Fatal(err)
	}
	l.awaitAnswers(answersBetween)
	testenv.Eventually(t, patience, func() error {
		if !strings.Contains(writer.Output(), "trying again") {
			return errors.New("the writer finds room")
		}
		return nil
	})
	if err := os.Remove(ballast.Name()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.server.Done(): // it could not write its log of transactions
		t.Log("the server had ended")
		if err := d.server.Close(); err != nil {
			t.Fatal(err)
		}
		d.start()
	default:
	}
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
