package format_test

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/internal/dtype"
	"metacap/loader/internal/format"
)

const models = "../../../testdata/models"

func TestEncodeHeader(t *testing.T) {
	in := []format.Entry{
		{Name: `a"é`, DType: dtype.BF16, Shape: []int{3, 5}},
		{Name: "empty", DType: dtype.F32, Shape: []int{0}},
		{Name: "scalar", DType: dtype.I64, Shape: []int{}},
	}
	head, placed, err := format.EncodeHeader(in, map[string]string{"format": "pt", "k": "\n"})
	require.NoError(t, err)
	require.Zero(t, len(head)%64)
	file := append(head, make([]byte, 38)...)
	h, err := format.ParseHeader("x", file)
	require.NoError(t, err)
	require.Equal(t, placed, h.Entries)
	require.Equal(t, map[string]string{"format": "pt", "k": "\n"}, h.Metadata)
	_, _, err = format.EncodeHeader([]format.Entry{{Name: "a", DType: dtype.F32, Shape: []int{1 << 31, 1 << 31}}}, nil)
	require.ErrorContains(t, err, "tensor a: number of bytes overflows")
}

// TestScannerAgrees compares acceptance of JSON with encoding/json.
func TestScannerAgrees(t *testing.T) {
	for _, text := range []string{
		`{}`, `{"a":1}`, `{"a":-0.5e+3}`, `{"a":01}`, `{"a":+1}`, `{"a":.5}`, `{"a":1.}`, `{"a":1e}`, `{"a":-}`, `{"a":[1,]}`, `{"a":[,1]}`, `{"a":1,}`,
		`{"a":tru}`, `{"a":true}`, `{"a":nul}`, `{"a":null}`, `{"a":"\u00e9\ud83d\ude00"}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{a:1}`, `{"a" 1}`, `{"a":1}{}`, ` { "a" : [ ] } `,
		`{"a":NaN}`, `{"a":Infinity}`, `{"a":'x'}`, `{"a":[{"b":{}}]}`, `{"a`, `{"a":"`, `{"a":"\`, `{"a":1e400}`,
	} {
		_, err := format.ParseObject("x", []byte(text))
		want := json.Valid([]byte(text)) && !strings.Contains(text, "1e400")
		require.Equal(t, want, err == nil, "%s: %v", text, err)
	}
	_, err := format.ParseObject("x", []byte(`{"a":"\ud83d"}`))
	require.ErrorContains(t, err, "bad escape")
	_, err = format.ParseObject("x", []byte(`{"a":`+strings.Repeat(`[`, 33)+strings.Repeat(`]`, 33)+`}`))
	require.ErrorContains(t, err, "nested deeper than 32")
	_, err = format.ParseObject("x", []byte(`{"a":[`+strings.Repeat(`0,`, 1<<17)+`0]}`))
	require.ErrorContains(t, err, "more than 131072 values")
	_, err = format.ParseObject("x", make([]byte, 5<<20))
	require.ErrorContains(t, err, "file size: too large, got 5242880, limit 4194304")
}

func FuzzHeader(f *testing.F) {
	files, err := filepath.Glob(models + "/*/*.safetensors")
	require.NoError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		n := binary.LittleEndian.Uint64(data)
		f.Add(data[8:8+n], len(data)-int(n)-8)
	}
	f.Add([]byte(`{"__metadata__":{"a":"b"},"x":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}`), 8)
	f.Add([]byte(`{"x":{"dtype":"BOOL","shape":[0,9223372036854775807],"data_offsets":[0,0]}}`), 0)
	f.Add([]byte(`{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,9223372036854775807]}}`), 3)
	f.Fuzz(func(t *testing.T, header []byte, data int) {
		if data < 0 || data > 1<<20 {
			return
		}
		file := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		file = append(append(file, header...), make([]byte, data)...)
		h, err := format.ParseHeader("x", file)
		if err != nil {
			return
		}
		pos, seen := int64(8+len(header)), map[string]bool{}
		for _, e := range h.Entries {
			size := int64(e.DType.Size())
			for _, d := range e.Shape {
				size *= int64(d)
			}
			if e.Start != pos || e.End < e.Start || e.End-e.Start != size || seen[e.Name] || e.DType == dtype.Invalid || e.Name == "" {
				t.Fatalf("bad entry %+v at %d", e, pos)
			}
			pos, seen[e.Name] = e.End, true
		}
		if pos != int64(len(file)) {
			t.Fatalf("entries end at %d of %d", pos, len(file))
		}
		again, placed, err := format.EncodeHeader(h.Entries, h.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		h2, err := format.ParseHeader("y", append(again, make([]byte, data)...))
		if err != nil || len(h2.Entries) != len(placed) {
			t.Fatalf("own header is refused: %v", err)
		}
	})
}

func FuzzIndex(f *testing.F) {
	files, err := filepath.Glob(models + "/*/*.index.json")
	require.NoError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte(`{"metadata":{"total_size":1.5e3,"x":[null,true]},"weight_map":{"a":"b.safetensors","\u0061b":"b.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../b.safetensors"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := format.ParseIndex("x", data)
		if err != nil {
			return
		}
		for name, shard := range m {
			if strings.ContainsAny(shard, `/\`) || filepath.Base(shard) != shard || len(name) > format.MaxNameBytes {
				t.Fatalf("%q -> %q", name, shard)
			}
		}
		if !json.Valid(data) {
			t.Fatal("accepts what is not JSON")
		}
	})
}

// FuzzObject reads every field of any object with every reader.
func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":-1.5e3,"c":"x","d":[1,2],"e":{"f":null,"g":true},"h":["x"]}`))
	f.Add([]byte(`{"a":{"a":{"a":[[[[]]]]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := format.ParseObject("x", data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatal("accepts what is not JSON")
		}
		for _, k := range o.Keys() {
			if n := o.Int(k, 3, 1, 9); n < 1 || n > 9 {
				t.Fatal(n)
			}
			if x := o.Float(k, 0.5, 0, 1); !(x >= 0 && x <= 1) {
				t.Fatal(x)
			}
			o.Bool(k, true)
			if s := o.String(k, "", 10); len(s) > 10 {
				t.Fatal(s)
			}
			if l := o.Ints(k, 0, 5, 4); len(l) > 4 || slices.ContainsFunc(l, func(n int) bool { return n < 0 || n > 5 }) {
				t.Fatal(l)
			}
			o.Floats(k, 0, 1, 4)
			o.Strings(k, 4)
			o.Object(k)
		}
		for _, e := range o.Errs() {
			if e.Error() == "" {
				t.Fatal("empty error")
			}
		}
	})
}
