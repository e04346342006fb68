package executortest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// setup runs the commands of a case on its context. Names may be quoted as in Go, for bytes that are not text.
//
//	chmod MODE NAME          an octal mode
//	mkdir NAME
//	ln TARGET NAME           a symbolic link
//	link NAME NEW            a hard link
//	mkfifo NAME
//	sparse NAME SIZE         a file that is one hole, with one byte at its end
//	write NAME TEXT
//	xattr NAME KEY VALUE
//	tar NAME[.gz] ENTRY…     an archive: see archive
func setup(dir, commands string) error {
	for line := range strings.Lines(commands) {
		fields, err := split(line)
		if err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		if len(fields) == 0 {
			continue
		}
		if err := command(dir, fields); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
	}
	return nil
}

// split returns the fields of a line.
func split(line string) ([]string, error) {
	var fields []string
	rest := strings.TrimSpace(line)
	for rest != "" {
		field, after, _ := strings.Cut(rest, " ")
		if rest[0] == '"' {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, err
			}
			if field, err = strconv.Unquote(quoted); err != nil {
				return nil, err
			}
			after = rest[len(quoted):]
		}
		fields = append(fields, field)
		rest = strings.TrimLeft(after, " ")
	}
	return fields, nil
}

func command(dir string, fields []string) error {
	if len(fields) < 2 {
		return fmt.Errorf("a name is missing")
	}
	args := append(fields[1:], "", "")
	first, second := filepath.Join(dir, args[0]), filepath.Join(dir, args[1])
	switch fields[0] {
	case "chmod":
		mode, err := strconv.ParseUint(args[0], 8, 32)
		if err != nil {
			return err
		}
		return unix.Chmod(second, uint32(mode))
	case "mkdir":
		return os.MkdirAll(first, 0o755)
	case "ln":
		return os.Symlink(args[0], second)
	case "link":
		return os.Link(first, second)
	case "mkfifo":
		return unix.Mkfifo(first, 0o644)
	case "write":
		return writeFile(first, args[1])
	case "xattr":
		return unix.Lsetxattr(first, args[1], []byte(args[2]), 0)
	case "sparse":
		size, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return sparse(first, size)
	case "tar":
		raw, err := archive(fields[2:])
		if err != nil {
			return err
		}
		if strings.HasSuffix(first, ".gz") {
			raw = compressed(raw)
		}
		return os.WriteFile(first, raw, 0o644)
	}
	return fmt.Errorf("unknown command %s", fields[0])
}

func sparse(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("x"), size-1)
	return err
}

func compressed(raw []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(raw) // memory does not fail
	_ = w.Close()
	return b.Bytes()
}

// archive returns a tar of entries KIND:NAME[:WHAT[:MODE[:UID:GID[:XATTR=HEX]]]]. The kinds are d (directory), f (file
// with content WHAT), l (symbolic link to WHAT), h (hard link to WHAT), p (named pipe), c (character device 1:3) and x
// (file with content WHAT and the capability cap_net_raw).
func archive(entries []string) ([]byte, error) {
	return makeArchive(entries, func(_, text string) string { return text })
}

// makeArchive is archive; content returns the content of each file, given its name and WHAT.
func makeArchive(entries []string, content func(name, text string) string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, entry := range entries {
		h, text, err := header(entry)
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			text = content(h.Name, text)
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func header(entry string) (*tar.Header, string, error) {
	f := append(strings.Split(entry, ":"), "", "", "", "", "", "")
	h := &tar.Header{Name: f[1], Mode: 0o644, Format: tar.FormatPAX}
	kinds := map[string]byte{
		"d": tar.TypeDir, "f": tar.TypeReg, "l": tar.TypeSymlink, "h": tar.TypeLink, "p": tar.TypeFifo,
		"c": tar.TypeChar, "x": tar.TypeReg,
	}
	kind, ok := kinds[f[0]]
	if !ok {
		return nil, "", fmt.Errorf("unknown kind %q", f[0])
	}
	h.Typeflag = kind
	text := ""
	switch f[0] {
	case "d":
		h.Mode = 0o755
	case "f":
		text = f[2]
	case "l", "h":
		h.Linkname = f[2]
	case "c":
		h.Devmajor, h.Devminor = 1, 3
	case "x":
		text, h.Mode = f[2], 0o755
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability}
	}
	h.Size = int64(len(text))
	for i, to := range []*int{3: nil, 4: &h.Uid, 5: &h.Gid} {
		if to == nil || f[i] == "" {
			continue
		}
		n, err := strconv.Atoi(f[i])
		if err != nil {
			return nil, "", err
		}
		*to = n
	}
	if name, value, ok := strings.Cut(f[6], "="); ok {
		raw, err := hex.DecodeString(value)
		if err != nil {
			return nil, "", err
		}
		h.PAXRecords = map[string]string{"SCHILY.xattr." + name: string(raw)}
	}
	if f[3] != "" {
		mode, err := strconv.ParseInt(f[3], 8, 64)
		if err != nil {
			return nil, "", err
		}
		h.Mode = mode
	}
	return h, text, nil
}

// capability is the xattr security.capability with cap_net_raw, permitted and effective.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
