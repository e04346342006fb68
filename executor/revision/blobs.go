package revision

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// blobs reads blobs through one "git cat-file" process, which starts with the first blob.
type blobs struct {
	repository repository
	ctx        context.Context // of the command: the process ends with it

	mu   sync.Mutex // guards all below; one blob is read at a time
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	temp string // directory of the files that file wrote; "" until the first one
}

// read copies a blob to a writer. A blob of more than limit bytes is an error.
func (b *blobs) read(id string, limit int64, to io.Writer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.copy(id, limit, to)
}

// file returns a file on the disk that holds a blob of at most limit bytes. The file exists until close.
func (b *blobs) file(id string, limit int64) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.temp == "" {
		dir, err := os.MkdirTemp("", "bake-revision-")
		if err != nil {
			return "", err
		}
		b.temp = dir
	}
	path := filepath.Join(b.temp, id)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	f, err := os.CreateTemp(b.temp, "")
	if err != nil {
		return "", err
	}
	err = errors.Join(b.copy(id, limit, f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return path, err
}

// copy is read for a caller that holds mu.
func (b *blobs) copy(id string, limit int64, to io.Writer) error {
	err := b.start()
	if err == nil {
		_, err = fmt.Fprintln(b.in, id)
	}
	if err != nil {
		return fmt.Errorf("git cat-file: %w", err)
	}
	head, err := b.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("git cat-file: %w", err)
	}
	fields := strings.Fields(head) // ID TYPE SIZE
	if len(fields) != 3 || fields[1] != "blob" {
		return fmt.Errorf("git cat-file: %s", strings.TrimSpace(head))
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return fmt.Errorf("git cat-file: %w", err)
	}
	if size > limit {
		_, err := io.CopyN(io.Discard, b.out, size+1) // the process stays usable
		return errors.Join(err, fmt.Errorf("git blob %s exceeds %d bytes", id, limit))
	}
	if _, err := io.CopyN(to, b.out, size); err != nil {
		return fmt.Errorf("git cat-file: %w", err)
	}
	_, err = b.out.Discard(1) // the line feed after the content
	return err
}

func (b *blobs) start() (err error) {
	if b.cmd != nil {
		return nil
	}
	cmd := b.repository.command(b.ctx, "cat-file", "--batch")
	if b.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	b.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return err
	}
	b.cmd = cmd
	return nil
}

// close ends the process and removes the files that file wrote.
func (b *blobs) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	if b.cmd != nil {
		err = errors.Join(b.in.Close(), b.cmd.Wait())
	}
	if b.temp != "" {
		err = errors.Join(err, os.RemoveAll(b.temp))
	}
	return err
}
