// Package problem answers HTTP requests that went wrong with problem details
// (RFC 9457): JSON that a program can read and a person understands.
package problem

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
)

// ContentType is the media type of problem details.
const ContentType = "application/problem+json"

// Details are what is wrong with one request. The zero Type is about:blank:
// the status says all there is to say of the kind.
type Details struct {
	Type   string          // URI of the kind of problem
	Title  string          // the kind, for a person; the status' own words when empty
	Status int             // HTTP status
	Detail string          // this occurrence, for a person
	More   json.RawMessage // further members: a JSON object, or nothing; its names differ from those above
}

// Append appends the details as one JSON object.
func (d Details) Append(dst []byte) []byte {
	if d.Title == "" {
		d.Title = http.StatusText(d.Status)
	}
	dst = append(dst, '{')
	if d.Type != "" {
		dst = append(dst, `"type":`...)
		dst = append(appendText(dst, d.Type), ',')
	}
	dst = append(dst, `"title":`...)
	dst = appendText(dst, d.Title)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(d.Status), 10)
	if d.Detail != "" {
		dst = append(dst, `,"detail":`...)
		dst = appendText(dst, d.Detail)
	}
	if more := bytes.TrimSpace(d.More); len(more) > len("{}") {
		dst = append(dst, ',')
		return append(dst, more[1:]...)
	}
	return append(dst, '}')
}

// Write answers with the details. Headers of the answer are set before. What
// goes wrong on the way to the client is for the client to notice.
func Write(w http.ResponseWriter, d Details) {
	body := d.Body()
	header := w.Header()
	SetHeaders(header)
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(d.Status)
	_, _ = w.Write(body)
}

// Body is the details as the body of an answer, one line.
func (d Details) Body() []byte {
	const rest = 128 // bytes of names and numbers
	room := len(d.Type) + len(d.Title) + len(d.Detail) + len(d.More) + rest
	return append(d.Append(make([]byte, 0, room)), '\n')
}

// SetHeaders sets what an answer with such a body says of it, but for its length.
func SetHeaders(header http.Header) {
	header.Set("Content-Type", ContentType)
	header.Set("X-Content-Type-Options", "nosniff")
}

// Object returns v, a struct or a map, as the value of Details.More.
func Object(v any) json.RawMessage {
	text := encode(v)
	if text[0] != '{' {
		panic(errors.New("problem: further members are no object: " + string(text)))
	}
	return text
}

// appendText appends a string. Most need nothing but quotes: whoever denies many
// requests writes the same words again and again.
func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return append(dst, encode(s)...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// encode leaves <, > and & as they are: nobody takes the media type for HTML.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("problem: " + err.Error()) // plain data always has a JSON form
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
