package pg

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrCursorMoved says that the cursor is not where the batch begins: another
// writer stored it, or an earlier attempt whose outcome was unknown did.
var ErrCursorMoved = errors.New("the cursor has moved")

// Misconfigured tells whether err is one that stays until somebody mends the
// configuration: a missing table or column, a refused login, a missing
// privilege. Other errors pass and can be retried. Class and code are
// SQLSTATEs, from the appendix of Postgres' manual.
func Misconfigured(err error) bool {
	if errors.Is(err, ErrSchemaNewer) {
		return true
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || missingPartition(pgErr) {
		return false // the connection's, or mended by the next attempt
	}
	switch pgErr.Code[:2] {
	case "08", // connection
		"25",             // transaction state: also a primary that has become a standby
		"40",             // rollback: serialization, deadlock
		"53",             // resources: connections, disk, memory
		"55",             // not in the prerequisite state: locks
		"57",             // operator: shutdown, terminated, timed out
		"58", "F0", "XX": // system and internal errors
		return false
	}
	return true
}

// faultyData tells whether err blames a row for what it holds.
func faultyData(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || missingPartition(pgErr) {
		return false
	}
	switch pgErr.Code[:2] {
	case "22", // data
		"23", // constraint
		"54": // program limit, such as a jsonb string's size
		return true
	}
	return false
}

// duplicate tells whether a row of the same time and id is there.
func duplicate(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "23505"
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
