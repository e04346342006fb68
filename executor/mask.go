package executor

import "bytes"

// minSecret is the shortest value that is masked, in bytes. Masking shorter ones would make the output unreadable.
const minSecret = 4

// mask replaces a secret value in the output.
const mask = "***"

// Masker replaces secret values in a stream. It holds back only bytes that may be the beginning of a value.
type Masker struct {
	secrets [][]byte
	held    []byte
	out     func([]byte)
}

// NewMasker returns a Masker that writes to out. It finds values that are split over writes, and values written without
// their trailing newline.
func NewMasker(secrets [][]byte, out func([]byte)) *Masker {
	m := &Masker{out: out}
	for _, s := range secrets {
		if s = bytes.TrimRight(s, "\r\n"); len(s) >= minSecret {
			m.secrets = append(m.secrets, s)
		}
	}
	return m
}

// Write implements io.Writer. It never fails.
func (m *Masker) Write(p []byte) (int, error) {
	if len(m.secrets) == 0 {
		m.out(p)
		return len(p), nil
	}
	text := append(m.held, p...)
	for _, s := range m.secrets {
		text = bytes.ReplaceAll(text, s, []byte(mask))
	}
	keep := 0
	for _, s := range m.secrets {
		keep = max(keep, overlap(text, s))
	}
	if send := text[:len(text)-keep]; len(send) > 0 {
		m.out(send)
	}
	m.held = bytes.Clone(text[len(text)-keep:])
	return len(p), nil
}

// Close writes the bytes held back.
func (m *Masker) Close() error {
	if len(m.held) > 0 {
		m.out(m.held)
		m.held = nil
	}
	return nil
}

// overlap returns the length of the longest suffix of text that is a proper prefix of secret.
func overlap(text, secret []byte) int {
	for n := min(len(text), len(secret)-1); n > 0; n-- {
		if bytes.HasPrefix(secret, text[len(text)-n:]) {
			return n
		}
	}
	return 0
}
