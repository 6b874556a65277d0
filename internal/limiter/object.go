package limiter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// chunkTimeout bounds the wait for one chunk of an object, so that a load that
// does not move ends. A server that is well gives one within milliseconds; this
// is room for one whose disk is busy with the journals that all shards read.
const chunkTimeout = 10 * time.Second

// objectReader reads an object of the object store chunk by chunk, each asked for
// by itself. The client's own reader has the server send them, and waits in vain
// for those that are gone: when they expired before the object, or when another
// owner has purged them. Asked for, a chunk that is gone is an error at once.
// Bucket, stream and subjects are those of NATS' ADR-20.
type objectReader struct {
	ctx     context.Context
	stream  jetstream.Stream
	subject string // of its chunks
	next    uint64 // from which sequence on the next one is looked for
	left    uint32 // chunks to come
	rest    []byte // of the last one
	digest  hash.Hash
	want    []byte // digest of all of it
}

// openObject begins to read an object, until ctx ends. The error is
// jetstream.ErrBucketNotFound or ErrObjectNotFound if it is not there.
func openObject(ctx context.Context, js jetstream.JetStream, bucket, name string) (*objectReader, error) {
	store, err := js.ObjectStore(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", bucket, err)
	}
	object, err := store.GetInfo(ctx, name)
	if err != nil {
		return nil, err
	}
	want, err := jetstream.DecodeObjectDigest(object.Digest)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, objectStream(bucket))
	if err != nil {
		return nil, err
	}
	return &objectReader{ctx: ctx, stream: stream, subject: chunkSubject(bucket, object.NUID), next: 1, left: object.Chunks,
		digest: sha256.New(), want: want}, nil
}

// objectStream is the stream of a bucket of the object store.
func objectStream(bucket string) string { return "OBJ_" + bucket }

// chunkSubject is the subject of the chunks of one attempt to store an object.
func chunkSubject(bucket, attempt string) string { return "$O." + bucket + ".C." + attempt }

// Read implements io.Reader. At the end it sees whether the digest is right.
func (r *objectReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.left == 0 {
			if !bytes.Equal(r.digest.Sum(nil), r.want) {
				return 0, jetstream.ErrDigestMismatch
			}
			return 0, io.EOF
		}
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// more reads the next chunk.
func (r *objectReader) more() error {
	ctx, cancel := context.WithTimeout(r.ctx, chunkTimeout)
	defer cancel()
	m, err := r.stream.GetMsg(ctx, r.next, jetstream.WithGetMsgSubject(r.subject))
	if err != nil {
		return fmt.Errorf("the chunk after %d of stream %s: %w", r.next-1, r.stream.CachedInfo().Config.Name, err)
	}
	r.next, r.rest = m.Sequence+1, m.Data
	r.left--
	_, _ = r.digest.Write(m.Data) // never fails
	return nil
}

// purgeAttempts removes from a bucket of one object the chunks that are not the
// object's: attempts to store it whose owner was killed, or was another at the
// same time. Nothing else removes them before they expire, and an owner that is
// killed again and again would fill the disk that the journal is on. A bound on
// the bucket's bytes would not do: the server keeps that much free of other
// streams from the beginning. When two take themselves for the owner one may
// purge what the other stores: that object then lacks chunks, and is not used.
func purgeAttempts(ctx context.Context, js jetstream.JetStream, store jetstream.ObjectStore, bucket, name string) error {
	object, err := store.GetInfo(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		object, err = new(jetstream.ObjectInfo), nil
	}
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, objectStream(bucket))
	if err != nil {
		return err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(chunkSubject(bucket, ">")))
	if err != nil {
		return err
	}
	for subject := range info.State.Subjects {
		if subject == chunkSubject(bucket, object.NUID) {
			continue
		}
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return err
		}
	}
	return nil
}
