package loader

import (
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"metacap/internal/dtype"
	"metacap/loader/internal/format"
	"metacap/loader/internal/mapfile"
)

// TensorView is a tensor of a checkpoint as it is stored: row-major, little
// endian. Data aliases the mapped file: it must not be written, and it is valid
// until the checkpoint is closed. It is aligned to the element size.
type TensorView struct {
	Name  string // as stored
	DType dtype.Type
	Shape []int
	Data  []byte
}

// Elements is the product of the dimensions.
func (v TensorView) Elements() int {
	if v.DType.Size() == 0 {
		return 0
	}
	return len(v.Data) / v.DType.Size()
}

// Rows is the leading dimension, 1 for a scalar.
func (v TensorView) Rows() int {
	if len(v.Shape) == 0 {
		return 1
	}
	return v.Shape[0]
}

// Float32s converts all elements. dtype.ErrNotNumeric for booleans.
func (v TensorView) Float32s() ([]float32, error) {
	out := make([]float32, v.Elements())
	if err := dtype.Decode(out, v.Data, v.DType); err != nil {
		return nil, fmt.Errorf("loader: tensor %s: %w", v.Name, err)
	}
	return out, nil
}

func (v TensorView) String() string { return fmt.Sprintf("%s %s%v", v.Name, v.DType, v.Shape) }

// Tensors are the tensors of one or more safetensors files. Reading is safe from
// several goroutines; Close is not safe while others read.
type Tensors struct {
	shards  []shard
	byName  map[string]ref
	sorted  []string
	bytes   int64
	copies  sync.Map // name -> []byte: aligned copies of misaligned tensors
	stopped bool
}

type shard struct {
	name   string
	file   *mapfile.File
	header *format.Header
}

type ref struct {
	shard int
	entry *format.Entry
}

// OpenTensors opens a single safetensors file that is not a checkpoint (test
// data, adapters, masks). The same checks apply.
func OpenTensors(file string) (*Tensors, error) {
	dir, base := splitPath(file)
	return openShards(dirSource(dir), []string{base}, nil)
}

// openShards maps files and reads their headers. index, if not nil, must agree with what the shards hold.
func openShards(src source, files []string, index map[string]string) (*Tensors, error) {
	t := &Tensors{byName: map[string]ref{}}
	for _, name := range files {
		if err := t.add(src, name, index); err != nil {
			t.Close()
			return nil, err
		}
	}
	for name, file := range index {
		if r, ok := t.byName[name]; !ok || t.shards[r.shard].name != file {
			t.Close()
			return nil, &FormatError{File: indexName, Field: "weight_map." + format.Quote(name), Reason: "the shard lacks this tensor", Value: format.Quote(file)}
		}
	}
	t.sorted = make([]string, 0, len(t.byName))
	for name := range t.byName {
		t.sorted = append(t.sorted, name)
	}
	slices.Sort(t.sorted)
	return t, nil
}

func (t *Tensors) add(src source, name string, index map[string]string) error {
	f, err := src.open(name)
	if err != nil {
		if index != nil {
			return fmt.Errorf("loader: %s: shard %s named by the index cannot be opened: %w", indexName, name, err)
		}
		return fmt.Errorf("loader: open %s: %w", name, err)
	}
	h, err := format.ParseHeader(name, f.Data)
	if err != nil {
		f.Close()
		return err
	}
	t.shards = append(t.shards, shard{name, f, h})
	for i := range h.Entries {
		e := &h.Entries[i]
		if other, dup := t.byName[e.Name]; dup {
			return &FormatError{File: name, Field: "tensor " + e.Name, Reason: "duplicate: also in " + t.shards[other.shard].name}
		}
		if len(t.byName) >= format.MaxTensors {
			return &FormatError{File: name, Reason: "too many tensors in all shards", Limit: fmt.Sprint(format.MaxTensors)}
		}
		t.byName[e.Name] = ref{len(t.shards) - 1, e}
		t.bytes += e.End - e.Start
	}
	return nil
}

// Names are the stored names of all tensors, sorted. The slice must not be changed.
func (t *Tensors) Names() []string { return t.sorted }

// Bytes is the size of all tensors.
func (t *Tensors) Bytes() int64 { return t.bytes }

// Tensor returns a tensor by its stored name. No page of it is touched.
func (t *Tensors) Tensor(name string) (TensorView, bool) {
	r, ok := t.byName[name]
	if !ok || t.stopped {
		return TensorView{}, false
	}
	data := t.shards[r.shard].file.Data[r.entry.Start:r.entry.End:r.entry.End]
	if size := uintptr(r.entry.DType.Size()); len(data) > 0 && uintptr(unsafe.Pointer(&data[0]))%size != 0 {
		data = t.aligned(name, data)
	}
	return TensorView{Name: name, DType: r.entry.DType, Shape: slices.Clone(r.entry.Shape), Data: data}, true
}

// aligned returns a copy of a tensor that an old writer put at an odd address;
// the format allows it, and users of Data may rely on alignment.
func (t *Tensors) aligned(name string, data []byte) []byte {
	if c, ok := t.copies.Load(name); ok {
		return c.([]byte)
	}
	words := make([]uint64, (len(data)+7)/8)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)[:len(data)]
	copy(b, data)
	c, _ := t.copies.LoadOrStore(name, b)
	return c.([]byte)
}

// Metadata is the __metadata__ of the file that holds a tensor.
func (t *Tensors) Metadata(name string) map[string]string {
	if r, ok := t.byName[name]; ok {
		return t.shards[r.shard].header.Metadata
	}
	return nil
}

// Drop gives the memory of a tensor's mapped pages back after it was packed
// elsewhere. The view stays valid; touching it reads the file again.
func (t *Tensors) Drop(v TensorView) {
	if r, ok := t.byName[v.Name]; ok && !t.stopped {
		t.copies.Delete(v.Name)
		t.shards[r.shard].file.Drop(r.entry.Start, r.entry.End)
	}
}

// Close unmaps the files. Views must not be used afterwards. Idempotent.
func (t *Tensors) Close() error {
	t.stopped = true
	var first error
	for i := range t.shards {
		if err := t.shards[i].file.Close(); first == nil && err != nil {
			first = fmt.Errorf("loader: close %s: %w", t.shards[i].name, err)
		}
	}
	return first
}
