package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
)

// linkMerge puts the layers of COPY --link on their stage.
//
// The problem: such a layer is made on scratch, so that it is the same on every base. It lists the directories that
// lead to its destination, with mode 0755 and owner root. On a stage that has them with other attributes, the layer
// would change those: COPY --link app /home/app would take the home directory from its user.
//
// The idea: the merge compares the directories that the copy itself created (the lookups of its destination, which
// scratch answered with "nothing there") with those of the stage. If the stage has none of them, or has them with the
// same attributes, the layer is used as it is: nothing is copied, and its digest does not depend on the base. Otherwise
// the copy runs once more, on a tree that has only these directories, and gives a layer in which they have the stage's
// attributes. That layer depends on the copied files and these attributes alone, so all stages with them share it.
//
// The invariant: the copy sees no link, no file and no setgid bit of the stage. So the layer has the same paths as on
// scratch, and new directories are as on scratch. Result and key are deterministic; the result is stored, so that a
// repeated build reads nothing of the stage. TestCopyLinkKeepsDirectories shows both cases.
type linkMerge struct {
	virtual
	links []int // the inputs that are layers of COPY --link
}

// linkInputs returns the inputs of a merge that are file operations on scratch.
func (n *node) linkInputs() []int {
	var links []int
	for k, in := range n.step.Op.GetMerge().GetInputs() {
		from := n.input(int(in.GetInput()))
		if k == 0 || from.scratch() {
			continue
		}
		if f, ok := from.node.op.(*fileStep); ok && f.parent().scratch() {
			links = append(links, k)
		}
	}
	return links
}

func newLinkMerge(v virtual, links []int) *linkMerge {
	m := &linkMerge{virtual: v, links: links}
	m.own = keys.NewParts("merge of linked copies")
	return m
}

// at returns input k of the merge.
func (m *linkMerge) at(k int) input {
	return m.n.input(int(m.n.step.Op.GetMerge().GetInputs()[k].GetInput()))
}

// lookup finds the stored result, or that of copies that create no directory.
func (m *linkMerge) lookup(ctx context.Context) (bool, error) {
	id, err := m.key(ctx, input.id)
	if err != nil {
		return false, err
	}
	portable, err := m.key(ctx, input.portableID)
	if err != nil {
		return false, err
	}
	m.n.result.Key = id
	e, from, err := m.n.b.entry(bothKeys{own: id, portable: portable}, m.n.fits)
	if err != nil {
		return false, err
	}
	if e == nil {
		for _, k := range m.links {
			if created, err := m.directories(ctx, k); err != nil || len(created) > 0 {
				return false, err
			}
		}
		return m.virtual.lookup(ctx)
	}
	if from != nil {
		if err := m.n.b.adopt(e, from, portable); err != nil {
			return false, err
		}
	}
	if err := m.n.serve(e, from); err != nil {
		return false, err
	}
	if from == nil {
		m.n.id, m.n.portable = id, portable
	}
	m.passStatus()
	return true, nil
}

// fits compares an entry with the inputs: each is used as it is, or replaced by a layer.
func (m *linkMerge) fits(e *cache.Entry) error {
	if len(e.Outputs) != 1 || len(e.Outputs[0].Parts) != len(m.n.step.Op.GetMerge().GetInputs()) {
		return errors.New("it has other parts")
	}
	want := cache.Output{Parts: make([]cache.Part, len(e.Outputs[0].Parts))}
	for k := range want.Parts {
		want.Parts[k] = m.part(k)
	}
	for _, k := range m.links {
		if e.Outputs[0].Parts[k].Layer != "" {
			want.Parts[k] = cache.Part{Layer: emptyLayer}
		}
	}
	return sameShape(e.Outputs, []cache.Output{want})
}

func (m *linkMerge) part(k int) cache.Part {
	return cache.Part{Input: int(m.n.step.Op.GetMerge().GetInputs()[k].GetInput()), Index: m.at(k).index}
}

func (m *linkMerge) prepare(context.Context) (bool, func(), error) { return false, func() {}, nil }

// run compares the directories and stores the result.
func (m *linkMerge) run(ctx context.Context) error {
	started := time.Now()
	id := m.n.result.Key
	var stage *chain
	var parts []cache.Part
	for k := range m.n.step.Op.GetMerge().GetInputs() {
		upper, err := m.at(k).chain(ctx)
		if err != nil {
			return err
		}
		part := m.part(k)
		if layer, err := m.adapted(ctx, k, stage); err != nil {
			return err
		} else if layer != "" {
			part, upper = cache.Part{Layer: layer}, (*chain)(nil).push(layer, false)
		}
		parts, stage = append(parts, part), stage.concat(upper)
	}
	portable, err := m.key(ctx, input.portableID)
	if err != nil {
		return err
	}
	e := &cache.Entry{
		ID: id, Key: id, Step: m.n.step.Digest, Name: m.n.step.Name, Outputs: []cache.Output{{Parts: parts}},
		Seconds: time.Since(started).Seconds(), Created: time.Now().UTC(),
	}
	if err := m.n.b.store.Put(e); err != nil {
		return err
	}
	m.n.b.note(id)
	err = m.n.serve(e, nil)
	m.n.id, m.n.portable = id, portable
	return err
}

// directories returns the directories that the copy behind input k created on scratch for its destination.
func (m *linkMerge) directories(ctx context.Context, k int) ([]string, error) {
	if !slices.Contains(m.links, k) {
		return nil, nil
	}
	in := m.at(k)
	if in.node.entry == nil {
		return nil, fmt.Errorf("step %s: %w", in.node.step.Name, errNoChain)
	}
	var all []string
	err := in.read(ctx, func(files tree.FS) error {
		all = nil
		for _, l := range in.node.entry.Lookups {
			p, ok := fileop.EntryPath(rawOf(l.Path))
			if !ok || p == "/" {
				continue
			}
			if e, err := files.Lookup(p); err == nil && e.IsDir() {
				all = append(all, p)
			}
		}
		return nil
	})
	return all, err
}

// adapted returns the layer that replaces input k on the stage below it; "" if the input is used as it is.
func (m *linkMerge) adapted(ctx context.Context, k int, stage *chain) (digest.Digest, error) {
	created, err := m.directories(ctx, k)
	if err != nil || len(created) == 0 {
		return "", err
	}
	in := m.at(k)
	var answers []string
	err = m.n.b.view(ctx, stage, func(below tree.FS) error {
		return in.read(ctx, func(own tree.FS) error {
			var err error
			answers, err = attributesKept(created, below, own)
			return err
		})
	})
	if err != nil || len(answers) == 0 {
		return "", err
	}
	id := layerID(digest.FromString("link\x00"+in.node.id.String()+"\x00"+strings.Join(answers, "\x00")), "", 0)
	_, err = m.n.b.onceValue(ctx, "link "+id.String(), func() (any, error) {
		return nil, m.makeAdapted(ctx, id, in.node, stage, created)
	})
	return id, err
}

// attributesKept returns the attributes of the directories that below has too; nothing if own has all of them with the
// same attributes.
func attributesKept(created []string, below, own tree.FS) ([]string, error) {
	var answers []string
	differ := false
	for _, p := range created {
		answer, err := fileop.Attributes(below, p)
		if err != nil {
			return nil, err
		}
		if answer == "" {
			continue
		}
		ours, err := fileop.Attributes(own, p)
		if err != nil {
			return nil, err
		}
		differ = differ || answer != ours
		answers = append(answers, p+"\x00"+answer)
	}
	if !differ {
		return nil, nil
	}
	return answers, nil
}

// makeAdapted runs the copy on the directories of the stage, unless the layer is there.
func (m *linkMerge) makeAdapted(
	ctx context.Context, id digest.Digest, copied *node, stage *chain, created []string,
) error {
	b := m.n.b
	unlock, err := b.store.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := b.dirHere(id); ok {
		return nil
	}
	shown := map[string]bool{}
	for _, p := range created {
		shown[p] = true
	}
	f := copied.op.(*fileStep)
	_, err = b.makeLayer(ctx, newLayer{
		id: id, op: copied.step.Op.GetFile(), inputs: copied.inputs, check: f.overtaken, link: true,
		parent: func(ctx context.Context, use func(tree.FS) error) error {
			return b.view(ctx, stage, func(below tree.FS) error { return use(onlyDirs{below, shown}) })
		},
	})
	return err
}

// onlyDirs is a tree that has only certain directories of another one, as far as they lead from directory to directory.
type onlyDirs struct {
	tree.FS

	shown map[string]bool
}

// Lookup implements tree.FS.
func (o onlyDirs) Lookup(p string) (tree.Entry, error) {
	missing := &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
	p = path.Clean("/" + p)
	if p != "/" && !o.shown[p] {
		return tree.Entry{}, missing
	}
	if p != "/" {
		if _, err := o.Lookup(path.Dir(p)); err != nil {
			return tree.Entry{}, err
		}
	}
	e, err := o.FS.Lookup(p)
	if errors.Is(err, unix.ENOTDIR) || err == nil && !e.IsDir() {
		return tree.Entry{}, missing
	}
	return e, err
}

// ReadDir implements tree.FS.
func (o onlyDirs) ReadDir(p string) ([]tree.Entry, error) {
	var all []tree.Entry
	if _, err := o.Lookup(p); err != nil {
		return nil, err
	}
	for q := range o.shown {
		if path.Dir(q) == path.Clean("/"+p) {
			if e, err := o.Lookup(q); err == nil {
				all = append(all, e)
			}
		}
	}
	return all, nil
}

// Open implements tree.FS: there are no files.
func (o onlyDirs) Open(p string) (*os.File, error) {
	return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
}

// passStatus marks the step as run if one of its inputs ran.
func (v *virtual) passStatus() {
	for _, in := range v.n.inputs {
		if !in.scratch() && in.node.result.Status == executor.StatusRan {
			v.n.result.Status = executor.StatusRan
			v.n.because(executor.Cause{Kind: executor.CauseInput, Step: in.node.step.Digest})
		}
	}
}
