package tail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// candidate is a file that bears the log's name, or one that rotation gives.
type candidate struct {
	path       string
	info       os.FileInfo
	start      string // see place; empty also of a compressed one
	compressed bool
	denied     bool // may not be read
}

// rotated lists the files beside the log that rotation may have made of it, the
// oldest first.
func (f *files) rotated() ([]candidate, error) {
	dir, base := filepath.Split(f.path)
	entries, err := os.ReadDir(filepath.Clean(dir + "."))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []candidate
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !rotatedName(base, entry.Name()) {
			continue
		}
		c, err := look(dir + entry.Name())
		if errors.Is(err, os.ErrPermission) {
			c = candidate{path: dir + entry.Name(), denied: true} // most are from before, and not wanted
			c.info, err = os.Stat(c.path)
		}
		if errors.Is(err, os.ErrNotExist) {
			continue // rotated further in this moment
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	f.denied = slices.DeleteFunc(f.denied, func(info os.FileInfo) bool { // that is gone
		return !slices.ContainsFunc(all, func(c candidate) bool { return os.SameFile(c.info, info) })
	})
	slices.SortStableFunc(all, func(a, b candidate) int { return a.info.ModTime().Compare(b.info.ModTime()) })
	return all, nil
}

// rotatedName tells whether a name is the log's with a number or a date, as in
// access.log.1, access.log-20261124 or access-2026-11-24.log, compressed or not.
func rotatedName(base, name string) bool {
	stem, ext, _ := strings.Cut(base, ".")
	rest, ok := strings.CutPrefix(name, base)
	if !ok {
		if rest, ok = strings.CutPrefix(name, stem); ok && ext != "" {
			rest, ok = strings.CutSuffix(rest, "."+ext)
		}
	}
	if isCompressed(rest) {
		rest = strings.TrimSuffix(rest, filepath.Ext(rest))
	}
	return ok && len(rest) > 1 && strings.Trim(rest, "0123456789.-_") == "" && strings.Trim(rest, ".-_") != ""
}

func isCompressed(name string) bool {
	switch filepath.Ext(name) {
	case ".gz", ".bz2", ".xz", ".zst":
		return true
	}
	return false
}

// look tells what is at a path.
func look(path string) (candidate, error) {
	if isCompressed(path) {
		info, err := os.Stat(path)
		return candidate{path: path, info: info, compressed: true}, err
	}
	file, info, err := openFile(path)
	if err != nil {
		return candidate{}, err
	}
	begins, err := start(file)
	return candidate{path: path, info: info, start: begins}, errors.Join(err, file.Close())
}

// isOf tells whether a compressed file may have been made of one that was last
// written to at a time, which it keeps.
func (c *candidate) isOf(written time.Time) bool {
	return c.compressed && c.info.ModTime().Unix() == written.Unix()
}

// open begins with a log that was not followed before. What is written to it from
// now on is read; all of it, if that is asked for or there is none yet.
func (f *files) open(fromStart bool, now time.Time) error {
	before, err := f.rotated()
	if err != nil {
		return err
	}
	if n := len(before); n > 0 {
		f.changed = before[n-1].info.ModTime()
	}
	s, err := openSource(f.path, place{}, now)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.sources, f.own = []*source{s}, s
	if fromStart {
		return nil
	}
	return s.toEnd(f.buffer)
}

// resume goes on where a state says. Files are known again by what they begin
// with: they may have been renamed since, or copied and cut.
func (f *files) resume(s state, now time.Time) error {
	f.changed = s.Changed
	all, err := f.rotated()
	if err != nil {
		return err
	}
	own, err := look(f.path)
	if err := ignoreMissing(err); err != nil {
		return err
	}
	if own.info != nil {
		all = append(all, own)
	}
	found := make([]*place, len(all)) // of each candidate
	for _, same := range []func(place, candidate) bool{
		func(p place, c candidate) bool { return p.Start == c.start && p.Inode == inode(c.info) },
		func(p place, c candidate) bool { return p.Start == c.start },
	} {
		for i := range s.Files {
			p := &s.Files[i]
			if p.Start == "" || slices.Contains(found, p) {
				continue
			}
			for at, c := range all {
				if found[at] == nil && same(*p, c) {
					found[at] = p
					break
				}
			}
		}
	}
	if n := len(s.Files); n > 0 {
		last := &s.Files[n-1]
		isThere := slices.Contains(found, last) || slices.ContainsFunc(all, func(c candidate) bool {
			return c.isOf(s.Changed) || c.denied && inode(c.info) == last.Inode // of which missed speaks
		})
		if last.Start != "" && !isThere {
			f.warn("the file that was followed is gone, with what was not read of it")
		}
	}
	for i, c := range all {
		isOwn := own.info != nil && i == len(all)-1
		var err error
		switch p := found[i]; {
		case isOwn && p != nil:
			err = f.follow(c, *p, now)
		case isOwn:
			err = f.follow(c, place{}, now)
		case p != nil:
			err = f.finish(c, *p, now)
		default:
			err = f.missed(c, now)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// follow goes on with the file that bears the log's name.
func (f *files) follow(c candidate, p place, now time.Time) error {
	if err := f.finish(c, p, now); err != nil {
		return err
	}
	if n := len(f.sources); n > 0 && os.SameFile(f.sources[n-1].info, c.info) {
		f.own = f.sources[n-1]
	}
	return nil
}

// finish reads what is left of a file.
func (f *files) finish(c candidate, p place, now time.Time) error {
	s, err := openSource(c.path, p, now)
	if err != nil {
		return ignoreMissing(err) // renamed since: found at the next look
	}
	f.sources = append(f.sources, s)
	return nil
}

// missed reads all of a file that was made and rotated while nobody looked.
func (f *files) missed(c candidate, now time.Time) error {
	if !c.info.ModTime().After(f.changed) {
		return nil // from before the log was followed
	}
	if c.compressed {
		f.warn(c.path + " was compressed before it was read")
		return nil
	}
	if c.denied {
		if !slices.ContainsFunc(f.denied, func(info os.FileInfo) bool { return os.SameFile(info, c.info) }) {
			f.denied = append(f.denied, c.info)
			f.warn(c.path + " may not be read")
		}
		return nil
	}
	if len(f.sources) >= maxSources {
		f.warn(fmt.Sprintf("%s is not read: want at most %d files at once", c.path, maxSources))
		return nil
	}
	return f.finish(c, place{}, now)
}

// missedOf reads those that nobody has looked at, before the log's own.
func (f *files) missedOf(all []candidate, now time.Time) error {
	for _, c := range all {
		if f.knows(c) {
			continue
		}
		if err := f.missed(c, now); err != nil {
			return err
		}
	}
	if own := slices.Index(f.sources, f.own); own >= 0 {
		f.sources = append(slices.Delete(f.sources, own, own+1), f.own)
	}
	return nil
}

// knows tells whether a file is being read, or was.
func (f *files) knows(c candidate) bool {
	return slices.ContainsFunc(f.sources, func(s *source) bool {
		return os.SameFile(s.info, c.info) || s.Start != "" && s.Start == c.start || c.isOf(s.written)
	}) || slices.ContainsFunc(f.read, func(p place) bool { return p.Start != "" && p.Start == c.start })
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
