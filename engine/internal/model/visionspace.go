package model

import (
	"encoding/binary"
	"fmt"

	"metacap/kernels"
)

// VisionSpace is the working memory of the encoder for up to maxTiles tiles at a time.
type VisionSpace struct {
	dims     VisionDims
	dt       kernels.DType
	maxTiles int
	buf      kernels.Buffer
	bytes    int64
	all      visionViews
	byTiles  map[int]*visionViews
}

// visionViews are the arrays of n tiles; N = n*(1+P) rows, M = n*tokens.
type visionViews struct {
	Tiles         kernels.Tensor // [n,S,S,3] u8
	Starts        kernels.Tensor // [n+1] i32
	PatchesPadded kernels.Tensor // [n*P, 3*p*p rounded up]
	Patches       kernels.Tensor // [n*P, 3*p*p] of it
	Embedded      kernels.Tensor // [n*P,E]
	Hidden        kernels.Tensor // [n,1+P,E]
	Flat          kernels.Tensor // [N,E] the same memory
	Normed        kernels.Tensor // [N,E]
	QKV           kernels.Tensor // [N,3E]
	QFlat, KFlat  kernels.Tensor // [N,E] views of QKV
	Q, K, V       kernels.Tensor // [N,heads,D] views of QKV
	Attn          kernels.Tensor // [N,heads,D]
	AttnFlat      kernels.Tensor // [N,E]
	FFN           kernels.Tensor // [N,F]
	Shuffled      kernels.Tensor // [n,tokens,r²E]
	ShuffledFlat  kernels.Tensor // [M,r²E]
	Middle        kernels.Tensor // [M,projector width]
	Features      kernels.Tensor // [M,C]
}

// NewVisionSpace lays the arrays out.
func NewVisionSpace(d VisionDims, dt kernels.DType, maxTiles int) *VisionSpace {
	s := &VisionSpace{dims: d, dt: dt, maxTiles: maxTiles, byTiles: map[int]*visionViews{}}
	s.layout(nil)
	return s
}

// Bytes is the size of the working memory.
func (s *VisionSpace) Bytes() int64 { return s.bytes }

// MaxTiles is the largest number of tiles at a time.
func (s *VisionSpace) MaxTiles() int { return s.maxTiles }

// Alloc allocates the working memory.
func (s *VisionSpace) Alloc(b kernels.Backend) error {
	buf, err := b.Alloc(s.bytes)
	if err != nil {
		return fmt.Errorf("model: vision workspace of %d tiles: %w", s.maxTiles, err)
	}
	s.buf = buf
	s.layout(buf)
	starts := make([]byte, 0, 4*(s.maxTiles+1))
	for i := range s.maxTiles + 1 {
		starts = binary.LittleEndian.AppendUint32(starts, uint32(i*s.dims.Rows()))
	}
	return b.Upload(s.all.Starts, starts)
}

// Free gives the working memory back.
func (s *VisionSpace) Free() {
	if s.buf != nil {
		s.buf.Free()
	}
}

// patchPad is the multiple to which rows of patches are padded, in elements:
// rows then start at multiples of 32 bytes in either dtype.
const patchPad = 16

func (s *VisionSpace) layout(buf kernels.Buffer) {
	d, n := s.dims, s.maxTiles
	k := (3*d.PatchSize*d.PatchSize + patchPad - 1) / patchPad * patchPad
	rows, tokens, rr := n*d.Rows(), d.Tokens(), d.Shuffle*d.Shuffle
	r := region{buf: buf}
	v := &s.all
	v.Tiles = r.tensor(kernels.U8, n, d.ImageSize, d.ImageSize, 3)
	v.Starts = r.tensor(kernels.I32, n+1)
	v.Hidden = r.tensor(s.dt, n, d.Rows(), d.Width)
	// Lifetimes: patches+embedded | normed+qkv+attn | normed+ffn | shuffled+middle+features.
	base := r.next
	v.PatchesPadded = r.tensor(s.dt, n*d.Patches(), k)
	v.Embedded = r.tensor(s.dt, n*d.Patches(), d.Width)
	r.next = base
	v.Normed = r.tensor(s.dt, rows, d.Width)
	afterNorm := r.next
	v.QKV = r.tensor(s.dt, rows, 3*d.Width)
	v.Attn = r.tensor(s.dt, rows, d.Heads, d.HeadDim())
	r.next = afterNorm
	v.FFN = r.tensor(s.dt, rows, d.FFN)
	r.next = base
	v.Shuffled = r.tensor(s.dt, n, tokens, rr*d.Width)
	v.Middle = r.tensor(s.dt, n*tokens, d.ProjWidth)
	v.Features = r.tensor(s.dt, n*tokens, d.OutWidth)
	s.bytes = r.peak
	clear(s.byTiles)
}

// Tiles is where the pixels of n tiles go.
func (s *VisionSpace) Tiles(n int) kernels.Tensor { return s.Views(n).Tiles }

// Views returns the arrays of n tiles.
func (s *VisionSpace) Views(n int) *visionViews {
	if v, ok := s.byTiles[n]; ok {
		return v
	}
	d, a := s.dims, &s.all
	rows, e := n*d.Rows(), d.Width
	tokens, patches := n*d.Tokens(), n*d.Patches()
	v := &visionViews{
		Tiles: first(a.Tiles, n), Starts: first(a.Starts, n+1), PatchesPadded: first(a.PatchesPadded, patches),
		Embedded: first(a.Embedded, patches), Hidden: first(a.Hidden, n), Normed: first(a.Normed, rows),
		QKV: first(a.QKV, rows), Attn: first(a.Attn, rows), FFN: first(a.FFN, rows),
		Shuffled: first(a.Shuffled, n), Middle: first(a.Middle, tokens), Features: first(a.Features, tokens),
	}
	v.Patches = v.PatchesPadded.Cols(0, 3*d.PatchSize*d.PatchSize)
	v.Flat = v.Hidden.Reshape(rows, e)
	v.QFlat, v.KFlat = v.QKV.Cols(0, e), v.QKV.Cols(e, 2*e)
	v.Q = v.QFlat.Reshape(rows, d.Heads, d.HeadDim())
	v.K = v.KFlat.Reshape(rows, d.Heads, d.HeadDim())
	v.V = v.QKV.Cols(2*e, 3*e).Reshape(rows, d.Heads, d.HeadDim())
	v.AttnFlat = v.Attn.Reshape(rows, e)
	v.ShuffledFlat = v.Shuffled.Reshape(tokens, v.Shuffled.RowLen()/d.Tokens())
	s.byTiles[n] = v
	return v
}
