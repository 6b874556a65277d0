package main

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Edits lead from one text to the other, and no fewer would.
func TestEdits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 12)
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		var from, to []string
		list := edits(a, b)
		for _, e := range list {
			if e.mark != '+' {
				from = append(from, e.line)
			}
			if e.mark != '-' {
				to = append(to, e.line)
			}
		}
		if strings.Join(from, "\n") != strings.Join(a, "\n") || strings.Join(to, "\n") != strings.Join(b, "\n") {
			t.Fatalf("%v to %v by %v", a, b, list)
		}
		common := make([][]int, len(a)+1) // of the rest of both
		for i := range common {
			common[i] = make([]int, len(b)+1)
		}
		for i := len(a) - 1; i >= 0; i-- {
			for j := len(b) - 1; j >= 0; j-- {
				if common[i][j] = max(common[i+1][j], common[i][j+1]); a[i] == b[j] {
					common[i][j] = common[i+1][j+1] + 1
				}
			}
		}
		if added, removed := count(list); added+removed != len(a)+len(b)-2*common[0][0] {
			t.Fatalf("%d edits, want %d: %v", added+removed, len(a)+len(b)-2*common[0][0], list)
		}
	})
}

func TestTooManyEditsReplaceAll(t *testing.T) {
	a, b := strings.Split(strings.Repeat("a\n", 2000)+"same", "\n"), strings.Split(strings.Repeat("b\n", 2000)+"same", "\n")
	if added, removed := count(edits(a, b)); added != 2000 || removed != 2000 {
		t.Errorf("%d added, %d removed", added, removed)
	}
}

func TestDiff(t *testing.T) {
	lines := func(text string) []byte { return []byte(strings.ReplaceAll(text, " ", "\n") + "\n") }
	for _, test := range []struct{ from, to, want string }{
		{"1 2 3", "1 2 3", ""},
		{"1 2 3 4 5 6 7 8 9", "1 2 3 4 x 6 7 8 9", "@@ -2,7 +2,7 @@| 2| 3| 4|-5|+x| 6| 7| 8|"},
		{"1 2", "0 1 2", "@@ -1,2 +1,3 @@|+0| 1| 2|"},
		{"1 2", "1", "@@ -1,2 +1,1 @@| 1|-2|"},
		{"1 2 3 4 5 6 7 8 9 10 11", "x 2 3 4 5 6 7 8 9 10 y", "@@ -1,4 +1,4 @@|-1|+x| 2| 3| 4|@@ -8,4 +8,4 @@| 8| 9| 10|-11|+y|"},
		{"1 2 3 4 5 6 7 8", "x 2 3 4 5 6 7 y", "@@ -1,8 +1,8 @@|-1|+x| 2| 3| 4| 5| 6| 7|-8|+y|"},
	} {
		want := "--- old\n+++ new\n" + strings.ReplaceAll(test.want, "|", "\n")
		if got := diff("old", "new", lines(test.from), lines(test.to)); got != want {
			t.Errorf("%s to %s:\n%swant\n%s", test.from, test.to, got, want)
		}
	}
}
