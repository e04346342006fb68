package planner

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// warnOfTags warns of tags that targets with different images share, because only one of the images keeps the tag.
func (m *merger) warnOfTags() {
	contents := map[string]string{} // by target
	tags := map[string][]string{}
	known := map[[2]string]bool{} // tags and targets in tags
	var order []string
	for _, image := range m.graph.Images {
		for _, tag := range image.Tags {
			tag = fullTag(tag)
			if tags[tag] == nil {
				order = append(order, tag)
			}
			if named := [2]string{tag, image.Target}; !known[named] {
				known[named] = true
				tags[tag] = append(tags[tag], image.Target)
			}
		}
		contents[image.Target] += image.content()
	}
	for _, tag := range order {
		owners := tags[tag]
		if !slices.ContainsFunc(owners, func(t string) bool { return contents[t] != contents[owners[0]] }) {
			continue
		}
		m.warn(Warning{Target: owners[0], Message: fmt.Sprintf("targets %s share the tag %s but build different "+
			"images, "+
			"and only one image keeps the tag; give each target its own tag", strings.Join(owners, ", "), tag)})
	}
}

// fullTag returns a tag with its optional parts filled in, so that different spellings of a tag are equal.
func fullTag(tag string) string {
	named, err := reference.ParseNormalizedNamed(tag)
	if err != nil {
		return tag // an invalid tag is reported when the image is written
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// content returns a text that is equal for images with the same content.
func (i *Image) content() string {
	root := ""
	if i.Root.Step != nil {
		root = fmt.Sprint(i.Root.Step.Digest, i.Root.Index)
	}
	return fmt.Sprintf("%s %x %q\n", root, sha256.Sum256(i.Config), i.Annotations)
}
