package policy

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"

	"github.com/weirhq/weir/internal/events"
)

const requestName = "request"

// subject is the request that expressions are about: the variables of their
// evaluation, of which there is one. Nothing is made of a field before an
// expression asks for it.
type subject struct {
	request events.Request // a copy, so that the caller's need not be on the heap
	taken   bool           // it is the one under way
	attrs   object
	read    int // bytes of attrs that the evaluation has looked through
}

// take makes a request the subject, unless it is already.
func (s *subject) take(r *events.Request) *subject {
	if !s.taken {
		s.request, s.attrs, s.taken = *r, object{r.Attrs, s}, true
	}
	return s
}

// maxRead bounds subject.read: some milliseconds. Lists are read anew each time
// that they are named.
const maxRead = 1 << 20

// ResolveName is cel.Activation's.
func (s *subject) ResolveName(name string) (any, bool) { return s, name == requestName }

// Parent is cel.Activation's.
func (s *subject) Parent() cel.Activation { return nil }

var requestType = cel.ObjectType("weir.Request")

// requestFields are what expressions know of a request, as keys have it too.
// has() tells whether a field is there; one that is absent is empty.
var requestFields = map[string]*types.FieldType{
	"id":      textField(func(r *events.Request) string { return r.ID }),
	"tenant":  textField(func(r *events.Request) string { return r.Tenant }),
	"gateway": textField(func(r *events.Request) string { return r.Gateway }),
	"user":    textField(func(r *events.Request) string { return r.User }),
	"api_key": textField(func(r *events.Request) string { return r.APIKey }),
	"ip":      textField(func(r *events.Request) string { return (&Attribute{kind: ip}).value(r) }),
	"method":  textField(func(r *events.Request) string { return strings.ToUpper(r.Method) }),
	"host":    textField(func(r *events.Request) string { return strings.ToLower(r.Host) }),
	"path":    textField(func(r *events.Request) string { return r.Path }),
	"route":   textField(func(r *events.Request) string { return r.Route }),
	"cost": {
		Type:    cel.IntType,
		IsSet:   func(any) bool { return true },
		GetFrom: func(s any) (any, error) { return types.Int(s.(*subject).request.Units()), nil },
	},
	"time": {
		Type:  cel.TimestampType,
		IsSet: func(s any) bool { return !s.(*subject).request.Time.IsZero() },
		GetFrom: func(s any) (any, error) {
			if t := s.(*subject).request.Time; !t.IsZero() {
				return types.Timestamp{Time: t}, nil
			}
			return nil, errNoTime
		},
	},
	"attrs": {
		Type:    cel.MapType(cel.StringType, cel.DynType),
		IsSet:   func(s any) bool { return s.(*subject).attrs.text != "" },
		GetFrom: func(s any) (any, error) { return &s.(*subject).attrs, nil },
	},
}

var errNoTime = errors.New("the request has no time")

var requestFieldNames = []string{"id", "tenant", "gateway", "time", "user", "api_key", "ip", "method", "host", "path", "route", "cost", "attrs"}

func textField(of func(r *events.Request) string) *types.FieldType {
	return &types.FieldType{
		Type:    cel.StringType,
		IsSet:   func(s any) bool { return of(&s.(*subject).request) != "" },
		GetFrom: func(s any) (any, error) { return types.String(of(&s.(*subject).request)), nil },
	}
}

// provider adds the request's type to CEL's own.
type provider struct{ types.Provider }

func (p provider) FindStructType(name string) (*types.Type, bool) {
	if name == requestType.TypeName() {
		return types.NewTypeTypeWithParam(requestType), true
	}
	return p.Provider.FindStructType(name)
}

func (p provider) FindStructFieldNames(name string) ([]string, bool) {
	if name == requestType.TypeName() {
		return slices.Clone(requestFieldNames), true
	}
	return p.Provider.FindStructFieldNames(name)
}

func (p provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if name == requestType.TypeName() {
		f, ok := requestFields[field]
		return f, ok
	}
	return p.Provider.FindStructFieldType(name, field)
}

// object is a JSON object as a map of CEL's, looked up in its text. Of equal
// keys the last counts.
type object struct {
	text string
	of   *subject
}

var _ traits.Mapper = (*object)(nil)

// reads ends the evaluation, in the way of CEL's own bounds, when it looks
// through too many bytes.
func (s *subject) reads(n int) {
	if s.read += n; s.read > maxRead {
		panic(interpreter.EvalCancelledError{Message: "attrs are read too often", Cause: interpreter.CostLimitExceeded})
	}
}

// Find returns the value of a key.
func (o *object) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	o.of.reads(len(o.text))
	w := walker{s: o.text}
	text := w.member(string(name))
	if text == "" {
		return nil, false
	}
	return o.of.value(text), true
}

// Get returns the value of a key, or an error.
func (o *object) Get(key ref.Val) ref.Val {
	if v, ok := o.Find(key); ok || v != nil {
		return v
	}
	return types.NewErr("no such key: %v", key)
}

// Contains tells whether there is a key.
func (o *object) Contains(key ref.Val) ref.Val {
	v, ok := o.Find(key)
	if !ok && v != nil {
		return v
	}
	return types.Bool(ok)
}

// whole reads all of the object.
func (o *object) whole() traits.Mapper {
	o.of.reads(len(o.text))
	members := map[ref.Val]ref.Val{}
	w := walker{s: o.text}
	w.each('{', func(key, text string) { members[types.String(unquote(key))] = o.of.value(text) })
	return types.NewRefValMap(types.DefaultTypeAdapter, members)
}

func (o *object) Size() ref.Val                    { return o.whole().Size() }
func (o *object) Iterator() traits.Iterator        { return o.whole().Iterator() }
func (o *object) Equal(other ref.Val) ref.Val      { return o.whole().Equal(other) }
func (o *object) ConvertToType(t ref.Type) ref.Val { return o.whole().ConvertToType(t) }
func (o *object) Type() ref.Type                   { return types.MapType }
func (o *object) Value() any                       { return o.whole().Value() }
func (o *object) ConvertToNative(t reflect.Type) (any, error) {
	return o.whole().ConvertToNative(t)
}

// value returns what a JSON text is to CEL. A whole number is an int, so that
// it can be reckoned with.
func (s *subject) value(text string) ref.Val {
	switch text[0] {
	case '"':
		return types.String(unquote(text))
	case '{':
		return &object{text, s}
	case '[':
		s.reads(len(text))
		elements := []ref.Val{}
		w := walker{s: text}
		w.each('[', func(_, text string) { elements = append(elements, s.value(text)) })
		return types.NewRefValList(types.DefaultTypeAdapter, elements)
	case 't':
		return types.True
	case 'f':
		return types.False
	case 'n':
		return types.NullValue
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return types.Int(n)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return types.WrapErr(err)
	}
	return types.Double(f)
}
