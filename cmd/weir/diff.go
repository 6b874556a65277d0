package main

import (
	"fmt"
	"slices"
	"strings"
)

// edit is a line of two texts that are compared.
type edit struct {
	mark byte // ' ' is in both, '-' in the first, '+' in the second
	line string
}

const (
	maxEdits = 1000 // that the fewest are looked for; else all between the first and the last is replaced
	around   = 3    // lines shown around a change
)

func split(text []byte) []string {
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// edits returns the fewest edits that make a of b.
func edits(a, b []string) []edit {
	var list []edit
	from := 0
	for from < min(len(a), len(b)) && a[from] == b[from] {
		list = append(list, edit{' ', a[from]})
		from++
	}
	same := 0
	for same < min(len(a), len(b))-from && a[len(a)-1-same] == b[len(b)-1-same] {
		same++
	}
	list = append(list, between(a[from:len(a)-same], b[from:len(b)-same])...)
	for _, line := range a[len(a)-same:] {
		list = append(list, edit{' ', line})
	}
	return list
}

// between is Myers' greedy algorithm (An O(ND) Difference Algorithm and Its
// Variations, 1986): reach[k] is how far into a one gets on diagonal k with d
// edits; all of them are kept for the way back.
func between(a, b []string) []edit {
	offset := maxEdits + 1
	reach := make([]int, 2*offset+1)
	var trace [][]int
	for d := 0; d <= min(len(a)+len(b), maxEdits); d++ {
		trace = append(trace, slices.Clone(reach[offset-d-1:offset+d+2]))
		for k := -d; k <= d; k += 2 {
			x := reach[offset+k-1] + 1
			if k == -d || k != d && reach[offset+k-1] < reach[offset+k+1] {
				x = reach[offset+k+1]
			}
			for x < len(a) && x-k < len(b) && a[x] == b[x-k] {
				x++
			}
			if reach[offset+k] = x; x >= len(a) && x-k >= len(b) {
				return back(a, b, trace)
			}
		}
	}
	var list []edit
	for _, line := range a {
		list = append(list, edit{'-', line})
	}
	for _, line := range b {
		list = append(list, edit{'+', line})
	}
	return list
}

// back finds the way that led to the ends of both texts.
func back(a, b []string, trace [][]int) []edit {
	var list []edit
	x, y := len(a), len(b)
	for d := len(trace) - 1; d >= 0; d-- {
		reach, k := trace[d], x-y
		at := func(k int) int { return reach[k+d+1] }
		before := k - 1
		if k == -d || k != d && at(k-1) < at(k+1) {
			before = k + 1
		}
		fromX := at(before)
		fromY := fromX - before
		if d == 0 {
			fromX, fromY = 0, 0
		}
		for x > fromX && y > fromY {
			x, y = x-1, y-1
			list = append(list, edit{' ', a[x]})
		}
		switch {
		case d == 0:
		case before == k+1:
			y--
			list = append(list, edit{'+', b[y]})
		default:
			x--
			list = append(list, edit{'-', a[x]})
		}
	}
	slices.Reverse(list)
	return list
}

func count(list []edit) (added, removed int) {
	for _, e := range list {
		switch e.mark {
		case '+':
			added++
		case '-':
			removed++
		}
	}
	return added, removed
}

// diff shows what changes from one text to another, in the unified format.
func diff(fromName, toName string, from, to []byte) string {
	list := edits(split(from), split(to))
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n", fromName, toName)
	oldLine, newLine, shown := 1, 1, 0 // the lines of list[shown]
	for i := 0; i < len(list); {
		if list[i].mark == ' ' {
			i++
			continue
		}
		begin := max(shown, i-around)
		end := i // past the last change that is near
		for j := i; j < len(list) && j <= end+2*around; j++ {
			if list[j].mark != ' ' {
				end = j + 1
			}
		}
		end = min(len(list), end+around)
		oldLine, newLine = oldLine+begin-shown, newLine+begin-shown
		added, removed := count(list[begin:end])
		both := end - begin - added - removed
		fmt.Fprintf(&out, "@@ -%d,%d +%d,%d @@\n", oldLine, both+removed, newLine, both+added)
		for _, e := range list[begin:end] {
			fmt.Fprintf(&out, "%c%s\n", e.mark, e.line)
		}
		oldLine, newLine, shown, i = oldLine+both+removed, newLine+both+added, end, end
	}
	return out.String()
}
