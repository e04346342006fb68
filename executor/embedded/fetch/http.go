package fetch

import (
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
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

const (
	maxDownload = 4 << 30 // bytes of one file or archive
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
	if content, err = f.download(ctx, url, filepath.Join(draft.FS, fileName(url))); err != nil {
		return "", &Error{redact(url), f.disk(err)}
	}
	return content, nil
}

// http downloads a file, and unpacks it if it is an archive. If want is set, the content must have that digest, and
// http makes no request if the store has it.
func (f *Fetcher) http(ctx context.Context, url string, want digest.Digest) (dir, file string, err error) {
	name := fileName(url)
	if want != "" {
		if dir, ok := f.Store.LayerDir(unpackedID(name, want)); ok {
			file, err := onlyFile(dir, name)
			return dir, file, err
		}
	}
	download, err := f.Store.NewLayer()
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, download.Discard()) }()
	content, err := f.download(ctx, url, filepath.Join(download.FS, name))
	if err != nil {
		return "", "", err
	}
	if want != "" && content != want {
		return "", "", fmt.Errorf("digest mismatch: expected %s, got %s", want, content)
	}
	draft, err := f.Store.NewLayer()
	if err != nil {
		return "", "", err
	}
	if err := unpack(ctx, download, draft, name); err != nil {
		return "", "", errors.Join(err, draft.Discard())
	}
	if dir, err = f.keep(draft, unpackedID(name, content), redact(url)); err != nil {
		return "", "", err
	}
	file, err = onlyFile(dir, name)
	return dir, file, err
}

// unpackedID returns the id of the layer that holds a downloaded file, or the files of a downloaded archive.
func unpackedID(name string, content digest.Digest) digest.Digest {
	return digest.FromString("content of\x00" + name + "\x00" + content.String())
}

// onlyFile returns name if the directory holds that regular file and nothing else, and "" otherwise.
func onlyFile(dir, name string) (string, error) {
	found, err := os.ReadDir(dir)
	if err == nil && len(found) == 1 && found[0].Name() == name && found[0].Type().IsRegular() {
		return name, nil
	}
	return "", err
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

// download saves the content of a URL to the file to. It fails after maxDownload bytes, and when it receives nothing
// for stallLimit.
func (f *Fetcher) download(ctx context.Context, url, to string) (content digest.Digest, err error) {
	if f.Offline {
		return "", errOffline
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("no data for %s", stallLimit)) })
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := f.client().Do(req)
	if err != nil {
		return "", errors.Join(context.Cause(ctx), err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("server responded %s", res.Status)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	hash := digest.SHA256.Digester()
	body := io.TeeReader(io.LimitReader(res.Body, maxDownload+1), alive(func() { stall.Reset(stallLimit) }))
	n, err := io.Copy(io.MultiWriter(out, hash.Hash()), body)
	if err = errors.Join(err, out.Close()); err != nil {
		return "", errors.Join(context.Cause(ctx), err)
	}
	if n > maxDownload {
		return "", fmt.Errorf("larger than %d bytes", int64(maxDownload))
	}
	return hash.Digest(), nil
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
