package journal

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// Block is one message of a journal.
type Block struct {
	Seq       uint64
	Stored    time.Time // by the server's clock, whole microseconds
	Owner     string    // who appended it
	ReportSeq uint64    // sequence of the last report applied up to its end
	Reports   int64     // the stream that this sequence is of: when it was made, nanoseconds since 1970; 0 if that is not known
	Overrides uint64    // sequence of the oldest block with an override by hand in force; 0 if there is none
	Count     int       // records in it, as its header says
	Body      string    // one record a line
}

// Records calls each with every record of the block in order. The record is
// reused from call to call; its strings share the block's memory. It stops at
// the first error, which names the block and the place.
func (b *Block) Records(each func(index int, r *events.Record) error) error {
	var r events.Record
	index := 0
	for line := range strings.Lines(b.Body) {
		err := events.DecodeRecord(strings.TrimSuffix(line, "\n"), &r)
		if err == nil {
			if r.Control != nil {
				r.Control.Block = b.Seq
			}
			err = each(index, &r)
		}
		if err != nil {
			return fmt.Errorf("block %d, record %d: %w", b.Seq, index, err)
		}
		index++
	}
	if index != b.Count {
		return fmt.Errorf("block %d: header says %d records, found %d", b.Seq, b.Count, index)
	}
	return nil
}

// Controls calls each with what the block says was done by hand, in order, and
// passes over what else it holds. Lines that cannot be read are for Records to
// tell of.
func (b *Block) Controls(each func(r *events.Record)) {
	var r events.Record
	for line := range strings.Lines(b.Body) {
		if events.IsControl(line) && events.DecodeRecord(strings.TrimSuffix(line, "\n"), &r) == nil && r.Control != nil {
			r.Control.Block = b.Seq
			each(&r)
		}
	}
}

// Blocks reads a journal in order. It is for one goroutine.
type Blocks struct {
	messages *Messages
}

// Blocks begins to read. The caller must Stop it.
func (j *Journal) Blocks(ctx context.Context, start Start) (*Blocks, error) {
	messages, err := j.Messages(ctx, start)
	if err != nil {
		return nil, err
	}
	return &Blocks{messages}, nil
}

// ErrForeign says that a message of the journal bears no block's headers: no
// Appender has put it there.
var ErrForeign = errors.New("not a block")

// Next waits for the next block, until ctx ends. With ErrForeign it returns
// what is known of the message, and reading can go on.
func (b *Blocks) Next(ctx context.Context) (Block, error) {
	m, err := b.messages.Next(ctx)
	if err != nil {
		return Block{}, err
	}
	return m.Block()
}

// Stop ends reading.
func (b *Blocks) Stop() { b.messages.Stop() }

// Block reads a journal's message as a block. With ErrForeign it returns what is
// known of it.
func (m *Message) Block() (Block, error) {
	b := Block{Seq: m.Seq, Stored: m.Stored, Owner: m.Header.Get(headerOwner), Body: string(m.Data)}
	var err error
	if b.Count, err = strconv.Atoi(m.Header.Get(headerCount)); err != nil {
		return b, fmt.Errorf("message %d: %w: header %s: %w", b.Seq, ErrForeign, headerCount, err)
	}
	if b.ReportSeq, err = strconv.ParseUint(m.Header.Get(headerReport), 10, 64); err != nil {
		return b, fmt.Errorf("message %d: %w: header %s: %w", b.Seq, ErrForeign, headerReport, err)
	}
	if text := m.Header.Get(headerReportStream); text != "" {
		if b.Reports, err = strconv.ParseInt(text, 10, 64); err != nil {
			return b, fmt.Errorf("message %d: %w: header %s: %w", b.Seq, ErrForeign, headerReportStream, err)
		}
	}
	if text := m.Header.Get(headerOverrides); text != "" {
		if b.Overrides, err = strconv.ParseUint(text, 10, 64); err != nil {
			return b, fmt.Errorf("message %d: %w: header %s: %w", b.Seq, ErrForeign, headerOverrides, err)
		}
	}
	return b, nil
}

// Read calls each with the blocks from start up to the one with sequence last,
// which the journal must hold, as Extent told. What is no block is passed over.
func (j *Journal) Read(ctx context.Context, start Start, last uint64, each func(Block) error) error {
	blocks, err := j.Blocks(ctx, start)
	if err != nil {
		return err
	}
	defer blocks.Stop()
	for {
		b, err := blocks.Next(ctx)
		foreign := errors.Is(err, ErrForeign)
		if err != nil && !foreign {
			return err
		}
		if b.Seq <= last && !foreign {
			if err := each(b); err != nil {
				return err
			}
		}
		if b.Seq >= last {
			return nil
		}
	}
}
