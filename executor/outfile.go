package executor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Files appear whole. A reader, or a build after a crash, must never find half of an output, so every file is written
// to a temporary name in its directory and renamed. The rename must not become durable before the content: after a
// crash the name could refer to an empty file. So the file is synced first. For outputs, renameJob syncs while other
// outputs are still prepared, so that the renames at the end have nothing to wait for. The temporary file is removed on
// every error. TestExportFailureLeavesOldOutputs shows it. stdout, pipes and devices have no rename: they are written
// at commit.

// writeWhole writes p by rename: readers see the old content or the new, never a part.
func writeWhole(p string, write func(io.Writer) error) error {
	f, err := pending(p)
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := writeBuffered(f, write); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// WriteFile writes an output of one file by rename. A pipe or a device, such as /dev/stdout, is written itself, and the
// target of a link is replaced.
func WriteFile(path string, raw []byte) error {
	write := func(w io.Writer) error { _, err := w.Write(raw); return err }
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return writeInPlace(path, write)
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return writeWhole(path, write)
}

// writeInPlace writes to a pipe or a device.
func writeInPlace(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(writeBuffered(f, write), f.Close())
}

// pending returns a temporary file in the directory of p, which replaces p and has its permissions.
func pending(p string) (*renameio.PendingFile, error) {
	return renameio.NewPendingFile(p, renameio.WithTempDir(filepath.Dir(p)), renameio.WithPermissions(0o644),
		renameio.WithExistingPermissions())
}

func writeBuffered(w io.Writer, write func(io.Writer) error) error {
	b := bufio.NewWriterSize(w, 256<<10)
	if err := write(b); err != nil {
		return err
	}
	return b.Flush()
}

// fileJob adds an output of one file. A regular file is prepared under a temporary name and renamed at commit; stdout,
// a pipe or a device is written at commit, and all that it reads is fetched before.
func (e *exporter) fileJob(
	name string, group []Built, o Output, write func(ctx context.Context, w io.Writer) error,
) error {
	dest, fetch := o.Dest, func(ctx context.Context) error { return fetchAll(ctx, group, o) }
	if dest == stdoutTarget {
		if e.opt.Stdout == nil {
			return errors.New("stdout is not available; add dest=FILE")
		}
		commit := func(ctx context.Context) error {
			return writeBuffered(e.opt.Stdout, func(w io.Writer) error { return write(ctx, w) })
		}
		e.jobs = append(e.jobs, &job{name: name, stage: stageFiles, prepare: fetch, commit: commit})
		return nil
	}
	fi, err := os.Stat(dest)
	if err == nil && !fi.Mode().IsRegular() {
		commit := func(ctx context.Context) error {
			return writeInPlace(dest, func(w io.Writer) error { return write(ctx, w) })
		}
		e.jobs = append(e.jobs, &job{name: name, stage: stageFiles, prepare: fetch, commit: commit})
		return nil
	}
	if real, err := filepath.EvalSymlinks(dest); err == nil {
		dest = real // the link stays, and its target is replaced
	}
	e.jobs = append(e.jobs, renameJob(name, dest, write))
	return nil
}

// fetchAll fetches what an output of a target reads.
func fetchAll(ctx context.Context, group []Built, o Output) error {
	for _, b := range group {
		if b.Fetch == nil {
			continue
		}
		if err := b.Fetch(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// renameJob returns the job of a regular file.
func renameJob(name, dest string, write func(ctx context.Context, w io.Writer) error) *job {
	var f *renameio.PendingFile
	return &job{
		name: name, stage: stageFiles,
		prepare: func(ctx context.Context) (err error) {
			if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
				return err
			}
			if f, err = pending(dest); err != nil {
				return err
			}
			if err := writeBuffered(f, func(w io.Writer) error { return write(ctx, w) }); err != nil {
				return fmt.Errorf("%s: %w", dest, err)
			}
			// Now, so that the rename at commit has nothing to wait for, and the files of many targets are not all
			// open.
			return errors.Join(f.Sync(), f.Close())
		},
		commit: func(context.Context) error {
			if err := os.Rename(f.Name(), dest); err != nil {
				return err
			}
			f = nil
			return nil
		},
		discard: func() {
			if f != nil {
				f.Close()
				os.Remove(f.Name())
			}
		},
	}
}
