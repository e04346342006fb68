package fetch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/planner"
)

// stored is what the store knows of a layer besides its files.
type stored struct {
	name         string
	time, newest time.Time // see planner.Fetched
}

// Names of the recorded times.
const (
	timeName   = "time"
	newestName = "newest file"
)

// keep commits a draft to the store, with an entry that keeps it, and returns the layer's directory.
func (f *Fetcher) keep(draft *cache.Draft, id digest.Digest, s stored) (string, error) {
	meta, err := cache.MeasureLayer(draft.FS)
	if err == nil {
		err = draft.Commit(id, meta)
	} else {
		err = errors.Join(err, draft.Discard())
	}
	if err != nil {
		return "", err
	}
	entry := &cache.Entry{ID: id, Key: id, Name: s.name, Outputs: []cache.Output{{Parts: []cache.Part{{Layer: id}}}}}
	for name, t := range map[string]time.Time{timeName: s.time, newestName: s.newest} {
		if !t.IsZero() {
			entry.Lookups = append(entry.Lookups, cache.Lookup{Path: name, Answer: strconv.FormatInt(t.Unix(), 10)})
		}
	}
	if err := f.Store.Put(entry); err != nil {
		return "", err
	}
	dir, ok := f.Store.LayerDir(id)
	if !ok {
		return "", f.Store.MissingLayer(id)
	}
	return dir, nil
}

// stored returns the directory of a layer, or "" if the store does not have it, and what is known of it.
func (f *Fetcher) stored(id digest.Digest) (dir string, s stored, err error) {
	e, err := f.Store.Lookup(id)
	if err != nil || e == nil {
		return "", s, err
	}
	s.name = e.Name
	for _, l := range e.Lookups {
		seconds, err := strconv.ParseInt(l.Answer, 10, 64)
		switch {
		case err != nil:
		case l.Path == timeName:
			s.time = time.Unix(seconds, 0).UTC()
		case l.Path == newestName:
			s.newest = time.Unix(seconds, 0).UTC()
		}
	}
	dir, ok := f.Store.LayerDir(id)
	if !ok {
		return "", s, nil
	}
	return dir, s, nil
}

// asContext returns a directory with a file as planner.ContextFile.
func (f *Fetcher) asContext(path string, at time.Time) (dir string, err error) {
	from, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer from.Close()
	draft, err := f.Store.NewLayer()
	if err != nil {
		return "", err
	}
	hash := digest.SHA256.Digester()
	to, err := os.OpenFile(filepath.Join(draft.FS, planner.ContextFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = io.Copy(io.MultiWriter(to, hash.Hash()), from)
		err = errors.Join(err, to.Close())
	}
	if err == nil {
		err = setTime(to.Name(), at, !at.IsZero())
	}
	if err != nil {
		return "", errors.Join(err, draft.Discard())
	}
	return f.keep(draft, fileID(planner.ContextFile, hash.Digest()), stored{name: fmt.Sprint("file ", hash.Digest())})
}
