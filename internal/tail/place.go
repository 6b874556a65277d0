package tail

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

const (
	// startSize is how much of a file's first line tells it from another, in
	// bytes: a log's first line has a time and an address.
	startSize = 512
	// maxState bounds a state file, in bytes: one of ours has about two thousand.
	maxState = 1 << 20
	// maxRead bounds the files that are remembered as read.
	maxRead = 8
)

// place is how far one file has been read.
type place struct {
	Inode  uint64 `json:"inode"`
	Start  string `json:"start"`  // hash of how its first line begins, as inodes are used again; empty while it has none
	Offset int64  `json:"offset"` // where the first line begins that is not stored, bytes
}

// id returns the id of a line: the same whenever it is read, and from whatever copy,
// so that a line that is read again counts once. Who reads which log is a part of it:
// the logs of two servers may begin with the same line, as when a third one looks
// whether they are well.
func (p *place) id(gateway, log string, t text) string {
	begins := p.Start
	if begins == "" { // the file has this line alone, which will have no end
		begins = string(t.line)
	}
	sum := sha256.Sum256([]byte(gateway + "\x00" + log + "\x00" + begins))
	return "tail-" + hex.EncodeToString(sum[:10]) + "-" + strconv.FormatInt(t.at, 10)
}

// state is what a start knows of the one before.
type state struct {
	Files   []place   `json:"files"`   // the oldest first; the last is the log's own
	Changed time.Time `json:"changed"` // when the newest line was written that was read; what was changed later has something to read
}

// load reads a state file; there may be none.
func load(path string) (s state, ok bool, err error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, false, nil
	}
	if err != nil {
		return s, false, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	text, err := io.ReadAll(io.LimitReader(file, maxState))
	if err != nil {
		return s, false, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, false, fmt.Errorf("%s does not say how far the log was read: %w (remove it to begin at the log's end, or with --from-start at its beginning)", path, err)
	}
	return s, true, nil
}

// save writes a state file, which is there only when it is whole.
func (s *state) save(path string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// start hashes how a file begins; empty while its first line has no end.
func start(file io.ReaderAt) (string, error) {
	first := make([]byte, startSize)
	n, err := file.ReadAt(first, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if end := bytes.IndexByte(first[:n], '\n'); end >= 0 {
		n = end + 1
	} else if n < startSize {
		return "", nil
	}
	sum := sha256.Sum256(first[:n])
	return hex.EncodeToString(sum[:8]), nil
}
