// Package kvcache keeps account of the paged KV cache: which blocks are free,
// which belong to sequences, and which hold finished prefixes that may be used
// again. It moves no data and knows no device.
//
// A [Pool] owns the blocks. A [Table] is a sequence's list of blocks. A full
// block gets a [Key]: the hash of its tokens, of the key of the block before it
// and, where it lies inside an image range, of the picture's content and the
// offset in it. Equal keys mean equal prefixes up to the end of the block, so a
// later sequence takes the block as it is. A block that is shared is never
// written: the writer gets a copy first (copy-on-write).
//
// Invariants, checked by [Pool.Check]:
//
//   - free + cached + in use = all; a block is in exactly one of the three;
//   - a block is in use exactly when its references are > 0, and the references
//     equal the number of tables that list it plus its copies not yet made;
//   - a block with references is in neither list;
//   - the index maps a key to a block exactly when the block carries that key;
//   - cached blocks carry a key, free blocks carry none.
package kvcache
