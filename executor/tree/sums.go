package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

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
		return sum, fmt.Errorf("unsupported digest %q: expected sha256", d)
	}
	_, err = hex.Decode(sum[:], []byte(d.Encoded()))
	return sum, err
}

// DigestOf returns the digest of the unread rest of a file. size, an estimate in bytes, sets the size of the buffer.
func DigestOf(ctx context.Context, r io.Reader, size int64) (digest.Digest, error) {
	sum, err := sumOfFile(ctx, r, size)
	if err != nil {
		return "", err
	}
	return digestOfSum(sum), nil
}

// sumOfFile is DigestOf with the bytes of the SHA-256 as result.
func sumOfFile(ctx context.Context, r io.Reader, size int64) (sum [32]byte, err error) {
	h := sha256.New()
	buf := make([]byte, min(max(size+1, 512), 64<<10)) // a small file in one piece
	for {
		if err := ctx.Err(); err != nil {
			return sum, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return [32]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return sum, err
		}
	}
}
