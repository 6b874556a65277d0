package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Log is a stream that is read in order, each message once: a journal, or one
// that is read like it.
type Log struct {
	stream  jetstream.Stream
	name    string
	created time.Time
}

// ErrNone says that a stream, such as a shard's journal, is not there: no limiter
// has made it yet.
var ErrNone = errors.New("not there yet")

// OpenLog opens a stream as it stands. The error is ErrNone if there is none.
func OpenLog(ctx context.Context, js jetstream.JetStream, name string) (*Log, error) {
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s: %w", name, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", name, err)
	}
	l := newLog(stream)
	return &l, nil
}

func newLog(stream jetstream.Stream) Log {
	info := stream.CachedInfo()
	return Log{stream: stream, name: info.Config.Name, created: info.Created}
}

// Identity tells this stream from another that bore the same name: when it was
// made, in nanoseconds since 1970.
func (l *Log) Identity() int64 { return l.created.UnixNano() }

// Extent is what a stream holds at one moment. Without messages, Last is still
// the sequence of the last one there was, and First is Last+1.
type Extent struct {
	First, Last uint64    // sequences
	FirstStored time.Time // when the first message was stored
	LastStored  time.Time // when the last message was stored
	Blocks      uint64    // messages, which are a journal's blocks
	Bytes       uint64
}

// Extent asks the server what the stream holds.
func (l *Log) Extent(ctx context.Context) (Extent, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return Extent{}, fmt.Errorf("stream %s: %w", l.name, err)
	}
	s := info.State
	return Extent{First: s.FirstSeq, Last: s.LastSeq, FirstStored: s.FirstTime, LastStored: s.LastTime, Blocks: s.Msgs, Bytes: s.Bytes}, nil
}

// Start is where reading begins: at a sequence or, without one, at the first
// message stored at a time or later.
type Start struct {
	Seq  uint64
	Time time.Time
}

// readAhead bounds what a reader holds that nobody has asked for yet.
const readAhead = 8 << 20 // bytes

// Messages reads a stream in order. It is for one goroutine.
type Messages struct {
	context jetstream.MessagesContext
}

// Messages begins to read. The caller must Stop it.
func (l *Log) Messages(ctx context.Context, start Start) (*Messages, error) {
	config := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(start.Seq, 1)}
	if start.Seq == 0 {
		config = jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &start.Time}
	}
	// A lost consumer is made again once; the default, for ever, heeds no context.
	config.MaxResetAttempts = 1
	consumer, err := l.stream.OrderedConsumer(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", l.name, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxBytes(readAhead))
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", l.name, err)
	}
	return &Messages{messages}, nil
}

// Message is one message of a stream. Its memory is the reader's to keep.
type Message struct {
	Seq     uint64
	Stored  time.Time // by the server's clock, whole microseconds
	Subject string
	Header  nats.Header
	Data    []byte
}

// Next waits for the next message, until ctx ends.
func (m *Messages) Next(ctx context.Context) (Message, error) {
	msg, err := m.context.Next(jetstream.NextContext(ctx))
	if err != nil {
		return Message{}, fmt.Errorf("next message: %w", err)
	}
	meta, err := msg.Metadata()
	if err != nil {
		return Message{}, fmt.Errorf("next message: %w", err)
	}
	return Message{
		Seq: meta.Sequence.Stream, Stored: meta.Timestamp.UTC().Truncate(time.Microsecond),
		Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data(),
	}, nil
}

// Stop ends reading.
func (m *Messages) Stop() { m.context.Stop() }
