package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/revision"
)

type policyCommand struct {
	Lint     lintCommand     `cmd:"" help:"Name every fault of policy files; exits 1 on errors, not on warnings."`
	Apply    applyCommand    `cmd:"" help:"Make a policy file the one that runs."`
	Show     showCommand     `cmd:"" help:"Print the policy that runs, or ran."`
	History  historyCommand  `cmd:"" help:"List the policies that ran."`
	Rollback rollbackCommand `cmd:"" help:"Make a policy that ran before the one that runs."`
	Schema   schemaCommand   `cmd:"" help:"Print the JSON Schema of policy files, for editors."`
}

type lintCommand struct {
	Files []string `help:"Policy files; - is standard input." arg:"" name:"file"`
}

// Run prints the faults of all files.
func (c *lintCommand) Run(out console) error {
	faulty := 0
	for _, path := range c.Files {
		text, err := readPolicy(path, out.in)
		if err != nil { // the others may still be looked at
			fmt.Fprintf(out.out, "%s: %v\n", path, err)
			faulty++
			continue
		}
		faults := policy.Lint(text)
		if printFaults(out.out, path, faults) > 0 {
			faulty++
		}
		if len(faults) == 0 {
			fmt.Fprintf(out.out, "%s: no faults\n", path)
		}
	}
	if faulty > 0 {
		return fmt.Errorf("policy: errors in %d of %d files", faulty, len(c.Files))
	}
	return nil
}

func readPolicy(path string, stdin io.Reader) ([]byte, error) {
	read := func() ([]byte, error) { return os.ReadFile(path) }
	if path == "-" {
		read = func() ([]byte, error) { return io.ReadAll(stdin) }
	}
	text, err := read()
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return text, nil
}

// printFaults prints faults as editors find them, and counts the errors.
func printFaults(w io.Writer, path string, faults []*policy.Fault) (count int) {
	for _, f := range faults {
		severity := "warning: "
		if f.Severity == policy.Error {
			severity = ""
			count++
		}
		fmt.Fprintf(w, "%s:%d:%d: %s%v\n", path, f.Line, f.Column, severity, f.Err)
	}
	return count
}

type schemaCommand struct{}

// Run prints the schema.
func (*schemaCommand) Run(out console) error {
	_, err := io.WriteString(out.out, policy.Schema())
	return err
}

// policyFlags are for commands about the policy that runs.
type policyFlags struct {
	dataFlag
	busFlags
}

// open connects to where the policies are.
func (f *policyFlags) open(ctx context.Context) (*policies, error) {
	nc, err := f.connect(ctx, f.dataFlag)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &policies{js, events.Names{Prefix: f.Prefix}}, nil
}

// policies is where a running system has its policies.
type policies struct {
	js    jetstream.JetStream
	names events.Names
}

func (p *policies) close() { p.js.Conn().Close() }

// revision returns one of those that are kept.
func (p *policies) revision(ctx context.Context, number uint64) (revision.Revision, error) {
	list, err := revision.History(ctx, p.js, p.names)
	if err != nil {
		return revision.Revision{}, err
	}
	for _, r := range list {
		if r.Number == number {
			return r, nil
		}
	}
	return revision.Revision{}, fmt.Errorf("policy: no revision %d is kept (see 'weir policy history')", number)
}

// changeFlags are for commands that change the policy.
type changeFlags struct {
	policyFlags
	DryRun bool    `help:"Show what would change, and change nothing."`
	Expect *uint64 `help:"Change nothing unless this revision runs." placeholder:"REVISION"`
}

// change makes a text that parses the policy that runs, and shows what that
// changes. source is what the text is called.
func (f *changeFlags) change(ctx context.Context, p *policies, source string, text []byte, out io.Writer) error {
	current, err := revision.Newest(ctx, p.js, p.names)
	if err != nil {
		return err
	}
	if f.Expect != nil && *f.Expect != current.Number {
		return fmt.Errorf("%w: revision %d runs, not %d", revision.ErrChanged, current.Number, *f.Expect)
	}
	if bytes.Equal(current.Text, text) {
		_, err = fmt.Fprintf(out, "Nothing to change: revision %d says the same.\n", current.Number)
		return err
	}
	if _, err := io.WriteString(out, diff(fmt.Sprintf("revision %d", current.Number), source, current.Text, text)); err != nil {
		return err
	}
	if f.DryRun {
		return nil
	}
	applied, err := revision.Put(ctx, p.js, p.names, text, current.Number)
	if errors.Is(err, revision.ErrChanged) {
		return fmt.Errorf("%w; look at it, and try again", err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "Revision %d is applied.\n", applied)
	return err
}

type applyCommand struct {
	changeFlags
	File string `help:"Policy file; - is standard input." arg:""`
}

// Run applies a file that has no errors.
func (c *applyCommand) Run(ctx context.Context, out console) error {
	text, err := readPolicy(c.File, out.in)
	if err != nil {
		return err
	}
	if printFaults(out.err, c.File, policy.Lint(text)) > 0 {
		return fmt.Errorf("policy: %s has errors, and nothing is changed", c.File)
	}
	p, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	return c.change(ctx, p, c.File, text, out.out)
}

type rollbackCommand struct {
	changeFlags
	Revision uint64 `help:"The revision to go back to; 0 is the built-in policy." arg:""`
}

// Run applies the text of a revision again, as a new one.
func (c *rollbackCommand) Run(ctx context.Context, out console) error {
	p, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	r, err := p.revision(ctx, c.Revision)
	if err != nil {
		return err
	}
	if _, err := r.Policy(); err != nil {
		return err
	}
	return c.change(ctx, p, fmt.Sprintf("revision %d", r.Number), r.Text, out.out)
}

type showCommand struct {
	policyFlags
	Revision *uint64 `help:"The revision to print; default: the one that runs." placeholder:"REVISION"`
}

// Run prints a policy as it was written.
func (c *showCommand) Run(ctx context.Context, out console) error {
	p, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	var r revision.Revision
	if c.Revision == nil {
		r, err = revision.Newest(ctx, p.js, p.names)
	} else {
		r, err = p.revision(ctx, *c.Revision)
	}
	if err != nil {
		return err
	}
	_, err = out.out.Write(r.Text)
	return err
}

type historyCommand struct {
	policyFlags
}

// Run lists the revisions, the newest first.
func (c *historyCommand) Run(ctx context.Context, out console) error {
	p, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	list, err := revision.History(ctx, p.js, p.names)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(out.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REVISION\tAPPLIED\tLINES")
	for i := len(list) - 1; i >= 0; i-- {
		applied, lines := "built in", fmt.Sprint(len(split(list[i].Text)))
		if list[i].Number > 0 {
			applied = list[i].Applied.Format(time.DateTime) + " UTC"
		}
		if i > 0 {
			added, removed := count(edits(split(list[i-1].Text), split(list[i].Text)))
			lines += fmt.Sprintf(" (+%d -%d)", added, removed)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\n", list[i].Number, applied, lines)
	}
	return t.Flush()
}
