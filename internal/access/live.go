package access

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// maxFile bounds what is read of a file: some 80,000 tokens.
const maxFile = 8 << 20

// file is one that a flag names.
type file struct{ flag, path string }

// live is what files say, as of the last time that they were right.
type live[T any] struct {
	files []file
	parse func(texts [][]byte) (T, error)
	seen  digest // of what was found at the last look, right or wrong
	value atomic.Pointer[T]
}

// look reads the files, and tells whether they are others than at the last
// look. Contents are compared, not times: those may stand still, be set back or
// belong to what a link pointed to before. If the files are wrong what they
// said before stays, and the error tells of it once.
func (l *live[T]) look() (changed bool, err error) {
	texts := make([][]byte, len(l.files))
	sum := sha256.New()
	for i, f := range l.files {
		var fault error
		if texts[i], fault = read(f.path); fault != nil && err == nil {
			err = fmt.Errorf("%s: %w", f.flag, fault)
		}
		fmt.Fprintf(sum, "%d %v ", len(texts[i]), fault)
		sum.Write(texts[i])
	}
	found := digest(sum.Sum(nil))
	if found == l.seen {
		return false, nil
	}
	l.seen = found
	if err != nil {
		return true, err
	}
	value, err := l.parse(texts)
	if err != nil {
		return true, err
	}
	l.value.Store(&value)
	return true, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: want at most %d bytes", path, maxFile)
	}
	return text, err
}
