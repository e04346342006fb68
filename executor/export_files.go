package executor

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/containerd/platforms"

	"github.com/bakebuild/bake/executor/attest"
)

// platformFolder returns the folder of one of several platforms, such as linux_arm64.
func platformFolder(b Built) string {
	return strings.ReplaceAll(platforms.FormatAll(b.Image.Platform), "/", "_")
}

// folder returns the folder of a platform, or "" if its files are not in a separate one.
func (o Output) folder(group []Built, b Built) string {
	split := len(group) > 1 || b.Image.MultiPlatform
	if o.Split != nil {
		split = *o.Split
	}
	if split {
		return platformFolder(b)
	}
	return ""
}

// tarFiles writes the merged file system of each platform into one tar.
func (e *exporter) tarFiles(group []Built, o Output) error {
	name := group[0].Image.Target + ": write files to tar"
	return e.fileJob(name, group, o, func(ctx context.Context, w io.Writer) error {
		if len(group) == 1 && o.folder(group, group[0]) == "" && !attest.Requested(group[0].Image) {
			return group[0].Files(ctx, o.Encoding, w)
		}
		tw, seen := tar.NewWriter(w), newSeenFiles(group)
		for _, b := range group {
			folder := o.folder(group, b)
			err := e.files(ctx, group, b, o, func(h *tar.Header, r io.Reader) error {
				if err := seen.add(folder, h); err != nil {
					return err
				}
				return writeBelow(tw, folder, h, r)
			})
			if err != nil {
				return err
			}
		}
		return tw.Close()
	})
}

// writeBelow copies a tar entry to a path below folder.
func writeBelow(tw *tar.Writer, folder string, h *tar.Header, r io.Reader) error {
	slash := strings.HasSuffix(h.Name, "/")
	if h.Name = path.Join(folder, h.Name); slash {
		h.Name += "/"
	}
	if h.Typeflag == tar.TypeLink {
		h.Linkname = path.Join(folder, h.Linkname)
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(tw, r)
	return err
}

// files calls add with each entry of a platform's merged file system, then with its attestations.
func (e *exporter) files(
	ctx context.Context, group []Built, b Built, o Output, add func(*tar.Header, io.Reader) error,
) error {
	if !attest.Requested(b.Image) {
		return readFiles(ctx, b, o.Encoding, add)
	}
	subjects := attest.NewFileSubjects()
	err := readFiles(ctx, b, o.Encoding, func(h *tar.Header, r io.Reader) error { return subjects.Add(h, r, add) })
	if err != nil {
		return err
	}
	opt := attest.FileOptions{Prefix: o.AttestationPrefix, Time: e.created(b, o)}
	if several := len(group) > 1 || b.Image.MultiPlatform; several && o.folder(group, b) == "" {
		opt.Suffix = platformFolder(b) // all platforms share one folder
	}
	return e.attester.AddFiles(ctx, b.source(), subjects, opt, add)
}

// created returns the creation time of an image.
func (e *exporter) created(b Built, o Output) time.Time {
	if b.Image.Epoch != nil {
		return o.Encoding.EpochOr(*b.Image.Epoch)
	}
	return o.Encoding.EpochOr(e.opt.Epoch)
}

// readFiles calls f with each entry of b's merged file system.
func readFiles(ctx context.Context, b Built, enc LayerEncoding, f func(*tar.Header, io.Reader) error) error {
	if b.Files == nil {
		return errors.New("this engine does not provide files")
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(b.Files(ctx, enc, w))
	}()
	err := func() error {
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if err == io.EOF {
				_, err = io.Copy(io.Discard, r) // the writer may fail after the end of the tar
				return err
			}
			if err != nil {
				return err
			}
			if err := f(h, tr); err != nil {
				return err
			}
		}
	}()
	r.CloseWithError(err)
	<-done
	return err
}

// localFiles writes files below a directory: into a hidden folder of it first, then each into place by rename.
func (e *exporter) localFiles(group []Built, o Output) {
	s := &staging{dest: o.Dest, written: e.opt.Written}
	e.jobs = append(e.jobs, &job{
		name: group[0].Image.Target + ": write files", stage: stageFiles,
		prepare: func(ctx context.Context) (err error) {
			if err := s.open(); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			seen := newSeenFiles(group)
			for _, b := range group {
				folder := o.folder(group, b)
				if err := s.folder(folder); err != nil {
					return err
				}
				err := e.files(ctx, group, b, o, func(h *tar.Header, r io.Reader) error {
					if err := seen.add(folder, h); err != nil {
						return err
					}
					return s.add(folder, h, r)
				})
				if err != nil {
					return err
				}
			}
			return s.check()
		},
		commit:  s.commit,
		discard: s.discard,
	})
}

// seenFiles are the files of an output without a folder for each platform. Two platforms must not have one file, as in
// BuildKit: one of them would be lost.
type seenFiles map[string]bool

func newSeenFiles(group []Built) seenFiles {
	if len(group) == 1 {
		return nil
	}
	return seenFiles{}
}

func (s seenFiles) add(folder string, h *tar.Header) error {
	if s == nil || folder != "" || h.Typeflag == tar.TypeDir {
		return nil
	}
	name := path.Clean(h.Name)
	if s[name] {
		return fmt.Errorf("two platforms have the file %s; remove platform-split=false", name)
	}
	s[name] = true
	return nil
}
