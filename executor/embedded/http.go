package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/keys"
)

// httpStep fetches one file for ADD of a URL, over the host's network. With a checksum the result is known in
// advance. Without one every build sends a request, which is conditional if the server returned an ETag before.
type httpStep struct {
	n           *node
	url         string
	redactedURL string // the URL without its password
	checksum    digest.Digest
	content     digest.Digest // the content used in this run
	filename    string
	perm        os.FileMode
	uid, gid    int
}

// newHTTP parses the attributes of an http source.
func newHTTP(n *node, source *pb.SourceOp) (operation, error) {
	attrs := source.GetAttrs()
	h := &httpStep{n: n, url: source.GetIdentifier(), checksum: digest.Digest(attrs[pb.AttrHTTPChecksum]), perm: 0o600}
	if h.checksum != "" {
		if err := h.checksum.Validate(); err != nil {
			return nil, fmt.Errorf("checksum %q of %s: %w", h.checksum, h.url, err)
		}
	}
	u, err := url.Parse(h.url)
	if err != nil {
		return nil, err
	}
	h.redactedURL = u.Redacted()
	if h.filename = path.Base(attrs[pb.AttrHTTPFilename]); attrs[pb.AttrHTTPFilename] == "" {
		h.filename = path.Base(u.Path)
	}
	if h.filename == "." || h.filename == "/" || h.filename == ".." {
		h.filename = "download"
	}
	if v := attrs[pb.AttrHTTPPerm]; v != "" {
		perm, err := strconv.ParseUint(v, 0, 12)
		if err != nil {
			return nil, fmt.Errorf("mode %q of %s: %w", v, h.url, err)
		}
		h.perm = os.FileMode(perm) & os.ModePerm
	}
	for name, to := range map[string]*int{pb.AttrHTTPUID: &h.uid, pb.AttrHTTPGID: &h.gid} {
		if v := attrs[name]; v != "" {
			if *to, err = strconv.Atoi(v); err != nil {
				return nil, fmt.Errorf("%s %q of %s: %w", name, v, h.url, err)
			}
		}
	}
	if attrs[pb.AttrHTTPAuthHeaderSecret] != "" || attrs[pb.AttrHTTPSignatureVerify] != "" {
		return nil, &UnsupportedError{
			What: "ADD of a URL with credentials or a signature", Instead: "download the file into the context",
		}
	}
	return h, nil
}

// parts returns the key parts, which identify the file by its content.
func (h *httpStep) parts(content digest.Digest) keys.Parts {
	p := keys.NewParts("http")
	p.Add("content", content.String())
	p.Add("file name", h.filename)
	p.Add("mode", fmt.Sprintf("%o", h.perm))
	p.Add("owner", fmt.Sprintf("%d:%d", h.uid, h.gid))
	return p
}

// resolved implements resolver.
func (h *httpStep) resolved() string { return h.content.String() }

// lookup finds a file with a known checksum.
func (h *httpStep) lookup(context.Context) (bool, error) {
	if h.checksum == "" || h.n.forced() {
		return false, nil
	}
	return h.serve(h.checksum)
}

// serve uses the file with this content if the cache has it.
func (h *httpStep) serve(content digest.Digest) (bool, error) {
	h.content = content
	found, err := h.n.serveStored(h.parts(content).Key())
	if !found || err != nil || h.n.from == nil {
		return found, err
	}
	// The key says what the file is, so this claim can be verified.
	return true, h.n.b.pin(h.n.from, ownLayer(h.n.entry), h.filename, content)
}

func (h *httpStep) prepare(context.Context) (bool, func(), error) { return false, func() {}, nil }

// lastAnswer returns the key of the entry that records the last response of the URL.
func (h *httpStep) lastAnswer() digest.Digest {
	return key.Of([]key.Part{{Name: "answer of", Digest: h.url}})
}

// Names of the recorded values of a response.
const (
	answerTag     = "etag"
	answerContent = "content"
)

// run sends the request.
func (h *httpStep) run(ctx context.Context) error {
	h.n.because(executor.Cause{Kind: executor.CauseAsked})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url, nil)
	if err != nil {
		return err
	}
	tag, content, from := h.remembered()
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	stall := time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("no data for %s", stallLimit)) })
	defer stall.Stop()
	res, err := h.n.b.engine.http().Do(req)
	if err != nil {
		return h.fault(ctx, err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotModified && content != "":
		found, err := h.serve(content)
		if err == nil && !found {
			err = errors.New("the cached file was removed; build again")
		}
		if err == nil && from != nil {
			h.n.selectedBy(from)
		}
		return err
	case res.StatusCode != http.StatusOK:
		return h.n.stepError(fmt.Errorf("GET %s: server responded %s", h.redactedURL, res.Status), "check the URL")
	case res.ContentLength > maxURLFile:
		return h.fault(ctx, errURLFile)
	}
	got, err := h.keep(res, func() { stall.Reset(stallLimit) })
	h.content = got
	if err != nil {
		return h.fault(ctx, err)
	}
	return h.remember(res.Header.Get("ETag"), got)
}

// stallLimit is how long a transfer may receive no byte.
const stallLimit = 30 * time.Second

// maxURLFile bounds the file of a URL, in bytes.
const maxURLFile = 64 << 30

var errURLFile = fmt.Errorf("the file has more than %d GiB; download it and use COPY", maxURLFile>>30)

// fault returns the cause of a cancelled transfer rather than err.
func (h *httpStep) fault(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("fetch %s: %w", h.redactedURL, err)
}

// keep creates a layer from the response body.
func (h *httpStep) keep(res *http.Response, alive func()) (content digest.Digest, err error) {
	store := h.n.b.store
	draft, err := store.NewLayer()
	if err != nil {
		return "", err
	}
	size, content, err := h.save(res, filepath.Join(draft.FS, h.filename), alive)
	if err == nil && h.checksum != "" && content != h.checksum {
		err = h.n.stepError(fmt.Errorf("%s: %w", h.redactedURL, errMismatch(h.checksum, content)), "")
	}
	if err != nil {
		return "", errors.Join(err, draft.Discard())
	}
	p := h.parts(content)
	id := layerID(p.Key(), "", 0)
	if err := draft.Commit(id, cache.LayerMeta{Size: size, Files: 1}); err != nil {
		return "", err
	}
	e := &cache.Entry{
		ID: p.Key(), Key: p.Key(), Step: h.n.step.Digest, Name: h.n.step.Name, Inputs: p, Created: time.Now().UTC(),
		Outputs: []cache.Output{{Parts: []cache.Part{{Layer: id}}}},
	}
	if err := store.Put(e); err != nil {
		return "", err
	}
	return content, h.n.serve(e, nil)
}

// save writes the body to a file with the requested mode and owner and the server's time.
func (h *httpStep) save(res *http.Response, to string, alive func()) (size int64, content digest.Digest, err error) {
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, "", err
	}
	hash := digest.SHA256.Digester()
	body := &counter{r: res.Body, report: func(int64) { alive() }}
	size, err = io.Copy(io.MultiWriter(file, hash.Hash()), io.LimitReader(body, maxURLFile+1))
	if size > maxURLFile {
		err = errURLFile
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return 0, "", err
	}
	err = idmap.Explain(os.Lchown(to, h.uid, h.gid), uint32(h.uid), uint32(h.gid))
	if err := errors.Join(err, os.Chmod(to, h.perm)); err != nil {
		return 0, "", err
	}
	if at, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil {
		_ = os.Chtimes(to, at, at)
	}
	return size, hash.Digest(), nil
}

// remembered returns the last response of the URL. from is the remote cache that claims it, nil for a response to this
// machine. Then it is a claim that the URL has this content, even if a file with the content is here.
func (h *httpStep) remembered() (tag string, content digest.Digest, from *source) {
	e, from, err := h.n.b.entry(bothKeys{own: h.lastAnswer(), portable: h.lastAnswer()}, noOutputs)
	if err != nil || e == nil {
		return "", "", nil
	}
	for _, l := range e.Lookups {
		switch l.Path {
		case answerTag:
			tag = l.Answer
		case answerContent:
			content = digest.Digest(l.Answer)
		}
	}
	if content.Validate() != nil || h.checksum != "" && content != h.checksum {
		return "", "", nil // after another file, the server must send this one, to be compared
	}
	k := h.parts(content).Key()
	if found, _, err := h.n.b.entry(bothKeys{own: k, portable: k}, h.n.likeSource); err != nil || found == nil {
		return "", "", nil
	}
	return tag, content, from
}

// remember records the response for the next build. A weak ETag is not recorded, because it does not promise equal
// bytes.
func (h *httpStep) remember(tag string, content digest.Digest) error {
	if tag == "" || strings.HasPrefix(tag, "W/") {
		return nil
	}
	key := h.lastAnswer()
	return h.n.b.store.Put(&cache.Entry{
		ID: key, Key: key, Name: h.redactedURL, Created: time.Now().UTC(),
		Lookups: []cache.Lookup{{Path: answerTag, Answer: tag}, {Path: answerContent, Answer: content.String()}},
	})
}

// http returns the client for ADD of a URL.
func (e *Engine) http() *http.Client {
	if e.opts.HTTP != nil {
		return e.opts.HTTP
	}
	return http.DefaultClient
}
