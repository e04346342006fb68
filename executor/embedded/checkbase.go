package embedded

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
)

// CheckBase compares the directory of a base layer with the blob that it was unpacked from; it is the Base function of
// cache.CheckOptions. The tar of another tool cannot be written again from the files, so the blob is read, its diff id
// is verified, and each of its files is compared. Files that the layer links from the layers below are not compared.
func CheckBase(ctx context.Context, dir, blob string, p cache.Packed) (damage string, err error) {
	res, sums, err := readBase(ctx, blob)
	if err != nil {
		return "", ctx.Err() // the blob is damaged, which the check of blobs reports
	}
	if res.DiffID != p.DiffID {
		return fmt.Sprintf("it is not the layer of its blob (diff id %s, expected %s)", res.DiffID, p.DiffID), nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	linked := map[uint64][sha256.Size]byte{}
	for _, r := range res.Records {
		if sum, ok := sums[r.Path]; ok && r.Inode != 0 {
			linked[r.Inode] = sum
		}
	}
	for _, r := range res.Records {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		sum, ok := sums[r.Path]
		if !ok {
			sum, ok = linked[r.Inode]
		}
		if what := differs(root, r, sum, ok); what != "" {
			return fmt.Sprintf("%s %s since it was unpacked", r.Path, what), nil
		}
	}
	return "", nil
}

// readBase returns the records of a blob and the digests of its regular files. Both come from one pass, because reading
// and decompressing is what takes the time.
func readBase(ctx context.Context, blob string) (
	res layers.UnpackResult, sums map[string][sha256.Size]byte, err error,
) {
	f, err := os.Open(blob)
	plain, err := uncompressed(f, err)
	if err != nil {
		return res, nil, err
	}
	defer plain.Close()
	r, w := io.Pipe()
	summed := make(chan error, 1)
	go func() {
		var err error
		sums, err = fileSums(ctx, r)
		_, rest := io.Copy(io.Discard, r) // after an error, the other reader still writes
		summed <- errors.Join(err, rest)
	}()
	res, err = layers.BuildIndex(ctx, io.TeeReader(plain, w), layers.Limits{})
	_ = w.CloseWithError(err) // never fails
	return res, sums, errors.Join(err, <-summed)
}

// fileSums returns the digests of the regular files in a tar; of several with one path that of the last.
func fileSums(ctx context.Context, r io.Reader) (map[string][sha256.Size]byte, error) {
	sums := map[string][sha256.Size]byte{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return sums, nil
		}
		if err != nil || ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		name := path.Join("/", h.Name)
		delete(sums, name)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, t); err != nil {
			return nil, err
		}
		sums[name] = [sha256.Size]byte(hash.Sum(nil))
	}
}

// differs says how a file differs from its record, "" if it does not. sum is the digest of its content if known.
func differs(root *os.Root, r layers.Record, sum [sha256.Size]byte, known bool) string {
	if r.Path == "/" || r.Implied {
		return ""
	}
	name := strings.TrimPrefix(r.Path, "/")
	info, err := root.Lstat(name)
	st := new(syscall.Stat_t)
	if err == nil {
		st, _ = info.Sys().(*syscall.Stat_t)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && r.Rdev != 0:
		return "" // unprivileged users cannot create device nodes
	case err != nil:
		return "is missing"
	case r.Whiteout:
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			return ""
		}
		return "has changed"
	case st.Mode != r.Mode || st.Uid != r.UID || st.Gid != r.GID:
		return "has changed its attributes"
	}
	switch r.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		if to, err := root.Readlink(name); err != nil || to != r.Link {
			return "has changed"
		}
	case unix.S_IFREG:
		f, err := root.Open(name)
		if err != nil {
			return "cannot be read"
		}
		defer f.Close()
		hash := sha256.New()
		if n, err := io.Copy(hash, f); err != nil || n != r.Size || known && [sha256.Size]byte(hash.Sum(nil)) != sum {
			return "has changed"
		}
	}
	return ""
}
