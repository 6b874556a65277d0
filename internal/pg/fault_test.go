package pg

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestFaults(t *testing.T) {
	for _, test := range []struct {
		what string
		err  pgconn.PgError
		want fault
	}{
		{"connection lost", pgconn.PgError{Code: "08006"}, transient},
		{"connection refused", pgconn.PgError{Code: "08001"}, transient},
		{"a pooler's trouble", pgconn.PgError{Code: "08P01"}, transient},
		{"a column's type is wider", pgconn.PgError{Code: "08P01", Where: "COPY requests, line 1, column status"}, configuration},
		{"not supported", pgconn.PgError{Code: "0A000"}, configuration},
		{"no number", pgconn.PgError{Code: "22003"}, data},
		{"no text", pgconn.PgError{Code: "22021"}, data},
		{"NUL in JSON", pgconn.PgError{Code: "22P05"}, data},
		{"no JSON", pgconn.PgError{Code: "22P02"}, data},
		{"a column's type is narrower", pgconn.PgError{Code: "22P03"}, configuration},
		{"null in a column of ours", pgconn.PgError{Code: "23502", ColumnName: "decided_at"}, data},
		{"null in a column that somebody added", pgconn.PgError{Code: "23502", ColumnName: "added"}, configuration},
		{"a reference that somebody added", pgconn.PgError{Code: "23503", ConstraintName: "added"}, configuration},
		{"stored already", pgconn.PgError{Code: "23505", TableName: "requests_20261123", ConstraintName: "requests_20261123_pkey"}, data},
		{"an index that somebody added", pgconn.PgError{Code: "23505", TableName: "requests_20261123", ConstraintName: "requests_20261123_path_idx"}, configuration},
		{"no partition", pgconn.PgError{Code: "23514"}, transient},
		{"a check that somebody added", pgconn.PgError{Code: "23514", ConstraintName: "added"}, configuration},
		{"read only", pgconn.PgError{Code: "25006"}, transient},
		{"no such role", pgconn.PgError{Code: "28000"}, configuration},
		{"wrong password", pgconn.PgError{Code: "28P01"}, configuration},
		{"no such database", pgconn.PgError{Code: "3D000"}, configuration},
		{"no such schema", pgconn.PgError{Code: "3F000"}, configuration},
		{"serialization", pgconn.PgError{Code: "40001"}, transient},
		{"deadlock", pgconn.PgError{Code: "40P01"}, transient},
		{"no privilege", pgconn.PgError{Code: "42501"}, configuration},
		{"no such table", pgconn.PgError{Code: "42P01"}, configuration},
		{"no such column", pgconn.PgError{Code: "42703"}, configuration},
		{"disk full", pgconn.PgError{Code: "53100"}, transient},
		{"out of memory", pgconn.PgError{Code: "53200"}, transient},
		{"too many connections", pgconn.PgError{Code: "53300"}, transient},
		{"row too large", pgconn.PgError{Code: "54000"}, data},
		{"lock not to be had", pgconn.PgError{Code: "55P03"}, transient},
		{"timed out", pgconn.PgError{Code: "57014"}, transient},
		{"shutdown", pgconn.PgError{Code: "57P01"}, transient},
		{"starting", pgconn.PgError{Code: "57P03"}, transient},
		{"disk broken", pgconn.PgError{Code: "58030"}, transient},
		{"lock file", pgconn.PgError{Code: "F0001"}, transient},
		{"a trigger that somebody added", pgconn.PgError{Code: "P0001"}, configuration},
		{"internal", pgconn.PgError{Code: "XX000"}, transient},
		{"table corrupted", pgconn.PgError{Code: "XX001"}, configuration},
	} {
		if got := classify(&test.err); got != test.want {
			t.Errorf("%s, %s: %d, want %d", test.what, test.err.Code, got, test.want)
		}
	}
}

func TestBlamed(t *testing.T) {
	for where, want := range map[string]int{
		"COPY requests, line 17, column attrs":                      16,
		"JSON data, line 1: {\nCOPY requests, line 1, column attrs": 0,
		"COPY requests, Zeile 3":                                    2,
		"COPY requests, 行 20, 列 attrs":                              19,
		"COPY requests, line 21, column attrs":                      -1, // there are 20
		"COPY requests, line 0":                                     -1,
		"COPY requests, line 99999999999999999999":                  -1,
		"JSON data, line 1: COPY requests, line 5":                  -1,
		"SQL statement \"COPY other\"":                              -1,
		"":                                                          -1,
	} {
		got, ok := blamed(&pgconn.PgError{Where: where}, 20)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %v, want %d", where, got, ok, want)
		}
	}
}
