package fetch

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/archiveutil"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

const (
	maxDownload = 4 << 30  // bytes of one file or archive
	maxUnpacked = 64 << 30 // bytes of an archive that are searched for the newest file
	stallLimit  = 30 * time.Second
)

// errOffline reports that a request would be needed.
var errOffline = errors.New("not in the cache, and --offline is set; run once without --offline")

// Content downloads a URL and returns the digest of its content. The error is an *Error.
func (f *Fetcher) Content(ctx context.Context, url string) (content digest.Digest, err error) {
	draft, err := f.Store.NewLayer()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, draft.Discard()) }()
	if content, _, err = f.download(ctx, url, filepath.Join(draft.FS, fileName(url))); err != nil {
		return "", &Error{redact(url), f.disk(err)}
	}
	return content, nil
}

// http downloads a file, and unpacks it if it is an archive. If r.Content is set, the content must have that digest,
// and http makes no request if the store has it. Like BuildKit, it looks at the first bytes, not at the name.
func (f *Fetcher) http(ctx context.Context, r planner.Remote, got *fetched) (err error) {
	name := fileName(r.URL)
	if r.Packed {
		name = planner.ContextFile
	}
	if found, err := f.known(r, name, got); found || err != nil {
		return err
	}
	download, err := f.Store.NewLayer()
	if err != nil {
		return err
	}
	file := filepath.Join(download.FS, name)
	content, modified, err := f.download(ctx, r.URL, file)
	if err == nil && r.Content != "" && content != r.Content {
		err = fmt.Errorf("digest mismatch: expected %s, got %s", r.Content, content)
	}
	var archive bool
	var s stored
	if err == nil {
		s = stored{name: redact(r.URL), time: modified}
		archive, s.newest, err = inspect(file)
	}
	if err == nil {
		err = setTime(file, modified, !modified.IsZero())
	}
	if err != nil {
		return errors.Join(err, download.Discard())
	}
	got.Time, got.Newest = s.time, s.newest
	if !archive || r.Packed {
		got.file, got.File = name, true
		got.Dir, err = f.keep(download, fileID(name, content), s)
		return err
	}
	defer func() { err = errors.Join(err, download.Discard()) }()
	draft, err := f.Store.NewLayer()
	if err != nil {
		return err
	}
	if err := unpack(ctx, download, draft, name); err != nil {
		return errors.Join(err, draft.Discard())
	}
	got.Dir, err = f.keep(draft, unpackedID(name, content), s)
	return err
}

// known looks in the store for the content that a request must give, and reports whether it is there.
func (f *Fetcher) known(r planner.Remote, name string, got *fetched) (bool, error) {
	if r.Content == "" {
		return false, nil
	}
	ids := map[bool]digest.Digest{true: fileID(name, r.Content), false: unpackedID(name, r.Content)}
	for single, id := range ids {
		if r.Packed && !single {
			continue
		}
		dir, s, err := f.stored(id)
		if err != nil {
			return false, err
		}
		if dir != "" {
			got.Dir, got.File, got.Time, got.Newest = dir, single, s.time, s.newest
			if single {
				got.file = name
			}
			return true, nil
		}
	}
	return false, nil
}

// unpackedID returns the id of the layer that holds the files of a downloaded archive.
func unpackedID(name string, content digest.Digest) digest.Digest {
	return digest.FromString("files of archive\x00" + name + "\x00" + content.String())
}

// fileID returns the id of the layer that holds only a downloaded file.
func fileID(name string, content digest.Digest) digest.Digest {
	return digest.FromString("downloaded file\x00" + name + "\x00" + content.String())
}

// inspect reports whether a file is an archive to BuildKit, and the time of the newest regular file in it; zero if
// there is none.
func inspect(path string) (archive bool, newest time.Time, err error) {
	file, err := os.Open(path)
	if err != nil {
		return false, newest, err
	}
	defer file.Close()
	header := make([]byte, 1024)
	n, err := io.ReadFull(file, header)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, newest, err
	}
	if !archiveutil.IsArchive(header[:n]) {
		return false, newest, nil
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return false, newest, err
	}
	return true, newestFile(file), nil
}

// newestFile returns the time of the newest regular file of an archive, as far as the archive can be read.
func newestFile(file io.Reader) (newest time.Time) {
	plain, err := fileop.Decompress(file)
	if err != nil {
		return newest
	}
	defer plain.Close()
	files := tar.NewReader(io.LimitReader(plain, maxUnpacked))
	for {
		h, err := files.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				newest = time.Time{}
			}
			return newest
		}
		if h.FileInfo().Mode().IsRegular() && h.ModTime.After(newest) {
			newest = h.ModTime.UTC()
		}
	}
}

// fileName returns the file name for a download.
func fileName(url string) string {
	name := path.Base(url)
	if name == "." || name == "/" || name == ".." {
		return "download"
	}
	return name
}

// unpack copies the file name from one draft to another. It unpacks an archive.
func unpack(ctx context.Context, from, to *cache.Draft, name string) error {
	files, err := tree.OpenLocal(ctx, from.FS, nil, nil)
	if err != nil {
		return err
	}
	action := &pb.FileActionCopy{
		Src: "/" + name, Dest: "/", Mode: -1, Timestamp: -1, CreateDestPath: true,
		AttemptUnpackDockerCompatibility: true,
	}
	op := &pb.FileOp{Actions: []*pb.FileAction{
		{Input: int64(pb.Empty), Action: &pb.FileAction_Copy{Copy: action}},
	}}
	_, err = fileop.Apply(ctx, fileop.Request{
		Op: op, Inputs: []tree.FS{files}, Parent: layerfs.NewView(nil), Upper: to.FS,
		UserXattr: idmap.InNamespace(),
	})
	return errors.Join(err, files.Close())
}

// download saves the content of a URL to the file to. modified is the server's Last-Modified, or zero. It fails after
// maxDownload bytes, and when it receives nothing for stallLimit.
func (f *Fetcher) download(ctx context.Context, url, to string) (
	content digest.Digest, modified time.Time, err error,
) {
	if f.Offline {
		return "", modified, errOffline
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("no data for %s", stallLimit)) })
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", modified, err
	}
	res, err := f.client().Do(req)
	if err != nil {
		return "", modified, errors.Join(context.Cause(ctx), err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", modified, fmt.Errorf("server responded %s", res.Status)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", modified, err
	}
	hash := digest.SHA256.Digester()
	body := io.TeeReader(io.LimitReader(res.Body, maxDownload+1), alive(func() { stall.Reset(stallLimit) }))
	n, err := io.Copy(io.MultiWriter(out, hash.Hash()), body)
	if err = errors.Join(err, out.Close()); err != nil {
		return "", modified, errors.Join(context.Cause(ctx), err)
	}
	if n > maxDownload {
		return "", modified, fmt.Errorf("larger than %d bytes", int64(maxDownload))
	}
	if at, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil {
		modified = at.UTC()
	}
	return hash.Digest(), modified, nil
}

func (f *Fetcher) client() *http.Client {
	switch {
	case f.Guard != nil:
		return &http.Client{Transport: f.Guard}
	case f.HTTP != nil:
		return f.HTTP
	}
	return http.DefaultClient
}

// alive is called for every write. It discards the bytes.
type alive func()

func (a alive) Write(p []byte) (int, error) { a(); return len(p), nil }
