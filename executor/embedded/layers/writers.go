package layers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	writerCount = 4
	queued      = 16       // small files that can wait for a writer
	smallFile   = 1 << 20  // bytes; larger files are written as they are read
	hole        = 64 << 10 // bytes; zero blocks of this size become holes
)

// fileJob is one regular file to create. done is closed when the file is complete or has failed.
type fileJob struct {
	disk *disk
	dir  *dirRef
	node *node // its names are read only: other goroutines change the tree
	ino  *inode
	data []byte
	done chan struct{}
}

// writers creates small files concurrently, while the next entries are read. It buffers at most
// (queued + writerCount) * smallFile bytes.
type writers struct {
	ctx   context.Context
	jobs  chan *fileJob
	group sync.WaitGroup // goroutines
	busy  sync.WaitGroup // jobs
	once  sync.Once
	pools [8]sync.Pool // buffers of 8 KiB << index

	mu  sync.Mutex
	err error
}

func newWriters(ctx context.Context) *writers {
	w := &writers{ctx: ctx, jobs: make(chan *fileJob, queued)}
	for range writerCount {
		w.group.Go(w.run)
	}
	return w
}

func (w *writers) run() {
	for j := range w.jobs {
		if w.failed() == nil {
			w.fail(j.write(bytes.NewReader(j.data), j.data))
		}
		w.recycle(j.data)
		j.data = nil
		j.finish()
		w.busy.Done()
	}
}

func (j *fileJob) finish() {
	j.dir.release()
	close(j.done)
}

// file creates a file with the next ino.size bytes of r. It may return the error of an earlier file.
func (w *writers) file(j *fileJob, r io.Reader) error {
	if err := w.failed(); err != nil {
		j.finish()
		return err
	}
	if j.ino.size > smallFile {
		defer j.finish()
		return j.write(r, nil)
	}
	j.data = w.buffer(int(j.ino.size))
	if _, err := io.ReadFull(r, j.data); err != nil {
		j.finish()
		return noEOF(err)
	}
	j.ino.pending = j
	w.busy.Add(1)
	w.jobs <- j
	return nil
}

// noEOF replaces io.EOF, which would look like the end of the tar.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (w *writers) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		return w.ctx.Err()
	}
	return w.err
}

func (w *writers) fail(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// idle waits until all queued files are written.
func (w *writers) idle() { w.busy.Wait() }

// wait stops the writers when the queue is empty, and returns the first error.
func (w *writers) wait() error {
	w.once.Do(func() { close(w.jobs) })
	w.group.Wait()
	return w.failed()
}

func (w *writers) buffer(n int) []byte {
	class := sizeClass(n)
	if b, ok := w.pools[class].Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, 8<<10<<class)
}

func (w *writers) recycle(b []byte) {
	if cap(b) > 0 {
		w.pools[sizeClass(cap(b))].Put(&b)
	}
}

func sizeClass(n int) int {
	if n <= 8<<10 {
		return 0
	}
	return bits.Len(uint(n-1)) - 13
}

const createFlags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC

// write creates the file. Its content is whole if that is set, and is read from r otherwise.
func (j *fileJob) write(r io.Reader, whole []byte) error {
	fd, err := unix.Openat(j.dir.fd, j.node.name, createFlags, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: j.node.name, Err: err}
	}
	f := os.NewFile(uintptr(fd), j.node.name)
	if whole != nil || j.ino.size == 0 {
		_, err = f.Write(whole)
	} else {
		err = copySparse(f, r, j.ino.size)
	}
	if err == nil {
		if err = j.attributes(fd); err != nil {
			err = fmt.Errorf("%.200s: %w", j.node.path(), err)
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func (j *fileJob) attributes(fd int) error {
	d, ino := j.disk, j.ino
	if err := d.chown(ino, func() error { return unix.Fchown(fd, int(ino.uid), int(ino.gid)) }); err != nil {
		return err
	}
	if err := d.xattrs(fd, ino, func(k string, v []byte) error { return unix.Fsetxattr(fd, k, v, 0) }); err != nil {
		return err
	}
	if ino.mode&0o7777 != 0o600 {
		if err := unix.Fchmod(fd, ino.mode&0o7777); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	ts := timespec(ino.mtime)
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(j.dir.fd, j.node.name, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// copySparse copies size bytes from r and leaves a hole for each aligned block of hole zero bytes. The final Truncate
// is needed, since a hole at the end would leave the file too short.
func copySparse(f *os.File, r io.Reader, size int64) error {
	buf := make([]byte, min(size, 4*hole))
	zeros := make([]byte, hole)
	for at := int64(0); at < size; {
		b := buf[:min(int64(len(buf)), size-at)]
		if _, err := io.ReadFull(r, b); err != nil {
			return noEOF(err)
		}
		for len(b) > 0 {
			part := b[:min(hole, len(b))]
			if !bytes.Equal(part, zeros[:len(part)]) {
				if _, err := f.WriteAt(part, at); err != nil {
					return err
				}
			}
			at += int64(len(part))
			b = b[len(part):]
		}
	}
	return f.Truncate(size)
}
