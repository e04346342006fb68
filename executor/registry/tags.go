package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
)

// Bounds of a list of tags.
const (
	maxTagPage  = 8 << 20 // bytes
	maxTagPages = 100
	tagsAtOnce  = "1000"
)

// errOffline is the error of every request of an offline client.
var errOffline = errors.New("--offline is set")

// Head returns the digest that a reference names now, if possible with a single HEAD request. Errors are of type
// *Error.
func (c *Client) Head(ctx context.Context, ref string) (digest.Digest, error) {
	i, err := parseImage(ref)
	if err != nil {
		return "", err
	}
	var found digest.Digest
	err = c.pull(ctx, "look for "+reference.FamiliarString(i.named), i, func(s *session) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodHead, s.url("manifests/"+i.tagOrDigest()), nil)
		if err != nil {
			return err
		}
		req.Header["Accept"] = []string{strings.Join(accepted(), ", ")}
		res, err := answered(s.client.Do(req))
		if err != nil {
			return err
		}
		res.Body.Close()
		found = digest.Digest(res.Header.Get("Docker-Content-Digest"))
		if found.Validate() == nil {
			return nil
		}
		d, err := c.document(ctx, s, i.tagOrDigest()) // the registry did not send the header
		if err == nil {
			found = d.digest
		}
		return err
	})
	return found, err
}

// Tags returns the tags of a repository, sorted, at most about a hundred thousand. Errors are of type *Error.
func (c *Client) Tags(ctx context.Context, repository string) ([]string, error) {
	i, err := parseImage(repository)
	if err != nil {
		return nil, err
	}
	var all []string
	err = c.pull(ctx, "list the tags of "+reference.FamiliarName(i.named), i, func(s *session) error {
		all = nil
		next := s.url("tags/list") + "?n=" + tagsAtOnce
		for page := 0; next != "" && page < maxTagPages; page++ {
			tags, following, err := s.tags(ctx, next)
			if err != nil {
				return err
			}
			all, next = append(all, tags...), following
		}
		return nil
	})
	slices.Sort(all)
	return slices.Compact(all), err
}

// tagName matches a valid tag.
var tagName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// tags reads one page, and returns the URL of the next one.
func (s *session) tags(ctx context.Context, page string) (tags []string, next string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return nil, "", err
	}
	res, err := answered(s.client.Do(req))
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	raw, err := readAll(res.Body, maxTagPage)
	if err != nil {
		return nil, "", err
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, "", contentf("its list of tags is not valid JSON: %s", err)
	}
	list.Tags = slices.DeleteFunc(list.Tags, func(t string) bool { return !tagName.MatchString(t) })
	next, err = nextPage(page, res.Header.Get("Link"))
	return list.Tags, next, err
}

// nextPage returns the URL of the next page from a Link header, or "". It must be on the same server.
func nextPage(page, link string) (string, error) {
	target, params, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(params, "next") {
		return "", nil
	}
	at, err := url.Parse(page)
	if err != nil {
		return "", err
	}
	to, err := at.Parse(target)
	if err != nil || to.Scheme != at.Scheme || to.Host != at.Host {
		return "", contentf("its list of tags continues at %s, which is not the same server", target)
	}
	return to.String(), nil
}
