package layers

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// goroot returns a tree of real files that every machine with Go has: about 250 MB in 15,000 files.
func goroot(b *testing.B) string {
	b.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Skip("no go command:", err)
	}
	return strings.TrimSpace(string(out))
}

func gorootBlob(b *testing.B, f Compression) ([]byte, Packed) {
	b.Helper()
	var blob bytes.Buffer
	p, err := Compress(context.Background(), goroot(b), PackOptions{}, f, &blob)
	if err != nil {
		b.Fatal(err)
	}
	return blob.Bytes(), p
}

// BenchmarkUnpack compares Unpack and BuildIndex with a loop over the standard library's tar reader.
func BenchmarkUnpack(b *testing.B) {
	for _, f := range []Compression{{}, {Algorithm: Zstd}} {
		b.Run(f.String(), func(b *testing.B) {
			blob, p := gorootBlob(b, f)
			b.SetBytes(p.Content.Size)
			for b.Loop() {
				b.StopTimer()
				d := b.TempDir()
				b.StartTimer()
				if _, err := Unpack(context.Background(), bytes.NewReader(blob), UnpackOptions{Dir: d}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	// The baseline: one goroutine, the standard library, no hashing, no attributes.
	b.Run("stdlib-serial", func(b *testing.B) {
		blob, p := gorootBlob(b, Compression{})
		b.SetBytes(p.Content.Size)
		for b.Loop() {
			b.StopTimer()
			d := b.TempDir()
			b.StartTimer()
			if err := plainUnpack(d, blob); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("index-only", func(b *testing.B) {
		blob, p := gorootBlob(b, Compression{})
		b.SetBytes(p.Content.Size)
		for b.Loop() {
			if _, err := BuildIndex(context.Background(), bytes.NewReader(blob), Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func plainUnpack(d string, blob []byte) error {
	z, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		return err
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		p := filepath.Join(d, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(p, 0o755); err != nil {
				return err
			}
			continue
		}
		f, err := os.Create(p)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, r); err != nil {
			return err
		}
		f.Close()
	}
}

// BenchmarkCompress compares Compress with the standard library's gzip.
func BenchmarkCompress(b *testing.B) {
	root := goroot(b)
	for _, f := range []Compression{{}, {Algorithm: Gzip, Level: 1}, {Algorithm: Zstd}, {Algorithm: Uncompressed}} {
		b.Run(f.String(), func(b *testing.B) {
			for b.Loop() {
				p, err := Compress(context.Background(), root, PackOptions{}, f, io.Discard)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(p.Content.Size)
				b.ReportMetric(float64(p.Size)/1e6, "MB")
			}
		})
	}
	b.Run("stdlib-gzip", func(b *testing.B) {
		for b.Loop() {
			n, err := plainCompress(root, io.Discard)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(n)
		}
	})
}

func plainCompress(root string, w io.Writer) (int64, error) {
	digest := sha256.New()
	z := gzip.NewWriter(io.MultiWriter(w, digest))
	diff := sha256.New()
	tw := tar.NewWriter(io.MultiWriter(z, diff))
	var total int64
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(fi, "")
		if err != nil {
			return err
		}
		h.Name = p
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.Copy(tw, f)
		total += n
		return err
	})
	if err != nil {
		return total, err
	}
	if err := tw.Close(); err != nil {
		return total, err
	}
	return total, z.Close()
}
