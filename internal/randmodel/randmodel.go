package randmodel

import (
	"bytes"
	"embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"

	"metacap/internal/demo"
	"metacap/internal/dtype"
	"metacap/internal/memfs"
	"metacap/loader"
)

//go:embed shapes/*.json
var shapes embed.FS

// Presets are the names of the shapes that New knows.
func Presets() []string {
	entries, _ := shapes.ReadDir("shapes") // embedded: cannot fail
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".json"))
	}
	return names
}

// weightsFile is the name of the only shard.
const weightsFile = "model.safetensors"

// New makes a checkpoint of a shape: a preset's name, or the path of a
// config.json. The weights are bf16, nearly normal with a standard deviation of
// 1/sqrt(inputs), norms are 1 and biases small; they follow from seed. It takes
// the model's size in memory.
func New(shape string, seed uint64) (*memfs.FS, error) {
	config, cfg, err := read(shape)
	if err != nil {
		return nil, err
	}
	return assemble(config, cfg.Weights(), seed)
}

// assemble makes the files of a checkpoint with these tensors.
func assemble(config []byte, list []loader.Want, seed uint64) (*memfs.FS, error) {
	if !demo.Included() {
		return nil, errors.New("randmodel: this binary carries no tokenizer (built with -tags nodemo)")
	}
	f := map[string][]byte{"config.json": config}
	tokenizerFiles(demo.FS(), f)
	var err error
	if f[weightsFile], err = weights(list, seed); err != nil {
		return nil, err
	}
	return memfs.New(f), nil
}

// Bytes is the size of a shape's weights, without making them.
func Bytes(shape string) (int64, error) {
	_, cfg, err := read(shape)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, w := range cfg.Weights() {
		total += bytesOf(w)
	}
	return total, nil
}

// read finds the configuration of a shape.
func read(shape string) ([]byte, loader.Config, error) {
	config, err := shapes.ReadFile("shapes/" + shape + ".json")
	if err != nil {
		if config, err = os.ReadFile(shape); err != nil {
			return nil, loader.Config{}, fmt.Errorf("randmodel: shape %q: neither a preset (%s) nor a readable config.json: %w", shape, strings.Join(Presets(), ", "), err)
		}
	}
	cfg, err := loader.ParseConfig(config)
	if err != nil {
		return nil, cfg, fmt.Errorf("randmodel: shape %q: %w", shape, err)
	}
	return config, cfg, nil
}

// bytesOf is the size of a tensor.
func bytesOf(w loader.Want) int64 {
	n := int64(kind(w.Name).Size())
	for _, d := range stored(w) {
		n *= int64(d)
	}
	return n
}

// entry is a tensor of a safetensors header.
type entry struct {
	DType   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// weights is a safetensors file with random values for all tensors.
func weights(list []loader.Want, seed uint64) ([]byte, error) {
	header := map[string]entry{}
	var end int64
	for _, w := range list {
		header[w.Name] = entry{kind(w.Name).String(), stored(w), [2]int64{end, end + bytesOf(w)}}
		end += bytesOf(w)
	}
	head, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("randmodel: header: %w", err)
	}
	head = append(head, bytes.Repeat([]byte(" "), (56-len(head))&63)...) // data at a multiple of 64
	out := make([]byte, int64(8+len(head))+end)
	binary.LittleEndian.PutUint64(out, uint64(len(head)))
	copy(out[8:], head)
	fill(out[8+len(head):], list, header, seed)
	return out, nil
}

// fill writes the values of all tensors, several at a time.
func fill(data []byte, list []loader.Want, header map[string]entry, seed uint64) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, w := range list {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			at := header[w.Name].Offsets
			values(data[at[0]:at[1]], w, seed+uint64(i)<<32)
		}()
	}
	wg.Wait()
}

// values fills a tensor by its role, which its name and shape tell.
func values(out []byte, w loader.Want, seed uint64) {
	if integers(out, w, seed) {
		return
	}
	mean, std := 0.0, 0.02
	if len(w.Shape) > 1 {
		inputs := 1
		for _, n := range w.Shape[1:] {
			inputs *= n
		}
		std = 1 / math.Sqrt(float64(inputs))
	} else if strings.HasSuffix(w.Name, ".weight") || strings.HasSuffix(w.Name, ".ls1") || strings.HasSuffix(w.Name, ".ls2") {
		mean = 1
	}
	// A table of 4,096 values of the distribution, picked at random: two bytes a
	// value at the speed of memory. The quantiles of the logistic distribution
	// stand for the normal one's.
	table := make([]uint16, 4096)
	for i := range table {
		p := (float64(i) + 0.5) / float64(len(table))
		z := math.Log(p/(1-p)) * math.Sqrt(3) / math.Pi
		table[i] = dtype.ToBF16(float32(mean + std*z))
	}
	x := seed*0x9e3779b97f4a7c15 + 0x632be59bd9b4e019
	for len(out) >= 2 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		for k := 0; k < 5 && len(out) >= 2; k++ {
			binary.LittleEndian.PutUint16(out, table[x>>(12*k)&4095])
			out = out[2:]
		}
	}
}
