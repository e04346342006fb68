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
	"github.com/moby/sys/userns"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/embedded/tree"
)

const (
	maxDownload = 4 << 30 // bytes of one file or archive
	stallLimit  = 30 * time.Second
)

// http downloads a file, and unpacks it when it is an archive.
func (f *Fetcher) http(ctx context.Context, url string) (dir, file string, err error) {
	download, err := f.Store.NewLayer()
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, download.Discard()) }()
	name := fileName(url)
	content, err := f.download(ctx, url, filepath.Join(download.FS, name))
	if err != nil {
		return "", "", err
	}
	id := digest.FromString("content of\x00" + name + "\x00" + content.String())
	draft, err := f.Store.NewLayer()
	if err != nil {
		return "", "", err
	}
	if err := unpack(ctx, download, draft, name); err != nil {
		return "", "", errors.Join(err, draft.Discard())
	}
	dir, err = f.keep(draft, id, url)
	if err != nil {
		return "", "", err
	}
	found, err := os.ReadDir(dir)
	if err == nil && len(found) == 1 && found[0].Name() == name && found[0].Type().IsRegular() {
		file = name
	}
	return dir, file, err
}

// fileName is what a downloaded file is called.
func fileName(url string) string {
	name := path.Base(url)
	if name == "." || name == "/" || name == ".." {
		return "download"
	}
	return name
}

// unpack copies the one file of a draft into another, unpacked if it is an archive.
func unpack(ctx context.Context, from, to *cache.Draft, name string) error {
	files, err := tree.OpenLocal(ctx, from.FS, nil, nil)
	if err != nil {
		return err
	}
	op := &pb.FileOp{Actions: []*pb.FileAction{{Input: int64(pb.Empty), Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{
		Src: "/" + name, Dest: "/", Mode: -1, Timestamp: -1, CreateDestPath: true, AttemptUnpackDockerCompatibility: true,
	}}}}}
	_, err = fileop.Apply(ctx, fileop.Request{Op: op, Inputs: []tree.FS{files}, Parent: tree.NewView(nil), Upper: to.FS, UserXattr: userns.RunningInUserNS()})
	return errors.Join(err, files.Close())
}

// download saves what a URL answers, of bounded size, and gives up when no byte comes for a while.
func (f *Fetcher) download(ctx context.Context, url, to string) (content digest.Digest, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("no byte for %s", stallLimit)) })
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := f.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return "", errors.Join(context.Cause(ctx), err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the server answers %s", res.Status)
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
		return "", fmt.Errorf("it is larger than %d bytes", int64(maxDownload))
	}
	return hash.Digest(), nil
}

// alive is told of every write.
type alive func()

func (a alive) Write(p []byte) (int, error) { a(); return len(p), nil }
