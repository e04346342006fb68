package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

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

func sumOfDigest(d digest.Digest) (sum [32]byte, err error) {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return sum, fmt.Errorf("%q is no digest of the kind that is used here", d)
	}
	_, err = hex.Decode(sum[:], []byte(d.Encoded()))
	return sum, err
}
