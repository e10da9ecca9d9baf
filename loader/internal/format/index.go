package format

import (
	"fmt"
	"strings"
)

// MaxIndexBytes and MaxShards bound model.safetensors.index.json.
const (
	MaxIndexBytes = 64 << 20
	MaxShards     = 4096
)

// ParseIndex reads a shard index: tensor name to shard file. Shards are plain
// file names beside the index; a name with a separator is refused, so that an
// index cannot reach out of its directory.
func ParseIndex(file string, data []byte) (map[string]string, error) {
	if len(data) > MaxIndexBytes {
		return nil, &Error{File: file, Field: "file size", Reason: "too large", Value: fmt.Sprint(len(data)), Limit: fmt.Sprint(MaxIndexBytes)}
	}
	s := scanner{file: file, b: data}
	weights, found := map[string]string{}, false
	shards := map[string]string{} // interned and checked
	err := s.object(MaxNameBytes, func(key string) error {
		if key != "weight_map" {
			t := treeParser{scanner: &s}
			_, err := t.value(1)
			return err
		}
		if found {
			return &Error{File: file, Field: "weight_map", Reason: "duplicate key"}
		}
		found = true
		return s.object(MaxNameBytes, func(name string) error {
			if _, dup := weights[name]; dup {
				return &Error{File: file, Field: "weight_map." + Quote(name), Reason: "duplicate tensor name"}
			}
			if len(weights) >= MaxTensors {
				return &Error{File: file, Field: "weight_map", Reason: "too many tensors", Limit: fmt.Sprint(MaxTensors)}
			}
			if s.peek() != '"' {
				return &Error{File: file, Field: "weight_map." + Quote(name), Reason: "shard name is not a string"}
			}
			shard, err := s.str(255)
			if err != nil {
				return err
			}
			if _, known := shards[shard]; !known {
				if err := checkShard(file, name, shard); err != nil {
					return err
				}
				if len(shards) >= MaxShards {
					return &Error{File: file, Field: "weight_map", Reason: "too many shards", Limit: fmt.Sprint(MaxShards)}
				}
				shards[shard] = shard
			}
			weights[name] = shards[shard]
			return nil
		})
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && len(weights) == 0 {
		err = &Error{File: file, Field: "weight_map", Reason: "missing or empty"}
	}
	return weights, err
}

func checkShard(file, tensor, shard string) error {
	bad := func(reason, limit string) error {
		return &Error{File: file, Field: "weight_map." + Quote(tensor), Reason: reason, Value: Quote(shard), Limit: limit}
	}
	switch {
	case strings.ContainsAny(shard, "/\\:\x00") || shard == "." || shard == "..":
		return bad("shard is not a plain file name", "a file beside the index")
	case !strings.HasSuffix(shard, ".safetensors"):
		return bad("shard is not a safetensors file", "*.safetensors")
	}
	return nil
}
