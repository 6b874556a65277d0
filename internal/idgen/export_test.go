package idgen

// Skip passes over n ids, as if they had been minted.
func (m *Minter) Skip(n int64) { m.last.Add(n) }
