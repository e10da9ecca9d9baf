package model

import (
	"fmt"

	"metacap/kernels"
)

// align is the alignment of every array in a workspace, in bytes.
const align = 256

func aligned(n int64) int64 { return (n + align - 1) / align * align }

// region hands out consecutive aligned pieces of one buffer. With a nil buffer it only measures.
type region struct {
	buf  kernels.Buffer
	next int64
	peak int64
}

func (r *region) tensor(dt kernels.DType, shape ...int) kernels.Tensor {
	t := kernels.Tensor{Buf: r.buf, Offset: r.next, DType: dt, Shape: shape}
	r.next += aligned(t.Elements() * int64(dt.Size()))
	r.peak = max(r.peak, r.next)
	return t
}

// DecoderSpace is the working memory of a decoder for steps of up to maxTokens
// tokens and logits of up to maxRows rows at a time.
type DecoderSpace struct {
	dims     DecoderDims
	dt       kernels.DType
	maxTok   int
	maxRows  int
	features int
	buf      kernels.Buffer
	bytes    int64

	all    DecoderViews // for maxTokens
	rows   RowViews     // for maxRows
	picked kernels.Tensor
	byTok  map[int]*DecoderViews
	byRow  map[int]*RowViews
}

// DecoderViews are the arrays of a step of T tokens.
type DecoderViews struct {
	Hidden   kernels.Tensor // [T,C]
	Normed   kernels.Tensor // [T,C]
	QKV      kernels.Tensor // [T,(Hq+2Hkv)*D]
	Q        kernels.Tensor // [T,Hq,D] view of QKV
	Attn     kernels.Tensor // [T,Hq,D]
	AttnFlat kernels.Tensor // [T,Hq*D] the same memory
	GateUp   kernels.Tensor // [T,2F]
	Act      kernels.Tensor // [T,F]
}

// RowViews are the arrays of R rows of logits.
type RowViews struct {
	Rows     kernels.Tensor // [R,C]
	Logits   kernels.Tensor // [R,V] f32
	ArgMax   kernels.Tensor // [R] i32
	LogProbs kernels.Tensor // [R] f32, of ArgMax
	Chosen   kernels.Tensor // [2R] ArgMax and LogProbs together
}

// NewDecoderSpace lays the arrays out; Bytes tells their size and Alloc allocates them.
// features is the largest number of image tokens of a step, 0 without vision.
func NewDecoderSpace(d DecoderDims, dt kernels.DType, maxTokens, maxRows, features int) *DecoderSpace {
	s := &DecoderSpace{
		dims: d, dt: dt, maxTok: maxTokens, maxRows: maxRows, features: features,
		byTok: map[int]*DecoderViews{}, byRow: map[int]*RowViews{},
	}
	s.layout(nil)
	return s
}

// Bytes is the size of the working memory.
func (s *DecoderSpace) Bytes() int64 { return s.bytes }

// Alloc allocates the working memory.
func (s *DecoderSpace) Alloc(b kernels.Backend) error {
	buf, err := b.Alloc(s.bytes)
	if err != nil {
		return fmt.Errorf("model: decoder workspace of %d tokens: %w", s.maxTok, err)
	}
	s.buf = buf
	s.layout(buf)
	return nil
}

// Free gives the working memory back.
func (s *DecoderSpace) Free() {
	if s.buf != nil {
		s.buf.Free()
	}
}

func (s *DecoderSpace) layout(buf kernels.Buffer) {
	d, t := s.dims, s.maxTok
	heads := d.Heads + 2*d.KVHeads
	r := region{buf: buf}
	v := &s.all
	v.Hidden = r.tensor(s.dt, t, d.Width)
	v.Normed = r.tensor(s.dt, t, d.Width)
	// Attention and FFN never live together: the same memory serves both. So do
	// the features waiting to be placed and the rows of the logits.
	base := r.next
	v.QKV = r.tensor(s.dt, t, heads*d.HeadDim)
	v.Attn = r.tensor(s.dt, t, d.Heads, d.HeadDim)
	r.next = base
	v.GateUp = r.tensor(s.dt, t, 2*d.FFN)
	v.Act = r.tensor(s.dt, t, d.FFN)
	r.next = base
	if s.features > 0 {
		s.picked = r.tensor(s.dt, s.features, d.Width)
	}
	r.next = base
	s.rows.Rows = r.tensor(s.dt, s.maxRows, d.Width)
	s.rows.Logits = r.tensor(kernels.F32, s.maxRows, d.Vocab)
	s.rows.Chosen = r.tensor(kernels.I32, 2*s.maxRows)
	s.bytes = r.peak
	clear(s.byTok)
	clear(s.byRow)
}

// maxViews bounds the views kept for reuse; a server meets few step sizes often.
const maxViews = 512

// Tokens returns the views of a step of n tokens.
func (s *DecoderSpace) Tokens(n int) *DecoderViews {
	if v, ok := s.byTok[n]; ok {
		return v
	}
	if len(s.byTok) >= maxViews {
		clear(s.byTok)
	}
	d, a := s.dims, &s.all
	v := &DecoderViews{
		Hidden: first(a.Hidden, n), Normed: first(a.Normed, n), QKV: first(a.QKV, n), Attn: first(a.Attn, n),
		GateUp: first(a.GateUp, n), Act: first(a.Act, n),
	}
	q, k := d.Heads*d.HeadDim, d.KVHeads*d.HeadDim
	v.Q = v.QKV.Cols(0, q).Reshape(n, d.Heads, d.HeadDim)
	v.Q.Stride = q + 2*k // also for a single row
	v.AttnFlat = v.Attn.Reshape(n, q)
	s.byTok[n] = v
	return v
}

// Rows returns the views of n rows of logits.
func (s *DecoderSpace) Rows(n int) *RowViews {
	if v, ok := s.byRow[n]; ok {
		return v
	}
	if len(s.byRow) >= maxViews {
		clear(s.byRow)
	}
	v := &RowViews{Rows: first(s.rows.Rows, n), Logits: first(s.rows.Logits, n), ArgMax: first(s.rows.Chosen, n), LogProbs: first(s.rows.Chosen, n), Chosen: first(s.rows.Chosen, 2*n)}
	v.LogProbs.DType = kernels.F32
	v.LogProbs.Offset += 4 * int64(n)
	s.byRow[n] = v
	return v
}

// MaxRows is the largest number of logits rows at a time.
func (s *DecoderSpace) MaxRows() int { return s.maxRows }

// Picked is the working memory for n image features.
func (s *DecoderSpace) Picked(n int) kernels.Tensor { return first(s.picked, n) }

// first is a contiguous tensor's first n rows.
func first(t kernels.Tensor, n int) kernels.Tensor {
	t.Shape = append([]int{n}, t.Shape[1:]...)
	return t
}
