package planner

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// warnOfTags warns of tags that several targets have whose images differ: a tag names one of them in the end.
func (m *merger) warnOfTags() {
	made := map[string]string{} // by target
	tags := map[string][]string{}
	var order []string
	for _, image := range m.graph.Images {
		for _, tag := range image.Tags {
			tag = wholeTag(tag)
			if tags[tag] == nil {
				order = append(order, tag)
			}
			if !slices.Contains(tags[tag], image.Target) {
				tags[tag] = append(tags[tag], image.Target)
			}
		}
		made[image.Target] += image.content()
	}
	for _, tag := range order {
		owners := tags[tag]
		if !slices.ContainsFunc(owners, func(t string) bool { return made[t] != made[owners[0]] }) {
			continue
		}
		m.warn(Warning{Target: owners[0], Message: fmt.Sprintf("targets %s have the tag %s and make different images, of which one keeps it: "+
			"give each a tag of its own", strings.Join(owners, ", "), tag)})
	}
}

// wholeTag is a tag with all that may be left out of it.
func wholeTag(tag string) string {
	named, err := reference.ParseNormalizedNamed(tag)
	if err != nil {
		return tag // what is wrong with it is told where it is written
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// content tells images that hold the same.
func (i *Image) content() string {
	root := ""
	if i.Root.Step != nil {
		root = fmt.Sprint(i.Root.Step.Digest, i.Root.Index)
	}
	return fmt.Sprintf("%s %x %q\n", root, sha256.Sum256(i.Config), i.Annotations)
}
