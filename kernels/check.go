package kernels

import (
	"fmt"
	"strings"
)

// The shape rules. Each Check method says whether the operands of one operation
// obey its comment in ops.go, and returns the same *ArgError on every backend.
// A successful check allocates nothing. What a check cannot see (the values of
// device arrays: ids, slots, lengths) is the caller's duty.

// dtypes is a set of element types.
type dtypes uint16

func set(ds ...DType) dtypes {
	var s dtypes
	for _, d := range ds {
		s |= 1 << d
	}
	return s
}

const (
	onlyF32  dtypes = 1 << F32
	onlyI32  dtypes = 1 << I32
	onlyU8   dtypes = 1 << U8
	floats   dtypes = 1<<F32 | 1<<BF16
	tableSet dtypes = 1<<F32 | 1<<BF16 | 1<<F16
)

func (s dtypes) String() string {
	var names []string
	for d := F32; d <= F8E4M3; d++ {
		if s&(1<<d) != 0 {
			names = append(names, d.String())
		}
	}
	return strings.Join(names, " or ")
}

// any stands for a dimension that is not fixed by another operand.
const anyDim = -1

// maxElements bounds every product of dimensions, so that byte offsets cannot overflow.
const maxElements = 1 << 46

// checker collects the first broken rule of one operation.
type checker struct {
	op  string
	err *ArgError
}

func (c *checker) result() error {
	if c.err == nil {
		return nil
	}
	return c.err
}

func (c *checker) fail(arg, want, got string) {
	if c.err == nil {
		c.err = &ArgError{Op: c.op, Arg: arg, Want: want, Got: got}
	}
}

func (c *checker) failInt(arg, want string, got int) { c.fail(arg, want, fmt.Sprint(got)) }

// wantText renders a shape rule: "[3 *] bf16 or f32". It copies dims so that the
// caller's list stays on the stack.
func wantText(s dtypes, d []int) string {
	parts := make([]string, len(d))
	for i, n := range d {
		parts[i] = fmt.Sprint(n)
		if n == anyDim {
			parts[i] = "*"
		}
	}
	return "[" + strings.Join(parts, " ") + "] " + s.String()
}

// tensor checks dtype, shape, stride and extent of an operand that must be there.
func (c *checker) tensor(arg string, t Tensor, ok dtypes, want ...int) {
	if c.err != nil {
		return
	}
	if t.Buf == nil {
		c.fail(arg, wantText(ok, want), "no buffer")
		return
	}
	good := t.DType < 16 && ok&(1<<t.DType) != 0 && len(t.Shape) == len(want)
	for i := 0; good && i < len(want); i++ {
		good = t.Shape[i] > 0 && (want[i] == anyDim || t.Shape[i] == want[i])
	}
	if !good {
		c.fail(arg, wantText(ok, want), t.String())
		return
	}
	align := t.DType.Size()
	if len(t.Shape) > 1 && floats&(1<<t.DType) != 0 {
		align = 16
	}
	c.extent(arg, t, int64(align))
}

// extent checks that the memory of t lies inside its buffer and is aligned.
func (c *checker) extent(arg string, t Tensor, align int64) {
	elements := int64(1)
	for _, d := range t.Shape {
		if int64(d) > maxElements/elements {
			c.fail(arg, "at most 2^46 elements", t.String())
			return
		}
		elements *= int64(d)
	}
	rows, stride, length := int64(t.Rows()), int64(t.RowStride()), int64(t.RowLen())
	if stride < length && rows > 1 || stride < 0 || stride > maxElements/rows {
		c.fail(arg, fmt.Sprintf("a row stride of at least %d elements", length), t.String())
		return
	}
	size := int64(t.DType.Size())
	if t.Offset < 0 || t.Offset%align != 0 {
		c.fail(arg, fmt.Sprintf("an offset that is a multiple of %d bytes", align), fmt.Sprintf("offset %d", t.Offset))
		return
	}
	if end := t.Offset + ((rows-1)*stride+length)*size; end > t.Buf.Bytes() {
		c.fail(arg, fmt.Sprintf("memory inside its buffer of %d bytes", t.Buf.Bytes()), fmt.Sprintf("%s ending at byte %d", t, end))
	}
}

// present reports whether an optional operand is given.
func present(t Tensor) bool { return t.Buf != nil }

// optional checks an operand only if it is given.
func (c *checker) optional(arg string, t Tensor, ok dtypes, want ...int) {
	if present(t) {
		c.tensor(arg, t, ok, want...)
	}
}

// dim is dimension i, or 0 if there is none, which no rule accepts.
func dim(t Tensor, i int) int {
	if i < len(t.Shape) {
		return t.Shape[i]
	}
	return 0
}

// span returns the first byte and the byte after the last of a tensor.
func span(t Tensor) (lo, hi int64) {
	size := int64(t.DType.Size())
	rows := int64(t.Rows())
	return t.Offset, t.Offset + ((rows-1)*int64(t.RowStride())+int64(t.RowLen()))*size
}

// Overlap reports whether two tensors share memory. Column views of one matrix
// (equal row strides, disjoint columns) do not.
func Overlap(a, b Tensor) bool {
	if a.Buf == nil || a.Buf != b.Buf {
		return false
	}
	alo, ahi := span(a)
	blo, bhi := span(b)
	if ahi <= blo || bhi <= alo {
		return false
	}
	as, bs := int64(a.RowStride())*int64(a.DType.Size()), int64(b.RowStride())*int64(b.DType.Size())
	if as != bs || as == 0 {
		return true
	}
	al, bl := int64(a.RowLen())*int64(a.DType.Size()), int64(b.RowLen())*int64(b.DType.Size())
	gap := (blo - alo) % as
	if gap < 0 {
		gap += as
	}
	return gap < al || gap+bl > as
}

// Same reports whether two tensors are the same view: equal memory, dtype and row stride.
func Same(a, b Tensor) bool {
	return a.Buf == b.Buf && a.Offset == b.Offset && a.DType == b.DType &&
		a.RowLen() == b.RowLen() && (a.RowStride() == b.RowStride() || a.Rows() <= 1)
}

// apart requires that out shares no memory with in.
func (c *checker) apart(arg string, out, in Tensor) {
	if c.err == nil && Overlap(out, in) {
		c.fail("Out", "no memory shared with "+arg, "overlapping views")
	}
}

// inPlace allows out to be in itself, but no other overlap.
func (c *checker) inPlace(arg string, out, in Tensor) {
	if c.err == nil && Overlap(out, in) && !Same(out, in) {
		c.fail("Out", "the same view as "+arg+" or no memory shared with it", "overlapping views")
	}
}

// Check reports a broken rule of LinearArgs.
func (a LinearArgs) Check() error {
	c := checker{op: "Linear"}
	if a.W == nil {
		c.fail("W", "a packed weight", "none")
		return c.result()
	}
	n, k := a.W.Dims()
	c.tensor("X", a.X, floats, anyDim, k)
	c.tensor("Out", a.Out, floats, dim(a.X, 0), n)
	c.optional("Bias", a.Bias, onlyF32, n)
	if a.Act > ActSiLU {
		c.failInt("Act", "a known function", int(a.Act))
	}
	if present(a.Residual) {
		c.tensor("Residual", a.Residual, set(a.Out.DType), dim(a.X, 0), n)
		c.inPlace("Residual", a.Out, a.Residual)
	}
	if present(a.Scale) {
		if !present(a.Residual) {
			c.fail("Scale", "none without Residual", a.Scale.String())
		}
		c.tensor("Scale", a.Scale, onlyF32, n)
	}
	c.apart("X", a.Out, a.X)
	return c.result()
}

// Check reports a broken rule of RMSNormArgs.
func (a RMSNormArgs) Check() error {
	c := checker{op: "RMSNorm"}
	switch len(a.X.Shape) {
	case 3:
		c.tensor("X", a.X, floats, anyDim, anyDim, anyDim)
		c.tensor("Out", a.Out, floats, dim(a.X, 0), dim(a.X, 1), dim(a.X, 2))
	default:
		c.tensor("X", a.X, floats, anyDim, anyDim)
		c.tensor("Out", a.Out, floats, dim(a.X, 0), dim(a.X, 1))
	}
	c.tensor("Weight", a.Weight, onlyF32, dim(a.X, len(a.X.Shape)-1))
	c.eps(a.Eps)
	c.inPlace("X", a.Out, a.X)
	return c.result()
}

func (c *checker) eps(eps float32) {
	if !(eps >= 0 && eps < 1) {
		c.fail("Eps", "a number in [0,1)", fmt.Sprint(eps))
	}
}

// Check reports a broken rule of LayerNormArgs.
func (a LayerNormArgs) Check() error {
	c := checker{op: "LayerNorm"}
	c.tensor("X", a.X, floats, anyDim, anyDim)
	c.tensor("Out", a.Out, floats, dim(a.X, 0), dim(a.X, 1))
	c.tensor("Weight", a.Weight, onlyF32, dim(a.X, 1))
	c.tensor("Bias", a.Bias, onlyF32, dim(a.X, 1))
	c.eps(a.Eps)
	c.inPlace("X", a.Out, a.X)
	return c.result()
}

// Check reports a broken rule of ActivationArgs.
func (a ActivationArgs) Check() error {
	c := checker{op: "Activation"}
	c.tensor("X", a.X, floats, anyDim, anyDim)
	c.tensor("Out", a.Out, floats, dim(a.X, 0), dim(a.X, 1))
	if a.Act > ActSiLU {
		c.failInt("Act", "a known function", int(a.Act))
	}
	c.inPlace("X", a.Out, a.X)
	return c.result()
}

// Check reports a broken rule of SiLUMulArgs.
func (a SiLUMulArgs) Check() error {
	c := checker{op: "SiLUMul"}
	c.tensor("Out", a.Out, floats, anyDim, anyDim)
	c.tensor("X", a.X, floats, dim(a.Out, 0), 2*dim(a.Out, 1))
	c.apart("X", a.Out, a.X)
	return c.result()
}

// Check reports a broken rule of AddArgs.
func (a AddArgs) Check() error {
	c := checker{op: "Add"}
	c.tensor("A", a.A, floats, anyDim, anyDim)
	c.tensor("B", a.B, floats, dim(a.A, 0), dim(a.A, 1))
	c.tensor("Out", a.Out, floats, dim(a.A, 0), dim(a.A, 1))
	c.inPlace("A", a.Out, a.A)
	c.inPlace("B", a.Out, a.B)
	return c.result()
}

// Check reports a broken rule of CastArgs.
func (a CastArgs) Check() error {
	c := checker{op: "Cast"}
	switch len(a.X.Shape) {
	case 1:
		c.tensor("X", a.X, floats, anyDim)
		c.tensor("Out", a.Out, floats, dim(a.X, 0))
	case 3:
		c.tensor("X", a.X, floats, anyDim, anyDim, anyDim)
		c.tensor("Out", a.Out, floats, dim(a.X, 0), dim(a.X, 1), dim(a.X, 2))
	default:
		c.tensor("X", a.X, floats, anyDim, anyDim)
		c.tensor("Out", a.Out, floats, dim(a.X, 0), dim(a.X, 1))
	}
	c.inPlace("X", a.Out, a.X)
	return c.result()
}

// Check reports a broken rule of EmbedArgs.
func (a EmbedArgs) Check() error {
	c := checker{op: "Embed"}
	c.tensor("IDs", a.IDs, onlyI32, anyDim)
	c.tensor("Table", a.Table, tableSet, anyDim, anyDim)
	c.tensor("Out", a.Out, floats, dim(a.IDs, 0), dim(a.Table, 1))
	c.apart("Table", a.Out, a.Table)
	return c.result()
}

// Check reports a broken rule of GatherRowsArgs.
func (a GatherRowsArgs) Check() error {
	c := checker{op: "GatherRows"}
	c.tensor("X", a.X, floats, anyDim, anyDim)
	c.tensor("Index", a.Index, onlyI32, anyDim)
	c.tensor("Out", a.Out, set(a.X.DType), dim(a.Index, 0), dim(a.X, 1))
	c.apart("X", a.Out, a.X)
	return c.result()
}

// Check reports a broken rule of ScatterRowsArgs.
func (a ScatterRowsArgs) Check() error {
	c := checker{op: "ScatterRows"}
	c.tensor("X", a.X, floats, anyDim, anyDim)
	c.tensor("Index", a.Index, onlyI32, dim(a.X, 0))
	c.tensor("Out", a.Out, floats, anyDim, dim(a.X, 1))
	c.apart("X", a.Out, a.X)
	return c.result()
}

// Check reports a broken rule of RopeArgs.
func (a RopeArgs) Check() error {
	c := checker{op: "Rope"}
	c.tensor("X", a.X, floats, anyDim, anyDim, anyDim)
	d := dim(a.X, 2)
	if c.err == nil && d%2 != 0 {
		c.fail("X", "an even head size", a.X.String())
	}
	c.ropeTables(a.Positions, a.InvFreq, a.Sections, dim(a.X, 0), d)
	return c.result()
}

// ropeTables checks the operands that every rotating operation has.
func (c *checker) ropeTables(positions, invFreq Tensor, sections []int, tokens, d int) {
	c.tensor("InvFreq", invFreq, onlyF32, d/2)
	if sections == nil {
		c.tensor("Positions", positions, onlyI32, tokens)
		return
	}
	c.tensor("Positions", positions, onlyI32, 3, tokens)
	sum := 0
	for _, s := range sections {
		if s < 0 {
			c.failInt("Sections", "counts of at least 0", s)
		}
		sum += s
	}
	if len(sections) != 3 || sum != d/2 {
		c.fail("Sections", fmt.Sprintf("three counts that sum to %d", d/2), fmt.Sprint(append([]int(nil), sections...)))
	}
}

// Check reports a broken rule of a KV cache's size.
func (s KVShape) Check() error {
	c := checker{op: "NewKV"}
	for _, f := range [...]struct {
		name string
		v    int
	}{{"Layers", s.Layers}, {"Blocks", s.Blocks}, {"Heads", s.Heads}, {"HeadDim", s.HeadDim}} {
		if f.v <= 0 || f.v > 1<<31-1 {
			c.failInt(f.name, "a positive 32-bit count", f.v)
		}
	}
	if s.HeadDim%2 != 0 {
		c.failInt("HeadDim", "an even number", s.HeadDim)
	}
	if s.DType != F32 && s.DType != BF16 {
		c.fail("DType", "bf16 or f32", s.DType.String())
	}
	if c.err == nil {
		n := int64(maxElements)
		for _, v := range [...]int{s.Layers, s.Blocks, s.Heads, s.HeadDim, BlockSize} {
			n /= int64(v)
		}
		if n == 0 {
			c.fail("shape", "at most 2^46 elements", fmt.Sprintf("%+v", s))
		}
	}
	return c.result()
}

// kv checks that a cache is given and has the layer and head size.
func (c *checker) kv(kv KV, layer, heads, d int) {
	if c.err != nil {
		return
	}
	if kv == nil {
		c.fail("KV", "a cache", "none")
		return
	}
	s := kv.Shape()
	if layer < 0 || layer >= s.Layers {
		c.failInt("Layer", fmt.Sprintf("in [0,%d)", s.Layers), layer)
	}
	if heads != s.Heads || d != s.HeadDim {
		c.fail("KV", fmt.Sprintf("%d heads of %d", heads, d), fmt.Sprintf("%d heads of %d", s.Heads, s.HeadDim))
	}
}

// Check reports a broken rule of KVStoreArgs.
func (a KVStoreArgs) Check() error {
	c := checker{op: "KVStore"}
	c.tensor("K", a.K, floats, anyDim, anyDim, anyDim)
	c.tensor("V", a.V, floats, dim(a.K, 0), dim(a.K, 1), dim(a.K, 2))
	c.tensor("Slots", a.Slots, onlyI32, dim(a.K, 0))
	c.kv(a.KV, a.Layer, dim(a.K, 1), dim(a.K, 2))
	return c.result()
}

// Check reports a broken rule of KVCopyArgs. It sees the values of the pairs,
// which are host memory.
func (a KVCopyArgs) Check() error {
	c := checker{op: "KVCopy"}
	if a.KV == nil {
		c.fail("KV", "a cache", "none")
		return c.result()
	}
	blocks := a.KV.Shape().Blocks
	for i := range a.Pairs {
		for j := 0; j < 2; j++ {
			if b := a.Pairs[i][j]; b < 0 || int(b) >= blocks {
				c.failInt("Pairs", fmt.Sprintf("blocks in [0,%d)", blocks), int(b))
			}
		}
	}
	return c.result()
}

// Check reports a broken rule of PagedAttentionArgs.
func (a PagedAttentionArgs) Check() error {
	c := checker{op: "PagedAttention"}
	c.tensor("Q", a.Q, floats, anyDim, anyDim, anyDim)
	c.tensor("Out", a.Out, floats, dim(a.Q, 0), dim(a.Q, 1), dim(a.Q, 2))
	c.tensor("Lens", a.Lens, onlyI32, anyDim)
	c.tensor("Starts", a.Starts, onlyI32, dim(a.Lens, 0)+1)
	c.tensor("Tables", a.Tables, onlyI32, dim(a.Lens, 0), anyDim)
	if a.Shared.Buf != nil {
		c.tensor("Shared", a.Shared, onlyI32, dim(a.Lens, 0), 2)
	}
	if c.err != nil {
		return c.result()
	}
	if a.KV == nil {
		c.fail("KV", "a cache", "none")
		return c.result()
	}
	heads := a.KV.Shape().Heads
	if dim(a.Q, 1)%heads != 0 {
		c.failInt("Q", fmt.Sprintf("a multiple of %d heads", heads), dim(a.Q, 1))
	}
	c.kv(a.KV, a.Layer, heads, dim(a.Q, 2))
	c.scale(a.Scale)
	if a.MaxRows < 1 || a.MaxRows > dim(a.Q, 0) {
		c.failInt("MaxRows", fmt.Sprintf("in [1,%d]", dim(a.Q, 0)), a.MaxRows)
	}
	if limit := dim(a.Tables, 1) * BlockSize; a.MaxLen < 0 || a.MaxLen > limit {
		c.failInt("MaxLen", fmt.Sprintf("in [0,%d]", limit), a.MaxLen)
	}
	c.apart("Q", a.Out, a.Q)
	return c.result()
}

func (c *checker) scale(scale float32) {
	if !(scale > 0 && scale < 1e6) {
		c.fail("Scale", "a number in (0,1e6)", fmt.Sprint(scale))
	}
}

// Check reports a broken rule of SegmentAttentionArgs.
func (a SegmentAttentionArgs) Check() error {
	c := checker{op: "SegmentAttention"}
	c.tensor("Q", a.Q, floats, anyDim, anyDim, anyDim)
	n, h, d := dim(a.Q, 0), dim(a.Q, 1), dim(a.Q, 2)
	c.tensor("K", a.K, floats, n, h, d)
	c.tensor("V", a.V, floats, n, h, d)
	c.tensor("Out", a.Out, floats, n, h, d)
	c.tensor("Starts", a.Starts, onlyI32, anyDim)
	if c.err == nil && dim(a.Starts, 0) < 2 {
		c.fail("Starts", "at least one segment", a.Starts.String())
	}
	c.scale(a.Scale)
	if a.MaxRows < 1 || a.MaxRows > n {
		c.failInt("MaxRows", fmt.Sprintf("in [1,%d]", n), a.MaxRows)
	}
	c.apart("Q", a.Out, a.Q)
	c.apart("K", a.Out, a.K)
	c.apart("V", a.Out, a.V)
	return c.result()
}

// Check reports a broken rule of PatchifyArgs.
func (a PatchifyArgs) Check() error {
	c := checker{op: "Patchify"}
	c.tensor("Tiles", a.Tiles, onlyU8, anyDim, anyDim, dim(a.Tiles, 1), 3)
	c.tensor("LUT", a.LUT, onlyF32, 3, 256)
	side, p := dim(a.Tiles, 1), a.PatchSize
	if c.err == nil && (p <= 0 || side%p != 0) {
		c.failInt("PatchSize", fmt.Sprintf("a divisor of %d", side), p)
	}
	if c.err == nil {
		c.tensor("Out", a.Out, floats, dim(a.Tiles, 0)*(side/p)*(side/p), anyDim)
		if dim(a.Out, 1) < 3*p*p {
			c.fail("Out", fmt.Sprintf("at least %d columns", 3*p*p), a.Out.String())
		}
	}
	return c.result()
}

// Check reports a broken rule of VisionEmbedArgs.
func (a VisionEmbedArgs) Check() error {
	c := checker{op: "VisionEmbed"}
	c.tensor("Out", a.Out, floats, anyDim, anyDim, anyDim)
	tiles, rows, e := dim(a.Out, 0), dim(a.Out, 1), dim(a.Out, 2)
	if c.err == nil && rows < 2 {
		c.fail("Out", "a class token and at least one patch", a.Out.String())
	}
	c.tensor("X", a.X, floats, tiles*(rows-1), e)
	c.tensor("Class", a.Class, onlyF32, e)
	c.tensor("Pos", a.Pos, onlyF32, rows, e)
	c.apart("X", a.Out, a.X)
	return c.result()
}

// Check reports a broken rule of PixelShuffleArgs.
func (a PixelShuffleArgs) Check() error {
	c := checker{op: "PixelShuffle"}
	c.tensor("X", a.X, floats, anyDim, anyDim, anyDim)
	if c.err != nil {
		return c.result()
	}
	g := 0
	for g*g < dim(a.X, 1)-1 {
		g++
	}
	r := a.Factor
	switch {
	case g == 0 || g*g != dim(a.X, 1)-1:
		c.fail("X", "one class token and a square of patches", a.X.String())
	case r < 1 || g%r != 0:
		c.failInt("Factor", fmt.Sprintf("a divisor of %d", g), r)
	case a.Version != 1 && a.Version != 2:
		c.failInt("Version", "1 or 2", a.Version)
	default:
		c.tensor("Out", a.Out, set(a.X.DType), dim(a.X, 0), (g/r)*(g/r), r*r*dim(a.X, 2))
		c.apart("X", a.Out, a.X)
	}
	return c.result()
}

// Check reports a broken rule of ArgMaxArgs.
func (a ArgMaxArgs) Check() error {
	c := checker{op: "ArgMax"}
	c.tensor("Logits", a.Logits, onlyF32, anyDim, anyDim)
	c.tensor("IDs", a.IDs, onlyI32, dim(a.Logits, 0))
	c.optional("LogProbs", a.LogProbs, onlyF32, dim(a.Logits, 0))
	return c.result()
}

// CheckTransfer reports a broken rule of Upload or Download: t is contiguous and
// the host slice has its bytes. Any element may be the first.
func CheckTransfer(op string, t Tensor, hostBytes int) error {
	c := checker{op: op}
	if t.Buf == nil || t.DType.Size() == 0 || len(t.Shape) == 0 {
		c.fail("tensor", "a buffer, a dtype and a shape", t.String())
		return c.result()
	}
	for _, d := range t.Shape {
		if d <= 0 {
			c.fail("tensor", "positive dimensions", t.String())
			return c.result()
		}
	}
	c.extent("tensor", t, int64(t.DType.Size()))
	if c.err == nil && !t.Contiguous() {
		c.fail("tensor", "contiguous rows", t.String())
	}
	if want := t.Elements() * int64(t.DType.Size()); c.err == nil && want != int64(hostBytes) {
		c.fail("host memory", fmt.Sprintf("%d bytes", want), fmt.Sprint(hostBytes))
	}
	return c.result()
}

// Check reports a broken rule of a linear layer's source: positive dimensions,
// dtypes that have a meaning, and data of exactly the stated size. It returns
// the number of outputs of all parts together.
func (s LinearSource) Check() (outputs int, err error) {
	c := checker{op: "PackLinear " + s.Name}
	if s.K <= 0 || s.K > 1<<30 || len(s.Parts) == 0 {
		c.fail("K", "positive, with at least one part", fmt.Sprintf("%d with %d parts", s.K, len(s.Parts)))
		return 0, c.result()
	}
	for i, p := range s.Parts {
		arg := fmt.Sprintf("Parts[%d]", i)
		if p.N <= 0 || p.N > 1<<30 || int64(p.N)*int64(s.K) > maxElements {
			c.failInt(arg+".N", "a positive count", p.N)
			return 0, c.result()
		}
		outputs += p.N
		elements := int64(p.N) * int64(s.K)
		want := elements * int64(p.DType.Size())
		if p.Quant != nil {
			want = c.quant(arg, s.K, p)
		} else if tableSet&(1<<p.DType) == 0 {
			c.fail(arg+".DType", tableSet.String(), p.DType.String())
		}
		if int64(len(p.Data)) != want {
			c.fail(arg+".Data", fmt.Sprintf("%d bytes", want), fmt.Sprint(len(p.Data)))
		}
	}
	return outputs, c.result()
}

// quant checks a quantised part and returns the bytes its values must have.
func (c *checker) quant(arg string, k int, p MatrixPart) int64 {
	q := p.Quant
	elements := int64(p.N) * int64(k)
	if q.Bits != 8 && q.Bits != 4 {
		c.failInt(arg+".Quant.Bits", "8 or 4", q.Bits)
		return elements
	}
	if q.Group <= 0 || k%q.Group != 0 || q.Bits == 4 && k%2 != 0 {
		c.failInt(arg+".Quant.Group", fmt.Sprintf("a divisor of %d", k), q.Group)
		return elements * int64(q.Bits) / 8
	}
	groups := int64(p.N) * int64(k/q.Group)
	if int64(len(q.Scales)) != groups*4 {
		c.fail(arg+".Quant.Scales", fmt.Sprintf("%d bytes", groups*4), fmt.Sprint(len(q.Scales)))
	}
	if q.Zeros != nil && int64(len(q.Zeros)) != groups {
		c.fail(arg+".Quant.Zeros", fmt.Sprintf("%d values", groups), fmt.Sprint(len(q.Zeros)))
	}
	return elements * int64(q.Bits) / 8
}
