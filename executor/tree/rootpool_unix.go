//go:build unix

package tree

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// maxIdleRoots is how many directories of build contexts stay open without being read.
const maxIdleRoots = 32

// RootPool bounds how many directories of the contexts of a build are open. A project may have thousands of contexts,
// and each lives as long as the build. So the pool closes the least recently used directories, and opens one again when
// it is read. If another directory has its path by then, the context has changed (ErrChanged), and it is read again as
// a whole.
type RootPool struct {
	mu   sync.Mutex
	idle []*diskRoot // open and not in use, the least recently used first
}

// share lets a pool close the directory while it is not in use.
func (r *diskRoot) share(p *RootPool) {
	r.pool = p
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep(r)
}

// use calls f with the open directory.
func (r *diskRoot) use(f func(root *os.File) error) error {
	if r.pool == nil {
		return f(r.file)
	}
	root, err := r.pool.acquire(r)
	if err != nil {
		return err
	}
	defer r.pool.release(r)
	return f(root)
}

func (p *RootPool) acquire(r *diskRoot) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.file == nil {
		f, err := r.reopen()
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("the directory of the build context: %w", ErrChanged)
		}
		if err != nil {
			return nil, err
		}
		if id, err := idOf(f); err != nil || id != r.id {
			return nil, errors.Join(err, f.Close(), fmt.Errorf("the directory of the build context: %w", ErrChanged))
		}
		r.file = f
	} else if r.users == 0 {
		p.forget(r)
	}
	r.users++
	return r.file, nil
}

func (p *RootPool) release(r *diskRoot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.users--; r.users == 0 {
		p.keep(r)
	}
}

// keep adds a directory to idle, and closes the one that was not used for longest. The caller holds mu.
func (p *RootPool) keep(r *diskRoot) {
	if p.idle = append(p.idle, r); len(p.idle) > maxIdleRoots {
		p.idle[0].file.Close() // it was only used to open others
		p.idle[0].file = nil
		p.idle = slices.Delete(p.idle, 0, 1)
	}
}

// forget removes a directory from idle. The caller holds mu.
func (p *RootPool) forget(r *diskRoot) {
	if i := slices.Index(p.idle, r); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
}

// close closes the directory, which must not be in use.
func (r *diskRoot) close() error {
	if r.pool != nil {
		r.pool.mu.Lock()
		defer r.pool.mu.Unlock()
		r.pool.forget(r)
	}
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
