package gateway_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/printer"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// What go doc shows of an alias is its comment alone: the fields are in a package
// that users do not see, so the comment repeats them.
func TestDocShowsFields(t *testing.T) {
	declared := map[string]string{}
	eachType(t, "../internal/events/*.go", func(fset *token.FileSet, file *ast.File, spec *ast.TypeSpec) {
		fields, ok := spec.Type.(*ast.StructType)
		if !ok {
			return
		}
		for _, field := range fields.Fields.List {
			field.Tag = nil
		}
		spec.Doc = nil
		var text bytes.Buffer
		if err := format.Node(&text, fset, &printer.CommentedNode{Node: spec, Comments: file.Comments}); err != nil {
			t.Fatal(err)
		}
		declared[spec.Name.Name] = "type " + text.String()
	})
	shown := 0
	eachType(t, "*.go", func(_ *token.FileSet, _ *ast.File, spec *ast.TypeSpec) {
		alias, ok := spec.Type.(*ast.SelectorExpr)
		if !ok || declared[alias.Sel.Name] == "" {
			return
		}
		shown++
		text := strings.ReplaceAll("\n"+declared[alias.Sel.Name], "\n", "\n\t")
		if want := strings.ReplaceAll(text, "\n\t\n", "\n\n"); !strings.Contains(spec.Doc.Text(), want) {
			t.Errorf("the comment of %s lacks:%s", spec.Name, strings.ReplaceAll(want, "\n", "\n\t//"))
		}
	})
	if shown < 9 {
		t.Errorf("%d types looked at", shown)
	}
}

// eachType calls use for every type that files declare.
func eachType(t *testing.T, files string, use func(*token.FileSet, *ast.File, *ast.TypeSpec)) {
	t.Helper()
	names, err := filepath.Glob(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if types, ok := decl.(*ast.GenDecl); ok && types.Tok == token.TYPE {
				for _, spec := range types.Specs {
					use(fset, file, spec.(*ast.TypeSpec))
				}
			}
		}
	}
}
