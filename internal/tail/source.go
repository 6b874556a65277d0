package tail

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// source is one file of a log, which is being read.
type source struct {
	place
	file    *os.File
	info    os.FileInfo // as it was opened: for os.SameFile
	next    int64       // where reading goes on: past Offset by what is not stored yet
	scanned int64       // no line that begins at next ends before this
	written time.Time   // when it was last written to, as of the last look
	grown   time.Time   // when there was last something to read, or it was rotated
}

// openSource opens a file that has been read as far as p says.
func openSource(path string, p place, now time.Time) (*source, error) {
	file, info, err := openFile(path)
	if err != nil {
		return nil, err
	}
	if p.Inode == 0 {
		p.Inode = inode(info)
	}
	return &source{place: p, file: file, info: info, next: p.Offset, grown: now}, nil
}

// openFile opens a file and nothing else: a pipe would not let go of whoever opens it.
func openFile(path string) (*os.File, os.FileInfo, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "follow", Path: path, Err: errors.New("want a file, found " + kind(info.Mode()))}
	}
	if err != nil {
		return nil, nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	if info, err = file.Stat(); err != nil { // it may be another one by now
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

func kind(mode os.FileMode) string {
	if mode.IsDir() {
		return "a directory"
	}
	return "a pipe, a device or a socket"
}

// inode is the number of a file on its disk.
func inode(info os.FileInfo) uint64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return stat.Ino
}

// wasCut tells whether the file no longer has what was read of it, as happens
// when a log is rotated by a copy.
func (s *source) wasCut() (bool, error) {
	info, err := s.file.Stat()
	if err != nil || info.Size() < s.next {
		return err == nil, err
	}
	if s.Start == "" {
		return false, nil
	}
	begins, err := start(s.file)
	return err == nil && begins != s.Start, err
}

// look finds out when the file was last written to.
func (s *source) look() error {
	info, err := s.file.Stat()
	if err == nil {
		s.written = info.ModTime()
	}
	return err
}

// begin goes back to the beginning of a file that was cut.
func (s *source) begin() {
	s.Start, s.Offset, s.next, s.scanned = "", 0, 0, 0
}

// toEnd goes past everything that is there, up to the end of the last whole line.
func (s *source) toEnd(buffer []byte) error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	if s.Start, err = start(s.file); err != nil {
		return err
	}
	for end := info.Size(); end > 0; {
		from := max(end-int64(len(buffer)), 0)
		n, err := s.file.ReadAt(buffer[:end-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if i := bytes.LastIndexByte(buffer[:n], '\n'); i >= 0 {
			s.Offset = from + int64(i) + 1
			s.next = s.Offset
			return nil
		}
		end = from
	}
	return nil
}

// text is one line of a source.
type text struct {
	at   int64
	line []byte // until the next read, without its end; of one that is too long, its beginning
	long bool
}

// read calls take for each whole line until that says no, or there are no more.
// The last line of a file to which nobody will write may lack its end.
func (s *source) read(buffer []byte, ended bool, take func(text) bool) error {
	for {
		n, err := s.file.ReadAt(buffer, s.next)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if s.Start == "" && n > 0 {
			if s.Start, err = start(s.file); err != nil {
				return err
			}
		}
		chunk, whole := buffer[:n], false
		for {
			end := bytes.IndexByte(chunk, '\n')
			if end < 0 {
				break
			}
			t := text{at: s.next, line: chunk[:end]}
			s.next += int64(end) + 1
			chunk, whole = chunk[end+1:], true
			if !take(t) {
				return nil
			}
		}
		switch {
		case len(chunk) == len(buffer):
			if more, err := s.readLong(buffer, ended, take); err != nil || !more {
				return err
			}
		case n == len(buffer): // there may be more
		case ended && len(chunk) > 0:
			t := text{at: s.next, line: chunk}
			s.next += int64(len(chunk))
			take(t)
			return nil
		case !whole || n < len(buffer):
			return nil
		}
	}
}

// readLong passes over a line that does not fit into the buffer, and tells
// whether it has an end. The buffer holds its beginning.
func (s *source) readLong(buffer []byte, ended bool, take func(text) bool) (bool, error) {
	t := text{at: s.next, line: bytes.Clone(buffer[:startSize]), long: true}
	s.scanned = max(s.scanned, s.next+int64(len(buffer)))
	for {
		n, err := s.file.ReadAt(buffer, s.scanned)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		end := bytes.IndexByte(buffer[:n], '\n')
		switch {
		case end >= 0:
			s.next = s.scanned + int64(end) + 1
			return take(t), nil
		case n == 0 && ended:
			s.next = s.scanned
			return take(t), nil
		case n == 0:
			return false, nil
		}
		s.scanned += int64(n)
	}
}
