package policy

import (
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// within returns where in the file a fault of an expression is; of one whose
// lines YAML folds, where the expression begins.
func (r *reader) within(n ast.Node, e *exprError) (line, column int) {
	begin := position(n)
	if block, ok := n.(*ast.LiteralNode); ok {
		first := begin.Line // the line after the header, which is counted from 1
		text := r.line(first)
		indent := len(text) - len(strings.TrimLeft(text, " "))
		if strings.HasPrefix(block.Start.Value, ">") {
			return first + 1, indent + 1
		}
		return first + 1 + e.line, indent + e.column + 1
	}
	text := []rune(r.line(begin.Line - 1))
	if e.line > 0 || begin.Column > len(text) {
		return begin.Line, begin.Column
	}
	at, ok := advance(text[begin.Column-1:], e.column)
	if !ok {
		return begin.Line, begin.Column
	}
	return begin.Line, begin.Column + at
}

// line returns a line of the file, from 0.
func (r *reader) line(i int) string {
	if i < len(r.lines) {
		return r.lines[i]
	}
	return ""
}

// advance returns how many characters of the file n characters of a scalar
// take that begins the text, its opening quote included. It is not ok when the
// scalar does not reach that far in this line.
func advance(text []rune, n int) (at int, ok bool) {
	quote := text[0]
	if quote != '\'' && quote != '"' {
		return n, n <= len(text)
	}
	at = 1
	for range n {
		switch {
		case at >= len(text):
			return 0, false
		case quote == '\'' && text[at] == '\'':
			at += 2
		case quote == '"' && text[at] == '\\':
			at += escape(text[at:])
		default:
			at++
		}
	}
	return at, at <= len(text)
}

// escape returns the length of a YAML escape sequence.
func escape(text []rune) int {
	if len(text) < 2 {
		return 1
	}
	switch text[1] {
	case 'x':
		return 2 + 2
	case 'u':
		return 2 + 4
	case 'U':
		return 2 + 8
	}
	return 2
}
