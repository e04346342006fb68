package executortest

import (
	"encoding/binary"
	"fmt"
	"runtime"
)

// TruePath is the path of TrueProgram in ToolImage.
const TruePath = "/bin/true"

// TrueProgram returns an executable of some 130 bytes that exits at once with 0. Its run time is the overhead of
// running a step.
func TrueProgram() ([]byte, error) {
	code := map[string]struct {
		machine uint16
		code    []byte
	}{
		// xor edi, edi; mov eax, 60 (exit); syscall
		"amd64": {62, []byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05}},
		// mov x0, #0; mov x8, #93 (exit); svc #0
		"arm64": {183, []byte{0x00, 0x00, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4}},
	}
	one, ok := code[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no minimal program for %s", runtime.GOARCH)
	}
	const header, segment, base = 64, 56, 0x400000
	le := binary.LittleEndian
	file := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00") // 64 bits, little endian
	file = le.AppendUint16(file, 2)                                           // an executable
	file = le.AppendUint16(file, one.machine)
	file = le.AppendUint32(file, 1)
	file = le.AppendUint64(file, base+header+segment) // entry point
	file = le.AppendUint64(file, header)              // offset of the program headers
	file = le.AppendUint64(file, 0)
	file = le.AppendUint32(file, 0)
	for _, n := range []uint16{header, segment, 1, 64, 0, 0} {
		file = le.AppendUint16(file, n)
	}
	size := uint64(header + segment + len(one.code))
	file = le.AppendUint32(file, 1) // one loadable segment: the whole file,
	file = le.AppendUint32(file, 5) // readable and executable
	for _, n := range []uint64{0, base, base, size, size, 0x1000} {
		file = le.AppendUint64(file, n)
	}
	return append(file, one.code...), nil
}
