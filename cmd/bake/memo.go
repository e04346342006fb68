package main

import (
	"debug/elf"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/planner"
)

// planMemo keeps plans in the cache, for this program alone: another version may plan otherwise.
type planMemo struct {
	store   *cache.Store
	program string
}

// memo keeps the plans of projects of this machine. There is none for a program that cannot be told from others.
func (s *session) memo() planner.Memo {
	program := buildID("/proc/self/exe")
	if program == "" || s.app.fetcher != nil {
		return nil
	}
	return planMemo{s.store, program}
}

func (m planMemo) name(plan digest.Digest) digest.Digest {
	return key.Of([]key.Part{{Name: "program", Digest: m.program}, {Name: "plan", Digest: plan.String()}})
}

// Load implements planner.Memo.
func (m planMemo) Load(plan digest.Digest) []byte { return m.store.Plan(m.name(plan)) }

// Store implements planner.Memo. A plan that is not kept is made again.
func (m planMemo) Store(plan digest.Digest, raw []byte) { _ = m.store.PutPlan(m.name(plan), raw) }

// buildID is the linker's digest of all that went into a program, "" where it was left out.
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
	if err != nil || len(note) <= 16 { // the header and the name "Go"
		return ""
	}
	return string(note[16:])
}
