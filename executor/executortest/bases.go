package executortest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// busybox is the path of the one program in the bases, without the leading slash.
const busybox = "bin/busybox"

// applets are the symbolic links to it.
const applets = "sh ash cat ls mkdir rmdir rm mv cp ln chmod chown chgrp touch mkfifo mknod id env printenv echo " +
	"printf test true false sleep stat find grep sed awk head tail wc sort tr cut dd mount umount df hostname uname " +
	"ulimit sha256sum readlink tar dirname basename pwd expr seq kill ps tee xargs date od nc wget ping"

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n1234:x:77:78::/:/bin/sh\n"
	group  = "root:x:0:\napp:x:1000:\naudio:x:29:app\ndev:x:50:app\n"
)

// Bases returns the base images of the cases, by repository, built around a static busybox of this machine.
func Bases(program string) (map[string]v1.Image, error) {
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("create the bases: %w", err)
	}
	system, err := archiveWith(binary, append([]string{
		"d:etc/", "f:etc/passwd:" + strings.ReplaceAll(passwd, ":", "\x00"), "f:etc/group:" +
			strings.ReplaceAll(group, ":", "\x00"),
		"d:root/::700", "d:home/", "d:home/app/::755:1000:1000", "d:tmp/::1777", "d:usr/", "d:usr/lib/",
	}, programs()...))
	if err != nil {
		return nil, err
	}
	bare, err := archiveWith(binary, programs())
	if err != nil {
		return nil, err
	}
	path := v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}}
	all := map[string]v1.Image{}
	add := func(name string, config v1.Config, layers ...[]byte) {
		if err == nil {
			all[name], err = imageOf(config, layers)
		}
	}
	add("busybox", path, system)
	add("bare", v1.Config{}, bare)
	add("onbuild", v1.Config{Env: path.Env, OnBuild: []string{"COPY . /on/", "RUN echo built >/on/mark", "ENV A=on"}},
		system)
	add("conf", fullConfig(), system)
	add("odd", path, append([][]byte{system}, oddLayers()...)...)
	add("device", path, system, deviceLayer())
	add("deep", path, append([][]byte{system}, deepLayers()...)...)
	return all, err
}

func programs() []string {
	// Real bases have dev, proc and sys. BuildKit would leave them behind in a root without them.
	all := []string{"d:dev/", "d:proc/", "d:sys/", "d:bin/", "f:" + busybox + "::755"}
	for name := range strings.FieldsSeq(applets) {
		all = append(all, "l:bin/"+name+":/"+busybox)
	}
	return all
}

// archiveWith returns an archive of entries in which \x00 stands for a colon, with binary as the content of busybox.
func archiveWith(binary []byte, entries []string) ([]byte, error) {
	return makeArchive(entries, func(name, text string) string {
		if name == busybox {
			return string(binary)
		}
		return strings.ReplaceAll(text, "\x00", ":")
	})
}

// fullConfig returns a config with every field set.
func fullConfig() v1.Config {
	return v1.Config{
		User: "app", WorkingDir: "/work", Env: []string{"PATH=/bin", "A=base", "HOME=/elsewhere"},
		Labels:     map[string]string{"l": "base"},
		Entrypoint: []string{"/bin/echo"}, Cmd: []string{"hello"}, ExposedPorts: map[string]struct{}{"80/tcp": {}},
		Volumes: map[string]struct{}{"/data": {}}, StopSignal: "SIGUSR1", Shell: []string{"/bin/sh", "-ec"},
		Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "true"}, Interval: 3 * time.Second},
	}
}

// oddLayers returns a layer with every kind of file that is easy to get wrong, and one that removes some of them.
func oddLayers() [][]byte {
	long := strings.Repeat("n", 255)
	one := []string{
		"d:real/::750:5:6", "f:real/file:one::7:8", "l:link:/real", "l:rel:real/file", "l:dangling:/nowhere/x",
		"h:real/hard:real/file::7:8",
		"f:suid:x:4755", "d:sticky/::1777", "p:pipe", "x:capable:program", "f:bytes-\xff\xfe:raw", "f:" + long +
			":long",
		"d:opaque/", "f:opaque/old:old", "d:opaque/sub/", "f:opaque/sub/deep:deep", "f:gone:x", "d:gonedir/",
		"f:gonedir/x:x",
		"f:becomes-dir:x", "d:becomes-file/", "f:becomes-file/x:x", "l:link-becomes-dir:/real", "d:locked/::0",
		"f:locked/x:x:0",
	}
	two := []string{
		"f:opaque/.wh..wh..opq:", "f:opaque/new:new", "f:.wh.gone:", "f:.wh.gonedir:", "d:becomes-dir/",
		"f:becomes-dir/x:x",
		"f:becomes-file:x", "f:implied/by/file:x::3:4", "f:real/file:two::7:8", "d:link-becomes-dir/::700",
	}
	var layers [][]byte
	for _, entries := range [][]string{one, two} {
		raw, err := archive(entries)
		if err != nil {
			return nil
		}
		layers = append(layers, raw)
	}
	return layers
}

// deviceLayer returns a layer with a device, which an unprivileged user cannot create.
func deviceLayer() []byte {
	raw, err := archive([]string{"d:devices/", "c:devices/null"})
	if err != nil {
		return nil
	}
	return raw
}

// deepLayers returns more layers than fit into the one page of mount options.
func deepLayers() [][]byte {
	var layers [][]byte
	for i := range 120 {
		raw, err := archive([]string{"d:deep/", fmt.Sprintf("f:deep/%03d:%d", i, i), fmt.Sprintf("f:deep/last:%d", i)})
		if err != nil {
			return nil
		}
		layers = append(layers, raw)
	}
	return layers
}

func imageOf(config v1.Config, layers [][]byte) (v1.Image, error) {
	var read []v1.Layer
	for _, raw := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(raw)), nil
		}, tarball.WithCompressedCaching)
		if err != nil {
			return nil, err
		}
		read = append(read, l)
	}
	image, err := mutate.AppendLayers(empty.Image, read...) // one call for each layer makes a push quadratic
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	return mutate.ConfigFile(image, file)
}
