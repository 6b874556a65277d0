package pg

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrCursorMoved says that the cursor is not where the batch begins: another
// writer stored it, or an earlier attempt whose outcome was unknown did.
var ErrCursorMoved = errors.New("the cursor has moved")

// fault is what is to be done about an error.
type fault int

const (
	transient     fault = iota // try again, for ever
	configuration              // hold until somebody mends it
	data                       // a row is to blame for what it holds
)

// Misconfigured tells whether err is one that stays until somebody mends the
// configuration: a missing table or column, a refused login, a missing
// privilege, a schema that is not Weir's. Other errors pass and can be retried.
func Misconfigured(err error) bool {
	if errors.Is(err, ErrSchemaNewer) {
		return true
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && classify(pgErr) != transient
}

// faultyData tells whether err blames a row for what it holds.
func faultyData(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && classify(pgErr) == data
}

// classify goes by SQLSTATE, from the appendix of Postgres' manual. What is not
// known to pass, and cannot be a row's fault, holds: a row is taken for bad only
// where Weir's own schema refuses it, else a column or a constraint that somebody
// has added would bury every row.
func classify(err *pgconn.PgError) fault {
	switch err.Code {
	case "08P01": // too few bytes for a column's type; poolers say it of their own troubles
		if strings.HasPrefix(err.Where, "COPY ") {
			return configuration
		}
		return transient
	case "22P03": // too many of them: the type is not Weir's
		return configuration
	case "23502": // null
		if slices.Contains(Columns(), err.ColumnName) { // those of outcomes are among them
			return data
		}
		return configuration
	case "23505": // unique
		if err.ConstraintName == err.TableName+"_pkey" {
			return data
		}
		return configuration
	case "23514": // check
		if missingPartition(err) { // mended by the next attempt
			return transient
		}
		return configuration
	case "XX001", "XX002": // data or an index is corrupted
		return configuration
	}
	switch err.Code[:2] {
	case "08", // connection
		"25",             // transaction state: also a primary that has become a standby
		"40",             // rollback: serialization, deadlock
		"53",             // resources: connections, disk, memory
		"55",             // not in the prerequisite state: locks
		"57",             // operator: shutdown, terminated, timed out
		"58", "F0", "XX": // system and internal errors
		return transient
	case "22", // data
		"54": // program limit, such as a jsonb string's size
		return data
	}
	return configuration
}

// duplicate tells whether a row of the same time and id is there.
func duplicate(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "23505"
}

// copyLine finds the number of the row that COPY blames, in any language.
var copyLine = regexp.MustCompile(`(?m)^COPY requests, \D*(\d+)`)

// blamed returns which of a COPY's rows an error blames, from 0, or false if it
// names none.
func blamed(err error, rows int) (int, bool) {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return 0, false
	}
	found := copyLine.FindStringSubmatch(pgErr.Where)
	if found == nil {
		return 0, false
	}
	line, err := strconv.Atoi(found[1])
	return line - 1, err == nil && line >= 1 && line <= rows
}

// missingPartition tells whether a row found no partition. Postgres calls that
// a violated check, one without a name.
func missingPartition(err *pgconn.PgError) bool {
	return err.Code == "23514" && err.ConstraintName == ""
}

// lostPartition is missingPartition for any error.
func lostPartition(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && missingPartition(pgErr)
}

// storable makes text of an error that Postgres takes whatever it quotes.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
