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
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:]))
}

func sumOfDigest(d digest.Digest) (sum [32]byte, ok bool) {
	raw, err := hex.DecodeString(d.Encoded())
	if err != nil || len(raw) != len(sum) {
		return sum, false
	}
	return [32]byte(raw), true
}
