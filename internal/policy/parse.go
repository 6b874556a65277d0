package policy

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/weirhq/weir/internal/events"
)

// read returns the one YAML document in src.
func read(src []byte) (ast.Node, *Fault) {
	whole := func(value, want string) *Fault {
		return &Fault{Line: 1, Column: 1, Err: &events.FieldError{Value: value, Want: want}}
	}
	switch {
	case len(src) > maxSource:
		return nil, whole(strconv.Itoa(len(src))+" bytes", "at most "+strconv.Itoa(maxSource)+" bytes")
	case !utf8.Valid(src) || bytes.IndexByte(src, 0) >= 0:
		return nil, whole(string(src), "UTF-8 without NUL")
	}
	tokens := lexer.Tokenize(string(src))
	if fault := nesting(tokens); fault != nil {
		return nil, fault
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			at := syntax.GetToken().Position
			return nil, &Fault{Line: at.Line, Column: at.Column, Err: errors.New(syntax.GetMessage())}
		}
		return nil, &Fault{Line: 1, Column: 1, Err: err}
	}
	switch {
	case len(file.Docs) == 0 || file.Docs[0].Body == nil:
		return nil, whole("", "a policy that begins with version: 1")
	case len(file.Docs) > 1:
		return nil, whole(strconv.Itoa(len(file.Docs))+" documents", "one document")
	}
	return file.Docs[0].Body, nil
}

// nesting refuses what would keep the YAML parser busy: its time grows with
// the square of the depth, to minutes for a file of brackets.
func nesting(tokens token.Tokens) *Fault {
	depth, entries := 0, 0
	for _, t := range tokens {
		entries++
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth = max(0, depth-1)
		case token.SequenceEntryType, token.MappingKeyType:
			// "- - - -" nests with each dash
		default:
			entries = 0
		}
		if depth > maxNesting || entries > maxNesting {
			return &Fault{Line: t.Position.Line, Column: t.Position.Column, Err: &events.FieldError{
				Value: t.Value, Want: "lists and maps nested at most " + strconv.Itoa(maxNesting) + " deep"}}
		}
	}
	return nil
}

// reader turns the nodes of a document into a policy and notes every fault.
type reader struct {
	policy *Policy
	lines  []string // of the file
	faults []*Fault
}

func (r *reader) fault(at ast.Node, err error) {
	p := position(at)
	r.faults = append(r.faults, &Fault{Line: p.Line, Column: p.Column, Err: err})
}

func (r *reader) want(at ast.Node, field, want string) {
	r.fault(at, &events.FieldError{Field: field, Value: shown(at), Want: want})
}

// position returns where a node begins.
func position(n ast.Node) *token.Position {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return n.Values[0].Key.GetToken().Position
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken().Position
	}
	return n.GetToken().Position
}

// shown returns a node as it can be quoted in an error.
func shown(n ast.Node) string {
	switch n.(type) {
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return ""
	}
	if isMap(n) {
		return "a map"
	}
	if text, ok := scalar(n); ok {
		return text
	}
	return n.GetToken().Value
}

// scalar returns the text of a plain or quoted value.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// text reads a value that must be text.
func (r *reader) text(n ast.Node, field, want string) (string, bool) {
	s, ok := scalar(n)
	if !ok || s == "" {
		r.want(n, field, want)
		return "", false
	}
	return s, true
}

// list reads a value that must be a list of texts.
func (r *reader) list(n ast.Node, field string, most int, entry func(at ast.Node, text string)) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok || len(seq.Values) == 0 || len(seq.Values) > most {
		r.want(n, field, "a list such as [a, b] of 1 to "+strconv.Itoa(most)+" entries")
		return
	}
	for _, v := range seq.Values {
		if text, ok := r.text(v, field, "a text"); ok {
			entry(v, text)
		}
	}
}

// field is one field of a map.
type field struct {
	name string
	must bool
	read func(n ast.Node)
}

// fields reads a map of known fields.
func (r *reader) fields(n ast.Node, in string, known ...field) {
	seen := map[string]bool{}
	r.members(n, in, func(key ast.Node, name string, value ast.Node) {
		i := slices.IndexFunc(known, func(f field) bool { return f.name == name })
		if i < 0 {
			r.want(key, in, "one of "+names(known))
			return
		}
		seen[name] = true
		known[i].read(value)
	})
	for _, f := range known {
		if f.must && !seen[f.name] && isMap(n) {
			r.fault(n, &events.FieldError{Field: f.name, Want: "this field in " + in})
		}
	}
}

func names(known []field) string {
	list := make([]string, len(known))
	for i, f := range known {
		list[i] = f.name
	}
	return strings.Join(list, ", ")
}

func isMap(n ast.Node) bool {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

// members visits the keys and values of a map.
func (r *reader) members(n ast.Node, in string, visit func(key ast.Node, name string, value ast.Node)) {
	if !isMap(n) {
		r.want(n, in, "a map")
		return
	}
	for it := n.(ast.MapNode).MapRange(); it.Next(); {
		if name, ok := r.text(it.Key(), in, "a plain key"); ok {
			visit(it.Key(), name, it.Value())
		}
	}
}
