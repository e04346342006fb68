package executor

import "bytes"

// minSecret is the shortest value that is masked: shorter ones would make an output unreadable and protect nothing.
const minSecret = 4

// mask is what stands in an output in place of a secret value.
const mask = "***"

// Masker replaces secret values in a stream. It holds back only what may be the beginning of one.
type Masker struct {
	secrets [][]byte
	held    []byte
	out     func([]byte)
}

// NewMasker writes to out, with the values of secrets replaced, also where they are written in pieces. A value that
// ends in a newline is masked without it too.
func NewMasker(secrets [][]byte, out func([]byte)) *Masker {
	m := &Masker{out: out}
	for _, s := range secrets {
		if s = bytes.TrimRight(s, "\r\n"); len(s) >= minSecret {
			m.secrets = append(m.secrets, s)
		}
	}
	return m
}

// Write never fails.
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

// Close sends what was held back.
func (m *Masker) Close() error {
	if len(m.held) > 0 {
		m.out(m.held)
		m.held = nil
	}
	return nil
}

// overlap is the length of the longest end of text that is a beginning of secret, but not all of it.
func overlap(text, secret []byte) int {
	for n := min(len(text), len(secret)-1); n > 0; n-- {
		if bytes.HasPrefix(secret, text[len(text)-n:]) {
			return n
		}
	}
	return 0
}
