package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

const (
	// tokenPrefix makes a token known for what it is, to people and to what
	// looks for secrets in the wrong places.
	tokenPrefix = "weir_"
	tokenLength = len(tokenPrefix) + 26 // 130 bits in base32
	hashPrefix  = "sha256:"
)

// digest is a token's SHA-256. It need not be slow: nobody can guess 130 random
// bits, and only tokens of that form are looked up. It is the key of a map for
// the same reason: how long a look takes tells of a digest's first bits, and
// from those nobody finds a token.
type digest [sha256.Size]byte

// grants are the tokens of a file.
type grants map[digest]*Grant

// NewToken makes a token, and the line for the file of tokens that makes it
// known. The error joins a *FieldError for each fault of the grant.
func NewToken(g Grant) (token, line string, err error) {
	if err := g.validate(); err != nil {
		return "", "", err
	}
	token = tokenPrefix + rand.Text()
	tenants := "*"
	if g.Tenants != nil {
		tenants = strings.Join(g.Tenants, ",")
	}
	line = fmt.Sprintf("%s %s %s %s%x", g.Name, join(g.Roles), tenants, hashPrefix, sha256.Sum256([]byte(token)))
	return token, line, nil
}

// find returns the grant of a token.
func (g grants) find(token string) (*Grant, bool) {
	if len(token) != tokenLength || !strings.HasPrefix(token, tokenPrefix) {
		return nil, false
	}
	grant, ok := g[sha256.Sum256([]byte(token))]
	return grant, ok
}

// parseTokens reads a file of tokens: a line for each, with its name, its roles,
// its tenants or *, and its hash, in the form of NewToken. Empty lines and those
// that begin with # are left out. The error names every line that is wrong.
func parseTokens(text string) (grants, error) {
	all := grants{}
	lines := map[string]int{} // of the names
	var faults []error
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		sum, grant, err := parseLine(line)
		if err == nil && lines[grant.Name] > 0 {
			err = &events.FieldError{Field: "name", Value: grant.Name, Want: fmt.Sprint("another than that of line ", lines[grant.Name])}
		}
		if other := all[sum]; err == nil && other != nil {
			err = errors.New("hash: want another than that of token " + other.Name)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("line %d: %w", number, err))
			continue
		}
		lines[grant.Name], all[sum] = number, grant
	}
	if len(faults) == 0 && len(all) == 0 {
		return nil, errors.New("want a line for at least one token, found none")
	}
	return all, errors.Join(faults...)
}

// parseLine reads one token's line. The error joins its faults.
func parseLine(line string) (sum digest, g *Grant, err error) {
	fields := strings.Fields(line)
	if len(fields) != 4 {
		return sum, nil, fmt.Errorf("want a name, roles, tenants and a hash, as 'weir token' prints them, found %d words", len(fields))
	}
	g = &Grant{Name: fields[0]}
	for role := range strings.SplitSeq(fields[1], ",") {
		g.Roles = append(g.Roles, Role(role))
	}
	if fields[2] != "*" {
		g.Tenants = strings.Split(fields[2], ",")
	}
	err = g.validate()
	text, ok := strings.CutPrefix(fields[3], hashPrefix)
	if hash, fault := hex.DecodeString(text); !ok || fault != nil || len(hash) != len(sum) {
		err = errors.Join(err, errors.New("hash: want "+hashPrefix+" and 64 hex digits")) // it is not shown: it may be a token
	} else {
		sum = digest(hash)
	}
	return sum, g, err
}
