package problem_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/problem"
)

func TestWrite(t *testing.T) {
	for _, tt := range []struct {
		name    string
		details problem.Details
		want    string
	}{
		{"the status alone", problem.Details{Status: 404}, `{"title":"Not Found","status":404}`},
		{"every member", problem.Details{
			Type: "https://example.org/full", Title: "Full", Status: 503, Detail: `no "room" <now>`,
			More: problem.Object(map[string]int{"waiting": 7}),
		}, `{"type":"https://example.org/full","title":"Full","status":503,"detail":"no \"room\" <now>","waiting":7}`},
		{"no further members", problem.Details{Status: 400, Detail: "bad", More: json.RawMessage(" {} ")}, `{"title":"Bad Request","status":400,"detail":"bad"}`},
		{"broken UTF-8", problem.Details{Status: 400, Detail: "a\xffb\x00"}, `{"title":"Bad Request","status":400,"detail":"a\ufffdb\u0000"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			w.Header().Set("Retry-After", "1")
			problem.Write(w, tt.details)
			if got := strings.TrimSuffix(w.Body.String(), "\n"); got != tt.want || !json.Valid([]byte(got)) {
				t.Errorf("body = %s\n  want %s", got, tt.want)
			}
			if w.Code != tt.details.Status || w.Header().Get("Content-Type") != problem.ContentType || w.Header().Get("Retry-After") != "1" {
				t.Errorf("status %d, headers %v", w.Code, w.Header())
			}
		})
	}
}

func TestObjectPanicsOnWhatIsNone(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a list was taken for an object")
		}
	}()
	problem.Object([]int{1})
}
