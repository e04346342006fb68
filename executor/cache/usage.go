package cache

import (
	"path/filepath"
	"time"
)

// Usage describes what a cache occupies, in bytes of disk blocks.
type Usage struct {
	Layers  int64 // directories of layers
	Blobs   int64 // compressed layers, manifests, configs
	Mounts  int64 // cache mounts
	Entries int64
	Logs    int64 // logs of steps, build records, past runs and lists of files
	Other   int64
	Total   int64
	// Roots is the part of Blobs that tagged images and pins need; it is never evicted. Busy is what running builds
	// may be using in addition. Freeable is the rest of the items.
	Roots, Busy, Freeable int64
	// Free and Disk are the free space and the size of the file system.
	Free, Disk int64
	Targets    []TargetUsage
	// Unreferenced is the size of the items that no recorded target refers to.
	Unreferenced int64
}

// TargetUsage is what one target of one project refers to, in bytes.
type TargetUsage struct {
	Project, Target   string
	Exclusive, Shared int64 // used by this target alone; used by other targets too
	Built             time.Time
}

// Usage measures the cache.
func (s *Store) Usage() (Usage, error) {
	v, err := s.survey()
	if err != nil {
		return Usage{}, err
	}
	u := Usage{
		Layers:  v.parts[dirLayers],
		Blobs:   v.parts[dirBlobs],
		Mounts:  v.parts[dirMounts],
		Logs:    v.parts[dirLogs] + v.parts[dirBuilds] + v.parts[dirPast] + v.parts[dirLists] + v.parts[dirOutputs],
		Entries: v.parts[dirEntries] + v.parts[dirCandidates] + v.parts[dirClaimed] + v.parts[dirPacked],
		Total:   v.total,
	}
	u.Other = u.Total - u.Layers - u.Blobs - u.Mounts - u.Logs - u.Entries
	space, err := SpaceOf(s.dir)
	if err != nil {
		return u, err
	}
	u.Free, u.Disk = space.Free, space.Size
	roots, err := s.rootBlobs()
	if err != nil {
		return u, err
	}
	l, err := s.leases(true)
	if err != nil {
		return u, err
	}
	for _, it := range v.items {
		switch {
		case it.isRoot(roots):
			u.Roots += it.size
		case l.busy(it.used, v.now):
			u.Busy += it.size
		default:
			u.Freeable += it.size
		}
	}
	s.addTargets(&u, v)
	return u, nil
}

// addTargets adds the usage of each target and what no target refers to.
func (s *Store) addTargets(u *Usage, v *survey) {
	targetRefs := s.targetRefs()
	users := map[string]int{}
	for _, c := range targetRefs {
		for _, p := range c.paths {
			users[p]++
		}
	}
	sizes := map[string]int64{}
	for _, it := range v.items {
		path := filepath.Join(it.dir, it.name)
		sizes[path] = it.size
		if users[path] == 0 && it.dir != dirLogs && it.dir != dirBuilds && it.dir != dirStat {
			u.Unreferenced += it.size
		}
	}
	for _, c := range targetRefs {
		t := TargetUsage{Project: c.project, Target: c.target, Built: c.built}
		for _, p := range c.paths {
			if users[p] == 1 {
				t.Exclusive += sizes[p]
			} else {
				t.Shared += sizes[p]
			}
		}
		u.Targets = append(u.Targets, t)
	}
}
