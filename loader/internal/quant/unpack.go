// Package quant converts the integer layouts of published quantised checkpoints
// to one: row-major [N,K], 8-bit signed values one a byte or unsigned 4-bit
// values two a byte (even k in the low nibble), with float32 scales and unsigned
// zero points [N,K/group]. It also rounds weights to that form.
//
// Functions take slices whose lengths the caller has checked against the shapes;
// K, N and groups are as in W[N,K] = (q - zero)*scale[N,K/group].
package quant

import "encoding/binary"

// blockK is the number of inputs handled at a time, so that the cache lines read
// by one column of words are still there for the next.
const blockK = 256

func word(b []byte, i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }

// awqOrder is the nibble of a word that holds column c of eight.
var awqOrder = [8]uint{0, 4, 1, 5, 2, 6, 3, 7}

// AWQ converts qweight int32 [K,N/8] of AutoAWQ's gemm layout to 4-bit rows
// [N,K/2]. K and N must be multiples of 8.
//
// Eight words of one column of words are an 8×8 matrix of nibbles, row = input,
// column = output. Its transpose is eight words of the result.
func AWQ(qweight []byte, n, k int) []byte {
	out := make([]byte, n*k/2)
	words := n / 8
	for k0 := 0; k0 < k; k0 += blockK {
		for j := range words {
			for i := k0; i < min(k0+blockK, k); i += 8 {
				var m [8]uint32
				for r := range m {
					m[r] = word(qweight, (i+r)*words+j)
				}
				transpose8(&m)
				at := j*8*(k/2) + i/2
				for _, nibble := range awqOrder {
					binary.LittleEndian.PutUint32(out[at:], m[nibble])
					at += k / 2
				}
			}
		}
	}
	return out
}

// transpose8 transposes an 8×8 matrix of nibbles, nibble c of word r = element
// (r,c), by swapping the off-diagonal quarters of blocks of 2, 4 and 8.
func transpose8(m *[8]uint32) {
	for r := 0; r < 8; r += 2 {
		t := (m[r]>>4 ^ m[r+1]) & 0x0f0f0f0f
		m[r] ^= t << 4
		m[r+1] ^= t
	}
	for _, r := range [4]int{0, 1, 4, 5} {
		t := (m[r]>>8 ^ m[r+2]) & 0x00ff00ff
		m[r] ^= t << 8
		m[r+2] ^= t
	}
	for r := range 4 {
		t := (m[r]>>16 ^ m[r+4]) & 0x0000ffff
		m[r] ^= t << 16
		m[r+4] ^= t
	}
}

// AWQZeros converts qzeros int32 [groups,N/8] to [N,groups].
func AWQZeros(qzeros []byte, n, groups int) []uint8 {
	out := make([]uint8, n*groups)
	for g := range groups {
		for c := range n {
			out[c*groups+g] = uint8(word(qzeros, g*(n/8)+c/8) >> (4 * awqOrder[c%8]) & 15)
		}
	}
	return out
}

// GPTQ converts qweight int32 [K*bits/32,N], values packed along K in natural
// order, to rows: [N,K/2] for 4 bits; [N,K] for 8 bits, minus 128. K*bits must be
// a multiple of 32. A word of a column is already four bytes of its row.
func GPTQ(qweight []byte, n, k, bits int) []byte {
	rowBytes := k * bits / 8
	out := make([]byte, n*rowBytes)
	var flip uint32
	if bits == 8 {
		flip = 0x80808080
	}
	rows := rowBytes / 4
	for r0 := 0; r0 < rows; r0 += blockK {
		for c := range n {
			for r := r0; r < min(r0+blockK, rows); r++ {
				binary.LittleEndian.PutUint32(out[c*rowBytes+4*r:], word(qweight, r*n+c)^flip)
			}
		}
	}
	return out
}

// GPTQZeros converts qzeros int32 [groups,N*bits/32] to [N,groups]; plus is what
// the format adds to the stored value (1 in version 1), modulo 2^bits.
func GPTQZeros(qzeros []byte, n, groups, bits int, plus uint32) []uint8 {
	out := make([]uint8, n*groups)
	per := 32 / bits
	for g := range groups {
		for c := range n {
			z := word(qzeros, g*(n/per)+c/per) >> (uint(c%per) * uint(bits))
			out[c*groups+g] = uint8((z + plus) & (1<<bits - 1))
		}
	}
	return out
}

// PackedZeros converts compressed-tensors' weight_zero_point int32 [N*bits/32,groups],
// packed along N in natural order, to [N,groups].
func PackedZeros(zeros []byte, n, groups, bits int) []uint8 {
	out := make([]uint8, n*groups)
	per := 32 / bits
	for c := range n {
		for g := range groups {
			out[c*groups+g] = uint8(word(zeros, c/per*groups+g) >> (uint(c%per) * uint(bits)) & (1<<bits - 1))
		}
	}
	return out
}

// Flip returns offset-binary bytes as signed ones (or back): every top bit inverted.
func Flip(b []byte) []byte {
	out := make([]byte, len(b))
	i := 0
	for ; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(out[i:], binary.LittleEndian.Uint64(b[i:])^0x8080808080808080)
	}
	for ; i < len(b); i++ {
		out[i] = b[i] ^ 0x80
	}
	return out
}

// Transpose returns [b,a] of a row-major float32 matrix [a,b].
func Transpose(m []float32, a, b int) []float32 {
	out := make([]float32, len(m))
	for i := range a {
		for j := range b {
			out[j*a+i] = m[i*b+j]
		}
	}
	return out
}

// Value reads q[n,k] as an unsigned number: 4-bit rows as stored, 8-bit rows plus 128.
func Value(data []byte, i, k, K, bits int) int {
	if bits == 8 {
		return int(data[i*K+k] ^ 0x80)
	}
	return int(data[i*(K/2)+k/2] >> (4 * uint(k&1)) & 15)
}

// Dense computes W[n,k] = (q - zero[n,g])*scale[n,g], g = group(k), for formats
// that the common form cannot hold: scattered groups, or zero points of 8-bit
// values. zero is in the domain of [Value]; nil means 2^(bits-1). row is called
// with each row, which it must not keep.
func Dense(data []byte, scales []float32, zeros []uint8, n, k, bits int, group func(k int) int, row func(i int, w []float32) error) error {
	groups := len(scales) / n
	w := make([]float32, k)
	for i := range n {
		for j := range k {
			g := i*groups + group(j)
			z := 1 << (bits - 1)
			if zeros != nil {
				z = int(zeros[g])
			}
			w[j] = float32(Value(data, i, j, k, bits)-z) * scales[g]
		}
		if err := row(i, w); err != nil {
			return err
		}
	}
	return nil
}
