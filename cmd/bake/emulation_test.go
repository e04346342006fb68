package main

import (
	"bytes"
	bin "encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// emulator runs arm64 programs on other architectures.
const emulator = "/usr/bin/qemu-aarch64-static"

// register creates the binfmt_misc table of a user namespace, registers arm64 there, and runs the rest of its
// arguments.
const register = `set -e
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' ':bake-test:M::` +
	`\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:` +
	`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:` +
	emulator + `:F' >/proc/sys/fs/binfmt_misc/register
exec "$@"`

// program returns an ELF file for a machine: the code, followed by the name of the directory that the code creates.
func program(machine uint16, code []byte) []byte {
	const base, start = 0x400000, 64 + 56
	text := append(code, "/made\x00"...)
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, v := range []any{
		uint16(2), machine, uint32(1), uint64(base + start), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56),
		uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), uint64(start + len(text)),
		uint64(start + len(text)), uint64(0x1000),
	} {
		_ = bin.Write(&b, bin.LittleEndian, v) // a write to memory does not fail
	}
	return append(b.Bytes(), text...)
}

// programs returns, by architecture, programs that call mkdirat(AT_FDCWD, "/made", 0755) and exit with 0.
func programs() map[string][]byte {
	var arm []byte
	for _, word := range []uint32{0x92800c60, 0x100000e1, 0xd2803da2, 0xd2800448, 0xd4000001, 0xd2800000, 0xd2800ba8,
		0xd4000001} {
		arm = bin.LittleEndian.AppendUint32(arm, word)
	}
	amd := []byte("\xbf\x9c\xff\xff\xff\x48\x8d\x35\x15\x00\x00\x00\xba\xed\x01\x00\x00\xb8\x02\x01\x00\x00" +
		"\x0f\x05\x31\xff\xb8\x3c\x00\x00\x00\x0f\x05")
	return map[string][]byte{"amd64": program(62, amd), "arm64": program(183, arm)}
}

// TestEmulatedSteps shows that steps of a foreign platform run where an emulator is registered, and that the index has
// both platforms. Where no emulator is registered, the message says how to register one.
func TestEmulatedSteps(t *testing.T) {
	needSandbox(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the foreign platform of this test is arm64")
	}
	if _, err := os.Stat(emulator); err != nil {
		skip(t, "needs an emulator: apt-get install qemu-user-static")
	}
	c := newCLI(t)
	c.write(t, "bake.hcl", `target "default" {
  dockerfile-inline = "FROM scratch\nARG TARGETARCH\nCOPY --chmod=755 $TARGETARCH /program\nRUN [\"/program\"]"
  platforms         = ["linux/amd64", "linux/arm64"]
  output            = ["type=local,dest=out", "type=oci,dest=image,tar=false"]
}`)
	for name, content := range programs() {
		c.write(t, name, string(content))
	}
	if own, err := os.ReadFile("/proc/sys/fs/binfmt_misc/status"); err != nil ||
		!strings.Contains(string(own), "enabled") {
		_, stderr, code := c.run(t, "build")
		wantMatch(t, "how to register an emulator", stderr, "(?s)linux/arm64.*register an emulator with binfmt_misc")
		if code != 1 {
			t.Errorf("exit %d without an emulator", code)
		}
	}
	bake := bakeCommand(t, "build")
	cmd := exec.Command("unshare", append([]string{"--user", "--map-root-user", "--mount", "sh", "-c", register, "sh"},
		bake.Args...)...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), "BAKE_CACHE_DIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "binfmt_misc: permission denied") {
			skip(t, "needs tables of emulators in user namespaces, of Linux 6.7: %s", out)
		}
		t.Fatalf("%v: %s", err, out)
	}
	for _, platform := range []string{"linux_amd64", "linux_arm64"} {
		if info, err := os.Stat(filepath.Join(c.dir, "out", platform, "made")); err != nil || !info.IsDir() {
			t.Errorf("%s: %v", platform, err)
		}
	}
	index, err := os.ReadFile(filepath.Join(c.dir, "image", "index.json"))
	if err != nil || !strings.Contains(string(index), "image.index.v1+json") {
		t.Errorf("no index of both: %v %s", err, index)
	}
}
