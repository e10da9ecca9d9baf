package kernels

// Act is an elementwise function.
type Act uint8

const (
	ActNone Act = iota
	// ActGELU is x*Φ(x) with the error function (torch gelu, approximate='none').
	ActGELU
	// ActQuickGELU is x*σ(1.702x).
	ActQuickGELU
	// ActSiLU is x*σ(x).
	ActSiLU
)

// LinearArgs are the operands of Backend.Linear:
//
//	Y[t,n]   = act(sum_k X[t,k]*W[n,k] + Bias[n])
//	Out[t,n] = Y[t,n]                               without Residual
//	Out[t,n] = Residual[t,n] + Scale[n]*Y[t,n]      with Residual (Scale nil: 1)
//
// Sums are float32 or better and the result is rounded once to Out's type. The
// order of the sum over k does not depend on T. Out may be Residual (in place);
// Out must not overlap X. Bias and Scale are float32. What may be rounded before
// the product is said at Precision.
type LinearArgs struct {
	Out      Tensor // [T,N] bf16 or f32
	X        Tensor // [T,K] bf16 or f32
	W        Weight
	Bias     Tensor // [N] f32; no Buf: none
	Act      Act
	Residual Tensor // [T,N] same dtype as Out; no Buf: none
	Scale    Tensor // [N] f32 layer scale; no Buf: 1; only with Residual
}

// RMSNormArgs are the operands of Backend.RMSNorm:
//
//	Out[t,c] = X[t,c] / sqrt(mean_c(X[t,c]²) + Eps) * Weight[c]
//
// The mean runs over the last dimension, in float32 or better. For [T,H,D] every
// head is normalised by itself. With RoundFirst and bf16 operands the quotient is
// rounded to bf16 before the multiply ("bf16 operands": X is bf16). Out may be X.
// Source: transformers Qwen3RMSNorm (RoundFirst).
type RMSNormArgs struct {
	Out, X     Tensor // [T,C] or [T,H,D], bf16 or f32; dtypes may differ
	Weight     Tensor // [C] or [D] f32
	Eps        float32
	RoundFirst bool
}

// LayerNormArgs are the operands of Backend.LayerNorm:
//
//	Out[t,c] = (X[t,c]-mean)/sqrt(var+Eps)*Weight[c] + Bias[c]
//
// var is the biased variance over c. Statistics in float32 or better. Out may be X.
type LayerNormArgs struct {
	Out, X       Tensor // [T,C] bf16 or f32; dtypes may differ
	Weight, Bias Tensor // [C] f32
	Eps          float32
}

// ActivationArgs: Out[t,c] = act(X[t,c]). Out may be X.
type ActivationArgs struct {
	Out, X Tensor // [T,C] bf16 or f32
	Act    Act
}

// SiLUMulArgs are the operands of Backend.SiLUMul: Out[t,f] = silu(X[t,f]) * X[t,F+f].
type SiLUMulArgs struct {
	Out Tensor // [T,F] bf16 or f32
	X   Tensor // [T,2F] gate then up, bf16 or f32
}

// AddArgs: Out[t,c] = A[t,c] + B[t,c]. Out may be A or B.
type AddArgs struct {
	Out, A, B Tensor // [T,C] bf16 or f32
}

// CastArgs: Out = X converted (round to nearest even). Same shape.
type CastArgs struct {
	Out, X Tensor // bf16 or f32
}

// EmbedArgs: Out[t,:] = Table[IDs[t],:]. An id outside [0,V) is a device error
// on ref and cpu and yields zeros on cuda; the engine checks ids before.
type EmbedArgs struct {
	Out   Tensor // [T,C] bf16 or f32
	Table Tensor // [V,C] bf16, f16 or f32
	IDs   Tensor // [T] i32
}

// GatherRowsArgs: Out[n,:] = X[Index[n],:].
type GatherRowsArgs struct {
	Out, X Tensor // [n,C], [T,C] same dtype
	Index  Tensor // [n] i32
}

// ScatterRowsArgs: Out[Index[n],:] = X[n,:] where Index[n] >= 0. Rows not named keep their values.
type ScatterRowsArgs struct {
	Out, X Tensor // [T,C], [n,C]; dtypes may differ
	Index  Tensor // [n] i32; distinct; negative = skip
}

// RopeArgs rotate heads in place, pairs (i, i+D/2) by angle Positions[t]*InvFreq[i]:
//
//	x'[i]     = x[i]*cos - x[i+D/2]*sin
//	x'[i+D/2] = x[i+D/2]*cos + x[i]*sin
//
// Cosine and sine are those of the float32 product, times Factor (yarn's
// attention factor; 0 means 1). Positions [3,T] select an axis a frequency
// through Sections (M-RoPE): frequencies 0..Sections[0]-1 use row 0, and so on.
// Source: transformers apply_rotary_pos_emb, apply_multimodal_rotary_pos_emb.
type RopeArgs struct {
	X         Tensor // [T,H,D] bf16 or f32, in place
	Positions Tensor // [T] or [3,T] i32
	InvFreq   Tensor // [D/2] f32
	Factor    float32
	Sections  []int // nil, or three counts that sum to D/2
}

// KVStoreArgs write keys and values of new tokens into a layer of the cache.
type KVStoreArgs struct {
	KV    KV
	Layer int
	K, V  Tensor // [T,Hkv,D] bf16 or f32
	Slots Tensor // [T] i32: block*BlockSize+offset, -1 = do not store
}

// KVCopyArgs copy whole blocks, all layers (copy-on-write). Pairs are host
// memory. Sources and destinations are disjoint.
type KVCopyArgs struct {
	KV    KV
	Pairs [][2]int32 // source block, destination block
}

// PagedAttentionArgs are the operands of causal attention over the paged cache
// for a ragged batch. Rows Starts[b]..Starts[b+1] of Q are the last
// n = Starts[b+1]-Starts[b] tokens of sequence b, whose keys and values,
// including those of these n tokens, are already stored; Lens[b] counts all of
// them. Row j of the n attends to the first Lens[b]-n+1+j tokens:
//
//	Out[t,h] = sum_s softmax_s(Scale * Q[t,h]·K[s,h/(Hq/Hkv)]) V[s,h/(Hq/Hkv)]
//
// Scores and the softmax are float32. With a bf16 cache a backend may round Q and
// the probabilities to bf16 before the products; with an f32 cache it may not.
// The order of the sum depends only on the absolute position of the token, so
// chunking a prompt changes no bit. Leading blocks that sequences have in common may
// be read once for all of them, with the same bits; Shared tells of them.
type PagedAttentionArgs struct {
	Out, Q Tensor // [T,Hq,D] bf16 or f32
	KV     KV
	Layer  int
	Starts Tensor // [B+1] i32
	Lens   Tensor // [B] i32; 0 = padding row, Out is zero
	Tables Tensor // [B,maxBlocks] i32
	// Shared is a hint, [B,2] i32; no Buf: none. Row b is (leader, n): the first n keys
	// of sequence b are, block by block, those of sequence leader < b, which has no
	// leader itself; (b, 0) = it has none. It must be true.
	Shared Tensor
	// Settled says that the operations since the last Upload (or, recorded, since the
	// recording began) store no keys but those of the n tokens: the others may be read
	// before the operations in front have ended.
	Settled bool
	Scale   float32
	// Host-side upper bounds for planning; must hold.
	MaxRows int // largest Starts[b+1]-Starts[b]
	MaxLen  int // largest Lens[b]
}

// SegmentAttentionArgs are the operands of full (non-causal) attention inside
// segments of consecutive rows: ViT tiles, or windows. Every row of Out belongs
// to a segment; a segment may be empty. Scores and the softmax are float32.
type SegmentAttentionArgs struct {
	Out, Q, K, V Tensor // [N,H,D] bf16 or f32; strided views allowed
	Starts       Tensor // [segments+1] i32, ascending, Starts[0]=0, last = N
	Scale        float32
	MaxRows      int // largest segment
	// AllowBF16 lets a backend round Q, K, V and the probabilities to bf16 before
	// the products although the tensors are f32: right for a bf16 checkpoint whose
	// activations the backend keeps in f32. bf16 operands allow it by themselves.
	AllowBF16 bool
}

// PatchifyArgs turn 8-bit tiles into rows for the patch-embedding product:
//
//	Out[i*P + y*g + x, c*p*p + ky*p + kx] = LUT[c, Tiles[i, y*p+ky, x*p+kx, c]]   g = S/p, P = g*g
//
// Columns past 3*p*p (padding for alignment) are set to zero.
type PatchifyArgs struct {
	Out       Tensor // [I*P, >=3*p*p] bf16 or f32
	Tiles     Tensor // [I,S,S,3] u8
	LUT       Tensor // [3,256] f32: (v/255-mean)/std
	PatchSize int    // p
}

// VisionEmbedArgs assemble the encoder input:
// Out[i,0] = Class + Pos[0]; Out[i,1+p] = X[i*P+p] + Pos[1+p].
type VisionEmbedArgs struct {
	Out   Tensor // [I,1+P,E] bf16 or f32
	X     Tensor // [I*P,E]
	Class Tensor // [E] f32
	Pos   Tensor // [1+P,E] f32
}

// PixelShuffleArgs drop the class token and merge r×r neighbouring patches
// (space to depth), g×g patches a tile:
//
//	version 2: Out[i, y*q+x, (r*dy+dx)*E + e] = X[i, 1 + (r*y+dy)*g + r*x+dx, e]   q = g/r
//	version 1: the same vectors with the token grid transposed (x*q+y)
//
// Source: InternVLChatModel.pixel_shuffle, ps_version.
type PixelShuffleArgs struct {
	Out     Tensor // [I,q*q,r*r*E]
	X       Tensor // [I,1+g*g,E]; same dtype
	Factor  int    // r
	Version int    // 1 or 2
}

// ArgMaxArgs: IDs[b] = lowest index of the largest Logits[b,:]; LogProbs[b] =
// Logits[b,IDs[b]] - logsumexp(Logits[b,:]) in float32.
type ArgMaxArgs struct {
	IDs      Tensor // [B] i32
	LogProbs Tensor // [B] f32; no Buf: not wanted
	Logits   Tensor // [B,V] f32
}
