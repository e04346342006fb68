package executor

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/containerd/platforms"
)

// platformFolder is where one of several platforms goes: linux_arm64.
func platformFolder(b Built) string {
	return strings.ReplaceAll(platforms.FormatAll(b.Image.Platform), "/", "_")
}

func (o Output) folder(group []Built, b Built) string {
	if o.Split && (len(group) > 1 || b.Image.MultiPlatform) {
		return platformFolder(b)
	}
	return ""
}

// tarFiles writes the merged file system of each platform into one tar.
func (e *exporter) tarFiles(group []Built, o Output) error {
	name := group[0].Image.Target + ": write files to tar"
	return e.fileJob(name, o.Dest, func(ctx context.Context, w io.Writer) error {
		if len(group) == 1 && o.folder(group, group[0]) == "" && !attests(group[0].Image) {
			return group[0].Files(ctx, o.Form, w)
		}
		tw := tar.NewWriter(w)
		for _, b := range group {
			err := e.files(ctx, group, b, o, func(h *tar.Header, r io.Reader) error { return prefixed(tw, o.folder(group, b), h, r) })
			if err != nil {
				return err
			}
		}
		return tw.Close()
	})
}

func prefixed(tw *tar.Writer, folder string, h *tar.Header, r io.Reader) error {
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

// readFiles calls f with each entry of b's merged file system.
func readFiles(ctx context.Context, b Built, form LayerForm, f func(*tar.Header, io.Reader) error) error {
	if b.Files == nil {
		return errors.New("this engine gives no files")
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(b.Files(ctx, form, w))
	}()
	err := func() error {
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if err == io.EOF {
				_, err = io.Copy(io.Discard, r) // an error of the writer may follow the tar's end
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

// localFiles writes files below a directory. They are staged in a hidden folder of it, then each is renamed into place.
func (e *exporter) localFiles(group []Built, o Output) {
	s := &staging{dest: o.Dest}
	e.jobs = append(e.jobs, &job{
		name: group[0].Image.Target + ": write files", stage: stageFiles,
		prepare: func(ctx context.Context) error {
			if err := s.open(); err != nil {
				return err
			}
			for _, b := range group {
				folder := o.folder(group, b)
				if err := s.folder(folder); err != nil {
					return err
				}
				err := e.files(ctx, group, b, o, func(h *tar.Header, r io.Reader) error { return s.add(folder, h, r) })
				if err != nil {
					return err
				}
			}
			return nil
		},
		commit:  s.commit,
		discard: s.discard,
	})
}
