package format

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"metacap/internal/dtype"
)

// Limits of a safetensors file.
const (
	MaxHeaderBytes = 100_000_000 // of the format itself
	MaxTensors     = 1 << 17
	MaxNameBytes   = 512
	MaxRank        = 8
	maxMetadata    = 1 << 12 // entries
	maxMetaBytes   = 1 << 20 // of one value
)

// Entry is one tensor of a safetensors file.
type Entry struct {
	Name       string
	DType      dtype.Type
	Shape      []int
	Start, End int64 // bytes from the start of the file
}

// Header is a parsed and checked safetensors header.
type Header struct {
	Entries  []Entry // in file order
	Metadata map[string]string
	Bytes    []byte // the JSON text; aliases the data given to ParseHeader
}

// ParseHeader reads the header of the safetensors file whose content is data and
// checks it against the size of the file: lengths, counts, ranks, dtypes, that
// each shape times the element size equals the byte range, and that the ranges
// tile the data without overlap, hole or rest. It touches only the header's bytes.
func ParseHeader(file string, data []byte) (*Header, error) {
	if len(data) < 8 {
		return nil, &Error{File: file, Field: "header length", Reason: "file is too short", Value: fmt.Sprintf("%d bytes", len(data)), Limit: "at least 8"}
	}
	n := binary.LittleEndian.Uint64(data)
	if n > MaxHeaderBytes {
		return nil, &Error{File: file, Field: "header length", Reason: "too large", Value: fmt.Sprint(n), Limit: fmt.Sprintf("%d bytes", MaxHeaderBytes)}
	}
	if n > uint64(len(data)-8) {
		return nil, &Error{File: file, Field: "header length", Reason: "header exceeds the file", Value: fmt.Sprint(n), Limit: fmt.Sprintf("%d bytes left in the file", len(data)-8)}
	}
	h := &Header{Bytes: data[8 : 8+n]}
	p := headerParser{scanner: scanner{file: file, b: h.Bytes}, seen: map[string]bool{}, header: h, base: int64(8 + n)}
	if err := p.object(MaxNameBytes, p.member); err != nil {
		return nil, err
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	return h, checkTiling(file, h.Entries, int64(8+n), int64(len(data)))
}

type headerParser struct {
	scanner
	seen   map[string]bool
	header *Header
	base   int64
}

func (p *headerParser) member(name string) error {
	if p.seen[name] {
		return &Error{File: p.file, Field: Quote(name), Reason: "duplicate tensor name"}
	}
	p.seen[name] = true
	if name == "__metadata__" {
		return p.metadata()
	}
	if len(p.header.Entries) >= MaxTensors {
		return &Error{File: p.file, Field: "header", Reason: "too many tensors", Value: fmt.Sprintf("more than %d", MaxTensors), Limit: fmt.Sprint(MaxTensors)}
	}
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return &Error{File: p.file, Field: "tensor name", Reason: "empty or with control characters", Value: Quote(name)}
	}
	e, err := p.entry(name)
	p.header.Entries = append(p.header.Entries, e)
	return err
}

func (p *headerParser) metadata() error {
	p.header.Metadata = map[string]string{}
	return p.object(maxMetaBytes, func(key string) error {
		if _, dup := p.header.Metadata[key]; dup {
			return &Error{File: p.file, Field: "__metadata__." + Quote(key), Reason: "duplicate key"}
		}
		if len(p.header.Metadata) >= maxMetadata {
			return &Error{File: p.file, Field: "__metadata__", Reason: "too many entries", Limit: fmt.Sprint(maxMetadata)}
		}
		if c := p.peek(); c != '"' {
			return &Error{File: p.file, Field: "__metadata__." + Quote(key), Reason: "value is not a string"}
		}
		v, err := p.str(maxMetaBytes)
		p.header.Metadata[key] = v
		return err
	})
}

// entryKeys are the fields of a tensor in the header; all are needed.
var entryKeys = []string{"dtype", "shape", "data_offsets"}

func (p *headerParser) bad(name, field, reason, value, limit string) error {
	return &Error{File: p.file, Field: "tensor " + name + ": " + field, Reason: reason, Value: value, Limit: limit}
}

func (p *headerParser) entry(name string) (Entry, error) {
	e := Entry{Name: name, Shape: make([]int, 0, 2)}
	var offsets []int64
	var have [3]bool
	err := p.object(MaxNameBytes, func(key string) error {
		i := slices.Index(entryKeys, key)
		if i < 0 {
			return p.bad(name, Quote(key), "unknown key", "", strings.Join(entryKeys, ", "))
		}
		if have[i] {
			return p.bad(name, key, "duplicate key", "", "")
		}
		have[i] = true
		switch i {
		case 0:
			text, err := p.str(32)
			if err != nil {
				return err
			}
			var ok bool
			if e.DType, ok = dtype.Parse(text); !ok {
				return p.bad(name, "dtype", "not supported", Quote(text), "F32 F16 BF16 F8_E4M3 F8_E5M2 I8 U8 I32 I64 BOOL")
			}
			return nil
		case 1:
			return p.numbers(name, key, MaxRank, "too many dimensions", func(d int64) { e.Shape = append(e.Shape, int(d)) })
		default:
			return p.numbers(name, key, 2, "too many numbers", func(o int64) { offsets = append(offsets, o) })
		}
	})
	if err != nil {
		return e, err
	}
	if i := slices.Index(have[:], false); i >= 0 {
		return e, p.bad(name, entryKeys[i], "missing", "", "")
	}
	return p.place(e, offsets)
}

// numbers reads a list of at most limit non-negative integers.
func (p *headerParser) numbers(name, key string, limit int, tooMany string, add func(int64)) error {
	n := 0
	return p.list('[', ']', func() error {
		v, err := p.uint()
		if n++; err == nil && n > limit {
			err = p.bad(name, key, tooMany, fmt.Sprintf("more than %d", limit), fmt.Sprint(limit))
		}
		add(v)
		return err
	})
}

// place checks the byte range of an entry against its shape.
func (p *headerParser) place(e Entry, offsets []int64) (Entry, error) {
	if len(offsets) != 2 || offsets[0] > offsets[1] {
		return e, p.bad(e.Name, "data_offsets", "not an ascending pair", fmt.Sprint(offsets), "")
	}
	if offsets[1] > 1<<62 {
		return e, p.bad(e.Name, "data_offsets", "too large", fmt.Sprint(offsets), fmt.Sprint(int64(1)<<62))
	}
	size, ok := byteSize(e.Shape, e.DType)
	if !ok {
		return e, p.bad(e.Name, "shape", "number of bytes overflows", fmt.Sprint(e.Shape), "2^62 bytes")
	}
	if size != offsets[1]-offsets[0] {
		return e, p.bad(e.Name, "data_offsets", fmt.Sprintf("%s%v needs %d bytes", e.DType, e.Shape, size), fmt.Sprint(offsets[1]-offsets[0]), "")
	}
	e.Start, e.End = p.base+offsets[0], p.base+offsets[1]
	return e, nil
}

// byteSize is the product of the dimensions and the element size; !ok beyond 2^62.
// A zero dimension makes it zero whatever the others are.
func byteSize(shape []int, t dtype.Type) (int64, bool) {
	n := uint64(t.Size())
	if slices.Contains(shape, 0) {
		return 0, true
	}
	for _, d := range shape {
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > 1<<62 {
			return 0, false
		}
		n = lo
	}
	return int64(n), true
}

// checkTiling sorts the entries by position and checks that they cover [start,size) exactly.
func checkTiling(file string, entries []Entry, start, size int64) error {
	slices.SortFunc(entries, func(a, b Entry) int {
		if a.Start != b.Start {
			return cmp64(a.Start, b.Start)
		}
		return cmp64(a.End, b.End)
	})
	pos, prev := start, "the header"
	for _, e := range entries {
		bad := func(reason string, value, limit int64) error {
			return &Error{
				File: file, Field: "tensor " + e.Name + ": data_offsets", Reason: reason,
				Value: fmt.Sprintf("byte %d", value), Limit: fmt.Sprintf("byte %d", limit),
			}
		}
		switch {
		case e.End > size:
			return bad("file is truncated or the range exceeds it", e.End, size)
		case e.Start < pos:
			return bad("overlaps "+prev, e.Start, pos)
		case e.Start > pos:
			return bad("hole after "+prev, e.Start, pos)
		}
		pos, prev = e.End, "tensor "+e.Name
	}
	if pos != size {
		return &Error{
			File: file, Field: "file size", Reason: "bytes after the last tensor",
			Value: fmt.Sprintf("%d bytes", size), Limit: fmt.Sprintf("%d", pos),
		}
	}
	return nil
}

func cmp64(a, b int64) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// EncodeHeader returns the first bytes of a safetensors file with these entries
// in this order: length and JSON, padded with spaces to a multiple of 64 bytes.
// Start and End of the entries are ignored and returned filled in.
func EncodeHeader(entries []Entry, metadata map[string]string) ([]byte, []Entry, error) {
	quote := func(s string) string {
		b, _ := json.Marshal(s) // a string always encodes
		return string(b)
	}
	var b strings.Builder
	b.WriteByte('{')
	if len(metadata) > 0 {
		b.WriteString(`"__metadata__":{`)
		keys := make([]string, 0, len(metadata))
		for k := range metadata {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for i, k := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(quote(k) + ":" + quote(metadata[k]))
		}
		b.WriteByte('}')
	}
	out := slices.Clone(entries)
	var pos int64
	for i := range out {
		e := &out[i]
		size, ok := byteSize(e.Shape, e.DType)
		if !ok {
			return nil, nil, &Error{File: "safetensors header", Field: "tensor " + e.Name, Reason: "number of bytes overflows", Value: fmt.Sprint(e.Shape)}
		}
		e.Start, e.End = pos, pos+size
		pos = e.End
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		shape := strings.ReplaceAll(fmt.Sprint(e.Shape), " ", ",")
		fmt.Fprintf(&b, `%s:{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, quote(e.Name), e.DType, shape, e.Start, e.End)
	}
	b.WriteByte('}')
	for (b.Len()+8)%64 != 0 {
		b.WriteByte(' ')
	}
	if b.Len() > MaxHeaderBytes {
		return nil, nil, &Error{File: "safetensors header", Reason: "too large", Value: fmt.Sprint(b.Len()), Limit: fmt.Sprint(MaxHeaderBytes)}
	}
	raw := binary.LittleEndian.AppendUint64(nil, uint64(b.Len()))
	raw = append(raw, b.String()...)
	for i := range out {
		out[i].Start += int64(len(raw))
		out[i].End += int64(len(raw))
	}
	return raw, out, nil
}
