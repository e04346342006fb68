package executortest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// ReadImage returns the image in an OCI layout, a tar file, as text. The text is the config, without values that
// differ between runs, and a line for every file of all layers together, sorted by path:
//
//	MODE UID:GID SIZE|TARGET|MAJOR:MINOR CONTENT|DIGEST PATH [= OTHER NAME] [XATTR=VALUE…]
//
// The programs of the bases are omitted.
func ReadImage(layout string) (string, error) { return Images{}.Read(layout) }

// Images reads images that share layers and unpacks each layer once. Its values must not be modified.
type Images map[digest.Digest][]node

// Read is ReadImage.
func (i Images) Read(layout string) (string, error) {
	blobs, err := readTar(layout)
	if err != nil {
		return "", err
	}
	var index ocispecs.Index
	if err := json.Unmarshal(blobs["index.json"], &index); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, d := range index.Manifests {
		if err := i.describe(&b, blobs, d, len(index.Manifests) > 1); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

type blobs map[string][]byte

func (s blobs) get(d ocispecs.Descriptor, v any) error {
	return json.Unmarshal(s["blobs/sha256/"+d.Digest.Encoded()], v)
}

// describe writes the text of an image, or of each image of an index.
func (i Images) describe(b *strings.Builder, s blobs, d ocispecs.Descriptor, several bool) error {
	if d.MediaType == ocispecs.MediaTypeImageIndex {
		var index ocispecs.Index
		if err := s.get(d, &index); err != nil {
			return err
		}
		for _, m := range index.Manifests {
			if err := i.describe(b, s, m, true); err != nil {
				return err
			}
		}
		return nil
	}
	var m ocispecs.Manifest
	if err := s.get(d, &m); err != nil {
		return err
	}
	if several {
		fmt.Fprintf(b, "platform %s/%s%s\n", d.Platform.OS, d.Platform.Architecture, d.Platform.Variant)
	}
	for _, key := range slices.Sorted(maps.Keys(m.Annotations)) {
		if key != ocispecs.AnnotationCreated {
			fmt.Fprintf(b, "annotation %s=%s\n", key, m.Annotations[key])
		}
	}
	config, err := s.config(m.Config)
	if err != nil {
		return err
	}
	b.WriteString(config)
	t := tree{}
	for _, l := range m.Layers {
		if i[l.Digest] == nil {
			if i[l.Digest], err = unpack(s["blobs/sha256/"+l.Digest.Encoded()]); err != nil {
				return fmt.Errorf("layer %s: %w", l.Digest, err)
			}
		}
		if err := t.apply(i[l.Digest]); err != nil {
			return fmt.Errorf("layer %s: %w", l.Digest, err)
		}
	}
	b.WriteString(t.String())
	return nil
}

// config returns the image config without times and layer digests, a line for each value, sorted.
func (s blobs) config(d ocispecs.Descriptor) (string, error) {
	var c map[string]any
	if err := s.get(d, &c); err != nil {
		return "", err
	}
	delete(c, "created")
	if fs, ok := c["rootfs"].(map[string]any); ok {
		ids, _ := fs["diff_ids"].([]any)
		c["rootfs"] = len(ids)
	}
	history, _ := c["history"].([]any)
	delete(c, "history")
	if inner, ok := c["config"].(map[string]any); ok {
		delete(c, "config")
		for key, value := range inner {
			c["config."+key] = value
		}
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&b, "%s %s\n", key, compact(c[key]))
	}
	for _, h := range history {
		if h, ok := h.(map[string]any); ok {
			delete(h, "created")
		}
		fmt.Fprintf(&b, "history %s\n", compact(h))
	}
	return b.String(), nil
}

// compact encodes a decoded value as JSON.
func compact(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(b.String())
}

func readTar(name string) (blobs, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := blobs{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if all[path.Clean(h.Name)], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}

// maxShown is the size of the largest file whose content is shown instead of its digest.
const maxShown = 100

// node is one file. All hard links of a file share it.
type node struct {
	header tar.Header
	digest string
}

// tree is a file system, by path without a leading slash.
type tree map[string]*node

// unpack returns the entries of a layer, with the digests of files.
func unpack(layer []byte) ([]node, error) {
	zipped, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		return nil, err
	}
	all := []node{}
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		n := node{header: *h}
		if h.Typeflag == tar.TypeReg {
			n.digest = fmt.Sprintf("%.6x", sha256.Sum256(content))
			if h.Size <= maxShown {
				n.digest = strconv.Quote(string(content))
			}
		}
		all = append(all, n)
	}
}

// apply applies a layer to the tree.
func (t tree) apply(layer []node) error {
	seen := map[string]bool{} // files of this layer: its whiteouts do not remove them
	for _, n := range layer {
		h := &n.header
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		dir, base := path.Split(name)
		switch hidden, white := strings.CutPrefix(base, ".wh."); {
		case base == ".wh..wh..opq":
			t.remove(path.Clean(dir), seen, false)
		case white:
			t.remove(dir+hidden, seen, true)
		case h.Typeflag == tar.TypeLink:
			seen[name] = true
			t[name] = t[strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")]
			if t[name] == nil {
				return fmt.Errorf("%s is a link to %s, which does not exist", name, h.Linkname)
			}
		default:
			if old := t[name]; old != nil && old.header.Typeflag == tar.TypeDir && h.Typeflag != tar.TypeDir {
				t.remove(name, seen, true)
			}
			seen[name] = true
			t[name] = &n
		}
	}
	return nil
}

// remove removes what lower layers have below name, and name itself if itself is true.
func (t tree) remove(name string, keep map[string]bool, itself bool) {
	for p := range t {
		if !keep[p] && (itself && p == name || strings.HasPrefix(p, name+"/")) {
			delete(t, p)
		}
	}
}

// String returns a line for each file.
func (t tree) String() string {
	first := map[*node]string{}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t)) {
		n := t[name]
		if n.program(name) {
			continue
		}
		fmt.Fprintf(&b, "%s %d:%d %s /%s", mode(&n.header), n.header.Uid, n.header.Gid, n.what(), printable(name))
		if other, ok := first[n]; ok {
			fmt.Fprintf(&b, " = /%s", printable(other))
		} else {
			first[n] = name
		}
		for _, key := range slices.Sorted(maps.Keys(n.header.PAXRecords)) {
			if x, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
				fmt.Fprintf(&b, " %s=%x", x, n.header.PAXRecords[key])
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// program reports whether the file is a program of a base, which differs between machines.
func (n *node) program(name string) bool {
	return name == busybox || n.header.Typeflag == tar.TypeSymlink && n.header.Linkname == "/"+busybox
}

func (n *node) what() string {
	switch h := n.header; h.Typeflag {
	case tar.TypeReg:
		return fmt.Sprintf("%d %s", h.Size, n.digest)
	case tar.TypeSymlink:
		return "-> " + printable(h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		return fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
	}
	return "-"
}

func mode(h *tar.Header) string {
	kind, ok := map[byte]string{
		tar.TypeReg: "f", tar.TypeDir: "d", tar.TypeSymlink: "l", tar.TypeChar: "c", tar.TypeBlock: "b",
		tar.TypeFifo: "p",
	}[h.Typeflag]
	if !ok {
		kind = "?" + string(rune(h.Typeflag))
	}
	return fmt.Sprintf("%s%04o", kind, h.Mode&0o7777)
}

// printable escapes the bytes of a name that are not printable text.
func printable(name string) string {
	return strings.Trim(fmt.Sprintf("%q", name), `"`)
}
