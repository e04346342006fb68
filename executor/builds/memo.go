package builds

import (
	"debug/elf"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/planner"
)

// planMemo stores plans in the cache by the build ID of this program, because another version may plan differently.
type planMemo struct {
	store   *cache.Store
	program string
}

// Plans returns a memo of plans in the cache, nil for a program without a build ID.
func Plans(s *cache.Store) planner.Memo {
	program := buildID("/proc/self/exe")
	if program == "" {
		return nil
	}
	return planMemo{s, program}
}

func (m planMemo) name(plan digest.Digest) digest.Digest {
	return key.Of([]key.Part{{Name: "program", Digest: m.program}, {Name: "plan", Digest: plan.String()}})
}

// Load implements planner.Memo.
func (m planMemo) Load(plan digest.Digest) []byte { return m.store.Plan(m.name(plan)) }

// Store implements planner.Memo. It ignores errors: a plan that is not stored is computed again.
func (m planMemo) Store(plan digest.Digest, raw []byte) { _ = m.store.PutPlan(m.name(plan), raw) }

// buildID returns the build ID that the Go linker wrote into a program, a digest of all its inputs, or "".
func buildID(program string) string {
	f, err := elf.Open(program)
	if err != nil {
		return ""
	}
	defer f.Close()
	section := f.Section(".note.go.buildid")
	if section == nil || section.Size > 1<<10 {
		return ""
	}
	note, err := section.Data()
	if err != nil || len(note) <= 16 { // the ELF note header and the name "Go"
		return ""
	}
	return string(note[16:])
}
