package tree

import (
	"crypto/sha256"
	"encoding/hex"

	digest "github.com/opencontainers/go-digest"
)

func sumOf(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

func digestOfSum(sum [32]byte) digest.Digest {
	const prefix = "sha256:"
	text := make([]byte, len(prefix), len(prefix)+2*len(sum))
	copy(text, prefix)
	return digest.Digest(hex.AppendEncode(text, sum[:]))
}
