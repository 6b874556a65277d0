package tail

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

const (
	// keep is how long a file is read to the end that is no longer the log's own: a
	// web server writes to it until all of its processes have opened the new one.
	keep = time.Minute
	// maxSources bounds the files that are open at once. More can only be there
	// after a long pause.
	maxSources = 64
)

// files is a log: the file that bears its name, and those that did before and may
// have something to read.
type files struct {
	path    string
	sources []*source // the oldest first
	own     *source   // the last of them, while it is the one of that name
	read    []place   // of files that are read to their end; at most maxRead
	changed time.Time // see state
	buffer  []byte
	denied  []os.FileInfo // files with lines that are lost, as they may not be read; of those that are there
	warn    func(string)  // is told what is lost
}

// turn looks whether the log has been rotated.
func (f *files) turn(now time.Time) error {
	info, err := os.Stat(f.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && f.own != nil && os.SameFile(info, f.own.info) {
		return nil
	}
	if err != nil {
		return err
	}
	own, err := look(f.path)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, s := range f.sources { // what is compressed at once is known by that
		if err := s.look(); err != nil {
			return err
		}
	}
	all, err := f.rotated()
	if err != nil {
		return err
	}
	if err := f.missedOf(all, now); err != nil {
		return err
	}
	if f.own != nil {
		f.own.grown, f.own = now, nil // whoever writes to it may go on for a while
	}
	return f.follow(own, place{}, now)
}

// recover begins a file anew that was cut, after what its copy still has.
func (f *files) recover(s *source, now time.Time) error {
	all, err := f.rotated()
	if err != nil {
		return err
	}
	old := s.place
	at := slices.IndexFunc(all, func(c candidate) bool {
		return old.Start != "" && c.start == old.Start && c.info.Size() >= old.Offset && !os.SameFile(c.info, s.info)
	})
	switch {
	case at >= 0:
		err = f.finish(all[at], old, now)
	case s == f.own:
		f.warn("the log was cut, and there is no copy of what was not read of it")
	default: // not as logs are rotated: what is in it now may be the copy of another
		f.warn("a rotated file was overwritten, with what was not read of it")
		return f.leave(s)
	}
	if err != nil {
		return err
	}
	s.begin()
	return f.missedOf(all, now) // it may have been cut more than once
}

// collect calls take for each line that is there, until that says no.
func (f *files) collect(now time.Time, take func(*source, text) bool) error {
	if err := f.turn(now); err != nil {
		return err
	}
	more := true
	for _, s := range slices.Clone(f.sources) {
		if !more {
			break
		}
		cut, err := s.wasCut()
		if err != nil {
			return err
		}
		if cut {
			if err := f.recover(s, now); err != nil {
				return err
			}
			return f.collect(now, take)
		}
		before := s.written
		if err := s.look(); err != nil {
			return err
		}
		if s == f.own && s.Start == "" && !before.IsZero() && !before.Equal(s.written) {
			// It was written to while it was empty, and may have been cut since: nothing
			// else would tell.
			all, err := f.rotated()
			if err != nil {
				return err
			}
			if err := f.missedOf(all, now); err != nil {
				return err
			}
		}
		ended := s != f.own && (now.Sub(s.grown) > keep || len(f.sources) > maxSources)
		from := s.next
		err = s.read(f.buffer, ended, func(t text) bool {
			more = take(s, t)
			return more
		})
		if err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		switch {
		case s.next > from:
			s.grown = now
		case ended && s.next == s.Offset:
			if err := f.leave(s); err != nil {
				return err
			}
		}
		if more && s.written.After(f.changed) {
			f.changed = s.written
		}
	}
	return nil
}

// leave closes a file that is read to its end.
func (f *files) leave(s *source) error {
	f.retire(s.place)
	f.sources = slices.DeleteFunc(f.sources, func(one *source) bool { return one == s })
	return s.file.Close()
}

func (f *files) retire(p place) {
	f.read = append(f.read, p)
	f.read = f.read[max(len(f.read)-maxRead, 0):]
}

// stored says that all lines that were taken are stored.
func (f *files) stored() {
	for _, s := range f.sources {
		s.Offset = s.next
	}
}

// state is what a later start is to know.
func (f *files) state() state {
	s := state{Changed: f.changed, Files: slices.Clone(f.read)}
	for _, one := range f.sources {
		s.Files = append(s.Files, one.place)
	}
	return s
}

// behind is how much there is to read, in bytes.
func (f *files) behind() (n int64) {
	for _, s := range f.sources {
		if info, err := s.file.Stat(); err == nil {
			n += max(info.Size()-s.Offset, 0)
		}
	}
	return n
}

func (f *files) close() error {
	var faults []error
	for _, s := range f.sources {
		faults = append(faults, s.file.Close())
	}
	return errors.Join(faults...)
}
