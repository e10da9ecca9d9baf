package engine

import (
	"image"
	"log/slog"
	"time"
)

// Config says how to open an engine. The zero value is sane: the best device,
// the checkpoint's dtype, all cores, memory fitted to the device.
type Config struct {
	// Device is "auto" (or ""), "cpu", "ref", "cuda" or "cuda:N"; "cpu:SET" takes an
	// instruction set of kernels/cpu instead of the machine's best.
	Device string
	// DType is the compute type: "auto" (or ""), "f32" or "bf16".
	DType string
	// Threads is the number of CPU threads; 0 = cores available to the process.
	Threads int
	// MemoryBytes caps the memory the engine may use on the device; 0 = what fits.
	MemoryBytes int64
	// MaxSequences caps the sequences that run together; 0 = chosen for the device.
	MaxSequences int
	// StepTokens is the token budget of a step (prefill chunk and decode together); 0 = chosen for the device.
	StepTokens int
	// KVBlocks fixes the number of KV blocks; 0 = from MemoryBytes and the context.
	KVBlocks int
	// ContextTokens lowers the longest allowed sequence; 0 = the model's limit.
	ContextTokens int
	// MaxWaiting caps the requests that wait for room; more get ErrOverloaded. 0 = 1024.
	// A request holds the tiles of its pictures until it ends, 0.6 MB each at 448 pixels.
	MaxWaiting int
	// DisablePrefixCache forgets the blocks of finished sequences instead of keeping them for reuse.
	DisablePrefixCache bool
	// EncoderCacheBytes bounds the cache of encoded images; 0 = a default, <0 = off.
	EncoderCacheBytes int64
	// PromptStyle is "jinja" (or "": the checkpoint's own template) or "conv" (the model card's chat()).
	PromptStyle string
	// ImageRecipe is "" (EXIF orientation applied, transparency on white) or "exact" (the reference recipe).
	ImageRecipe string
	// Verify runs the consistency checks of scheduler and block pool after every step.
	Verify bool
	// Logger receives warnings and, at debug level, steps. nil = silent.
	Logger *slog.Logger
	// Observer is told of requests and steps. nil = none.
	Observer Observer
}

// Role of a message in a conversation.
type Role string

// The roles of this model family.
const (
	RoleSystem    Role = "system"
	RoleUser      Role = "user"
	RoleAssistant Role = "assistant"
)

// Message is one turn of a conversation.
type Message struct {
	Role  Role
	Parts []Part
}

// Part is a piece of a message: exactly one field is set.
type Part struct {
	Text  string
	Image *Image
	Video *Video
}

// Image is a picture by path, by encoded bytes or decoded. Exactly one of Path,
// Data and Decoded is set. The file is read and checked when the request is submitted.
type Image struct {
	Path    string
	Data    []byte
	Decoded image.Image
	// MaxTiles caps the dynamic tiling; 0 = the model's own limit. 1 = the whole picture as one tile.
	MaxTiles int
	// ThumbnailOnly encodes just the whole picture as one tile.
	ThumbnailOnly bool
	// Crop restricts the picture to a rectangle of the upright image; empty = all.
	Crop image.Rectangle
}

// Video is an ordered list of frames, one tile each.
type Video struct {
	Frames []Image
	// Labels replaces the default "Frame1", "Frame2", … before each frame.
	Labels []string
}

// Sampling says how ids are picked from logits. The zero value is greedy.
type Sampling struct {
	Temperature       float64 // 0 = greedy
	TopK              int     // 0 = off
	TopP              float64 // 0 or 1 = off
	MinP              float64 // 0 = off
	RepetitionPenalty float64 // 0 or 1 = off
	Seed              uint64  // 0 = from the request, recorded in the result
}

// Request is one generation.
type Request struct {
	Messages []Message
	Sampling Sampling
	// MaxTokens caps the answer; 0 = up to the context.
	MaxTokens int
	// Stop ends the answer before the first of these strings; it is not part of the text.
	Stop []string
	// Thinking selects the thinking switch of templates that have one; nil = the template's default.
	Thinking *bool
	// Grammar constrains the answer; the zero value does not.
	Grammar Grammar
	// LogProbs returns the log-probability of each generated token, TopLogProbs that of so many
	// alternatives too. Without alternatives a greedy choice's is computed on the device, in float32.
	LogProbs    bool
	TopLogProbs int
	// IgnoreEOS keeps generating past end-of-turn tokens (benchmarks, parity).
	IgnoreEOS bool
	// DisableLoopGuard switches the detector of repeated cycles off.
	DisableLoopGuard bool
	// DisableSpeculation switches n-gram speculation off.
	DisableSpeculation bool
	// Priority: a higher value is admitted first, between -1<<20 and 1<<20. Forks of an open image should be higher than new images.
	Priority int
	// Deadline ends the request with ErrDeadline; zero = none.
	Deadline time.Time
}

// Grammar constrains an answer. At most one field is set.
type Grammar struct {
	Enum       []string // one of these strings
	Regexp     string   // RE2 syntax, whole answer
	JSONSchema []byte   // the subset documented in engine/internal/grammar
}

// FinishReason says why an answer ended.
type FinishReason string

// Reasons to finish.
const (
	FinishStop   FinishReason = "stop"   // end-of-turn token or stop string
	FinishLength FinishReason = "length" // MaxTokens or the context is full
	FinishLoop   FinishReason = "loop"   // the loop guard found a repeated cycle
	FinishCancel FinishReason = "cancel" // context cancelled or deadline
)

// Token is one generated token.
type Token struct {
	ID      int32
	Text    string  // text released by this token; may be empty while UTF-8 is incomplete
	LogProb float64 // natural logarithm; 0 unless requested
	Top     []TopToken
}

// TopToken is an alternative at a position.
type TopToken struct {
	ID      int32
	Text    string
	LogProb float64
}

// Result is a finished generation.
type Result struct {
	Text   string
	Tokens []Token
	Finish FinishReason
	// Repeated is, for FinishLoop, the number of tokens at the end that only repeat a cycle.
	Repeated int
	Seed     uint64
	Usage    Usage
	Images   []ImageReport // one a picture or frame, in the order of the prompt
}

// ImageReport says what was done to one picture of a request.
type ImageReport struct {
	Path          string // empty unless the picture was given by path
	Format        string // "jpeg", "png", …
	Width, Height int    // pixels, upright
	Cols, Rows    int    // grid of tiles
	Tiles         int    // with thumbnail
	Tokens        int
	Notes         []string // "turned by EXIF orientation 6", "transparency composited on white"
}

// Usage counts what a request cost.
type Usage struct {
	PromptTokens int // text and image tokens of the prompt
	ImageTokens  int // of these, image tokens
	CachedTokens int // prompt tokens taken from the prefix cache
	OutputTokens int
	Tiles        int // ViT tiles of the images
	TilesEncoded int // of these, really computed (not cached)
	Verified     int // tokens accepted from speculation
	Steps        int // engine steps this request took part in
	Queue        time.Duration
	FirstToken   time.Duration // since submit
	Total        time.Duration
	VisionTime   time.Duration
	PrefillTime  time.Duration
	DecodeTime   time.Duration
}

// Observer is told what happens. Calls come from the engine's goroutine and must not block.
type Observer interface {
	Step(StepStats)
	Request(Usage, FinishReason, error)
}

// StepStats describes one step.
type StepStats struct {
	Duration      time.Duration
	Sequences     int
	PrefillTokens int
	DecodeTokens  int
	VerifyTokens  int
	BlocksUsed    int
	BlocksCached  int
	BlocksFree    int
	Waiting       int
}
