package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxDiscard bounds what is read of a body that is too large. Clients that
// write it all before they read an answer would otherwise see a broken
// connection and not the reason.
const maxDiscard = 32 << 20

// readBody reads a whole body of at most most bytes. If it cannot it answers
// and returns the status, else 0.
func readBody(w http.ResponseWriter, r *http.Request, into *bytes.Buffer, most int64) int {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		w.Header().Set("Accept-Encoding", "identity")
		return refuse(w, http.StatusUnsupportedMediaType, fmt.Sprintf("The body is taken as it is, found it encoded as %q.", encoding))
	}
	n, err := into.ReadFrom(io.LimitReader(r.Body, most+1))
	if err == nil && n > most {
		_, err = io.CopyN(io.Discard, r.Body, maxDiscard)
		if err == nil || errors.Is(err, io.EOF) {
			w.Header().Set("Connection", "close")
			return refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("The body is larger than the %d bytes that %s takes.", most, r.URL.Path))
		}
	}
	if err != nil {
		return refuse(w, http.StatusBadRequest, "The body cannot be read: "+err.Error()+".")
	}
	return 0
}
