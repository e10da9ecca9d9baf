package kernels

// BlockSize is the number of tokens in one block of the paged KV cache.
const BlockSize = 32

// Backend runs operations on one device. See the package comment for the order
// of execution and the goroutine rules. A backend supports activations in F32,
// and in BF16 if Info says so.
type Backend interface {
	// Info describes the device. It is constant.
	Info() Info
	// Alloc returns bytes of zeroed device memory, aligned to 256 bytes.
	// ErrOutOfMemory (wrapped, with sizes) if there is not enough.
	Alloc(bytes int64) (Buffer, error)
	// Upload copies src to the memory of dst (contiguous, len(src) = its bytes).
	// src may be reused when Upload returns.
	Upload(dst Tensor, src []byte) error
	// Download waits for all earlier operations and copies src to dst.
	Download(dst []byte, src Tensor) error
	// Sync waits for all earlier operations and returns the first device error since the last Sync.
	Sync() error
	// Close frees everything that the backend owns. Idempotent.
	Close() error

	// PackLinear copies a linear layer's weight to the device in the layout that
	// this backend's Linear wants. src.Data is not referenced after the call.
	PackLinear(src LinearSource) (Weight, error)
	// NewKV allocates a paged key/value cache.
	NewKV(shape KVShape) (KV, error)

	Linear(LinearArgs) error
	RMSNorm(RMSNormArgs) error
	LayerNorm(LayerNormArgs) error
	Activation(ActivationArgs) error
	SiLUMul(SiLUMulArgs) error
	Add(AddArgs) error
	Cast(CastArgs) error
	Embed(EmbedArgs) error
	GatherRows(GatherRowsArgs) error
	ScatterRows(ScatterRowsArgs) error
	Rope(RopeArgs) error
	KVStore(KVStoreArgs) error
	KVCopy(KVCopyArgs) error
	PagedAttention(PagedAttentionArgs) error
	SegmentAttention(SegmentAttentionArgs) error
	Patchify(PatchifyArgs) error
	VisionEmbed(VisionEmbedArgs) error
	PixelShuffle(PixelShuffleArgs) error
	ArgMax(ArgMaxArgs) error
}

// Info describes a backend's device.
type Info struct {
	Name        string // "ref", "cpu", "cuda"
	Device      string // "AMD EPYC, 2 threads, avx512bf16", "NVIDIA H100 80GB HBM3 (sm_90)"
	Driver      string // of a GPU: "CUDA 12.9"; else empty
	Activations DType  // preferred activation dtype for bf16 checkpoints: F32 or BF16
	Threads     int    // CPU threads used, 0 on a GPU
	MemoryBytes int64  // total memory of the device
	FreeBytes   int64  // free when the backend was opened
	// TruncatesSums says that products of bf16 rows and weights are added by a matrix
	// unit that truncates instead of rounding (NVIDIA's tensor cores): each step of 16
	// inputs may lose one unit in the last place of the float32 sum.
	TruncatesSums bool
}

// Precision says how exact Linear must be.
type Precision uint8

const (
	// PrecisionNative lets a backend round the rows of X to bf16 before the
	// product when the weight is bf16, and to signed 8-bit integers with a scale
	// a group (ActivationGroup) when it is quantised. Sums are float32 or better.
	PrecisionNative Precision = iota
	// PrecisionF32 keeps products and sums in float32 whatever the weight's dtype is.
	PrecisionF32
)

// LinearSource is a linear layer as it lies in a checkpoint: one or more
// matrices [N_i,K], row-major, stacked along N (q,k,v as one, gate and up as one).
type LinearSource struct {
	Name      string // for errors
	K         int
	Parts     []MatrixPart
	Precision Precision
	// Gated says that the two parts are gate and up of a SwiGLU and that the layer
	// is used through SwiGLU; a backend may lay them out for it. Linear stays valid.
	Gated bool
}

// MatrixPart is a dense row-major matrix [N,K] as stored: Data has N*K*DType.Size() bytes.
type MatrixPart struct {
	N     int
	DType DType // F32, BF16 or F16
	Data  []byte
	// Quant describes a quantised matrix; nil for a dense one. See QuantPart.
	Quant *QuantPart
}

// QuantPart describes a quantised matrix W[n,k] = (q[n,k] - Zero)*scale[n,k/Group].
// MatrixPart.Data then holds q: int8 values one a byte, or unsigned 4-bit values
// two a byte (even k in the low nibble), row-major [N,K].
type QuantPart struct {
	Bits   int     // 8 (signed int8) or 4 (unsigned)
	Group  int     // inputs that share a scale; a divisor of K; K = per channel
	Scales []byte  // float32 little endian [N,K/Group]
	Zeros  []uint8 // nil: 0 for 8 bits, 8 for 4 bits; else [N,K/Group]
}

// ActivationGroup is the number of consecutive inputs of a row of X that share a
// scale when a backend rounds X to 8 bits for a quantised weight:
// the weight's group, or 128 where that divides a larger group.
func (q QuantPart) ActivationGroup() int {
	if q.Group%128 == 0 {
		return 128
	}
	return q.Group
}

// Weight is a packed linear layer owned by the backend that packed it.
type Weight interface {
	Dims() (n, k int)
	Bytes() int64
	Free()
}

// KVShape is the size of a paged KV cache: Layers × Blocks × BlockSize tokens × Heads × HeadDim, for keys and for values.
type KVShape struct {
	Layers  int
	Blocks  int
	Heads   int // Hkv
	HeadDim int // D
	DType   DType
}

// KV is a paged key/value cache. Its inner layout belongs to the backend; a slot
// is block*BlockSize + position within the block.
type KV interface {
	Shape() KVShape
	Bytes() int64
	Free()
}
