package kernels

// Reserver is implemented by backends that need working memory of their own, beside
// the operands that callers allocate. Without Reserve such memory is allocated when an
// operation first needs it, and may then not be there.
type Reserver interface {
	// ReserveBytes is the device memory that Reserve takes.
	ReserveBytes(WorkLimits) int64
	// Reserve allocates what operations within the limits need, once and for all: they
	// allocate nothing afterwards. It also gives back what only loading weights needed.
	Reserve(WorkLimits) error
}

// WorkLimits bound the operations that a caller is going to run.
type WorkLimits struct {
	Linear    []LinearLimit
	Attention []AttentionLimit
	LogitRows int // of ArgMax
	Vocab     int
	Copies    int // block pairs of a KVCopy
}

// LinearLimit bounds products with weights of K inputs.
type LinearLimit struct {
	Rows, K int
	DType   DType // of the rows
	// Tiled says that the weights are dense bf16 of PrecisionNative.
	Tiled bool
}

// AttentionLimit bounds PagedAttention.
type AttentionLimit struct {
	Sequences      int
	MaxRows        int // tokens of a sequence in a step
	MaxLen         int // largest MaxLen, a recording's included
	Heads          int // query heads
	KVHeads        int
	HeadDim        int
	DType, KVDType DType
}

// MemoryReporter is implemented by backends whose device has memory of its own.
type MemoryReporter interface {
	// FreeMemory is the device memory that nobody uses at the moment, in bytes.
	FreeMemory() (int64, error)
}
