package tree_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bakebuild/bake/executor/tree"
)

// BenchmarkScan is a context of which nothing changed: it is opened, every file is looked at, and the digest of all
// comes from the stat index.
func BenchmarkScan(b *testing.B) {
	const files = 10_000
	dir, index := b.TempDir(), filepath.Join(b.TempDir(), "index")
	old := time.Now().Add(-time.Hour)
	for i := range files {
		name := filepath.Join(dir, fmt.Sprint("d", i/100), fmt.Sprint("file", i))
		check(b, os.MkdirAll(filepath.Dir(name), 0o755))
		check(b, os.WriteFile(name, fmt.Append(nil, i), 0o644))
		check(b, os.Chtimes(name, old, old))
	}
	time.Sleep(2100 * time.Millisecond) // the time of a change cannot be set
	scan := func() {
		stat, err := tree.OpenStatIndex(index)
		check(b, err)
		l, err := tree.OpenLocal(b.Context(), dir, nil, stat)
		check(b, err)
		_, err = tree.SelectionDigest(b.Context(), l, tree.Selection{Src: "/", DirContents: true})
		check(b, err)
		check(b, stat.Save())
		check(b, l.Close())
	}
	scan()
	b.ReportAllocs()
	for b.Loop() {
		scan()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*files), "ns/file")
}
