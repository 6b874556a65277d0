package policy

import (
	"context"
	"math"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/weirhq/weir/internal/events"
)

// maxSteps bounds an evaluation that goes over lists, in elements: a pass over
// all that attrs can hold takes half of them. Without a loop the length of the
// expression and that of the request are bound enough.
const maxSteps = 10_000

// interrupt ends an evaluation when it first looks whether it should end, which
// it does after maxSteps.
var interrupt = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// maxRegex bounds a regular expression, in instructions.
const maxRegex = 1 << 10

// expression is a condition or a cost in CEL, about one request. It is pure:
// there is no clock in it but the request's own time.
type expression struct {
	text    string
	program cel.Program
	loops   bool
	result  ref.Val // what it is of every request; nil if that depends
}

// exprError is what is wrong with an expression, and where in it.
type exprError struct {
	line, column int // both from 0, in characters
	text         string
}

func (e *exprError) Error() string { return e.text }

// environment is made once, when the first expression is read.
var environment = sync.OnceValue(func() *cel.Env {
	env, err := cel.NewEnv(ext.Network(), cel.ParserExpressionSizeLimit(maxExpression), cel.RegexProgramSizeLimit(maxRegex))
	if err == nil {
		env, err = env.Extend(cel.CustomTypeProvider(provider{env.CELTypeProvider()}), cel.Variable(requestName, requestType))
	}
	if err != nil {
		panic("policy: " + err.Error())
	}
	return env
})

// compile reads an expression of one of the types. wanted says in words what
// it should be.
func compile(text, wanted string, types ...*cel.Type) (*expression, []*exprError) {
	env := environment()
	checked, issues := env.Compile(text)
	if issues.Err() != nil {
		var faults []*exprError
		for _, e := range issues.Errors() {
			faults = append(faults, &exprError{e.Location.Line() - 1, e.Location.Column(), e.Message + hint(e.Message)})
		}
		return nil, faults
	}
	ok := false
	for _, t := range types {
		ok = ok || checked.OutputType().IsExactType(t)
	}
	if !ok {
		return nil, []*exprError{{text: "want " + wanted + ", found " + checked.OutputType().String()}}
	}
	program, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.InterruptCheckFrequency(maxSteps))
	if err != nil {
		return nil, []*exprError{{text: err.Error()}}
	}
	e := &expression{text: text, program: program, loops: loops(checked.NativeRep())}
	e.result = always(env, checked)
	return e, nil
}

// hint says what would have been right, where the checker names only what is
// wrong.
func hint(message string) string {
	switch {
	case strings.HasPrefix(message, "undeclared reference"):
		return "; want request and a field of it, such as request.user or request.attrs.plan"
	case strings.HasPrefix(message, "undefined field"):
		return "; want one of " + strings.Join(requestFieldNames, ", ") + " (others are under request.attrs)"
	}
	return ""
}

func loops(checked *ast.AST) (found bool) {
	ast.PostOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		found = found || e.Kind() == ast.ComprehensionKind
	}))
	return found
}

// always returns what an expression is of every request, or nil if that
// depends on the request.
func always(env *cel.Env, checked *cel.Ast) ref.Val {
	program, err := env.Program(checked, cel.EvalOptions(cel.OptPartialEval), cel.InterruptCheckFrequency(maxSteps))
	if err != nil {
		panic("policy: " + err.Error()) // it was one before
	}
	vars, err := cel.PartialVars(map[string]any{}, cel.AttributePattern(requestName))
	if err != nil {
		panic("policy: " + err.Error())
	}
	result, _, err := program.ContextEval(interrupt, vars)
	switch {
	case err != nil:
		return types.WrapErr(err)
	case types.IsUnknown(result):
		return nil
	}
	return result
}

// value evaluates an expression for a request. It fails for want of an
// attribute, or when it takes too long.
func (e *expression) value(s *subject) (ref.Val, error) {
	if e.result != nil {
		return e.result, nil
	}
	s.read = 0
	var result ref.Val
	var err error
	if e.loops {
		result, _, err = e.program.ContextEval(interrupt, s)
	} else { // the same, faster
		result, _, err = e.program.Eval(s)
	}
	return result, err
}

// holds tells whether a condition is true of a request. One that cannot be
// evaluated does not hold.
func (e *expression) holds(s *subject) bool {
	result, err := e.value(s)
	return err == nil && result == types.True
}

// units evaluates a cost: a fraction is rounded up, and what is out of bounds
// brought into them. One that cannot be evaluated is otherwise.
func (e *expression) units(s *subject, otherwise int64) int64 {
	result, err := e.value(s)
	if err != nil {
		return otherwise
	}
	n, ok := number(result)
	if !ok {
		return otherwise
	}
	return int64(math.Ceil(min(max(n, 0), events.MaxCost))) // exact: far below 2^53
}

// outOfBounds tells whether an expression is the same for every request and no
// cost.
func (e *expression) outOfBounds() bool {
	if e.result == nil {
		return false
	}
	n, ok := number(e.result)
	return !ok || n < 0 || n > events.MaxCost
}

func number(v ref.Val) (n float64, ok bool) {
	switch v := v.(type) {
	case types.Int:
		return float64(v), true
	case types.Uint:
		return float64(v), true
	case types.Double:
		return float64(v), !math.IsNaN(float64(v))
	}
	return 0, false
}
