package grammar

// Limit lowers the bytes of grammars that c keeps.
func (c *Cache) Limit(bytes int64) { c.most = bytes }

// Kept is the number of grammars in c.
func (c *Cache) Kept() int { return len(c.known) }
