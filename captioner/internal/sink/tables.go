package sink

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"

	"metacap/internal/atomicfile"
)

// row is a row of the Parquet form.
type row struct {
	Key      string            `parquet:"key"`
	URI      string            `parquet:"uri"`
	SHA256   string            `parquet:"sha256"`
	Caption  *string           `parquet:"caption,optional"` // of the first key
	Captions map[string]string `parquet:"captions"`
	Tags     []string          `parquet:"tags,list"`
	Flags    []string          `parquet:"flags,list"`
	Model    string            `parquet:"model"`
	Recipe   string            `parquet:"recipe"`
	Width    int32             `parquet:"width"`
	Height   int32             `parquet:"height"`
	Tokens   int64             `parquet:"tokens"`
	Ms       float64           `parquet:"ms"`
	Error    *string           `parquet:"error,optional"`
}

// groupRows is the number of rows of a row group: they are held in memory.
const groupRows = 4096

func writeParquet(w io.Writer, keys []string, each Each) error {
	pw := parquet.NewGenericWriter[row](w, parquet.Compression(&parquet.Zstd), parquet.KeyValueMetadata("writer", "metacap"))
	n := 0
	err := each(func(r *Record) error {
		v := row{
			Key: r.Key, URI: r.Path, SHA256: r.SHA256, Captions: r.Captions, Tags: r.Tags, Flags: r.Flags,
			Model: r.Meta.Model, Recipe: r.Meta.Recipe, Width: int32(r.Meta.Width), Height: int32(r.Meta.Height),
			Tokens: int64(r.Meta.TokensOut), Ms: 1000 * r.Meta.Seconds["total"],
		}
		if r.Error != "" {
			v.Error = &r.Error
		}
		for _, k := range keys {
			if c, ok := r.Captions[k]; ok {
				v.Caption = &c
				break
			}
		}
		if _, err := pw.Write([]row{v}); err != nil {
			return err
		}
		if n++; n%groupRows == 0 {
			return pw.Flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return pw.Close()
}

// writeTars writes SHARD.captions.tar beside every shard: for each captioned
// member a .txt and a .json under the member's stem, so that WebDataset readers
// join them with the pictures; those of an object store's shards go under root.
// Records come shard by shard.
func writeTars(root string, keys []string, each Each) ([]string, error) {
	shards := map[string]bool{}
	var order []string
	if err := each(func(r *Record) error {
		if r.Within != "" && isTar(r.Within) && !shards[r.Within] {
			shards[r.Within] = true
			order = append(order, r.Within)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	var files []string
	for _, shard := range order {
		path := tarStem(shard) + ".captions.tar"
		if remote, ok := strings.CutPrefix(path, "s3://"); ok {
			if !filepath.IsLocal(remote) {
				return files, fmt.Errorf("sink: %s: no file can have this name", shard)
			}
			path = filepath.Join(root, filepath.FromSlash(remote))
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				return files, fmt.Errorf("sink: %w", err)
			}
		}
		err := atomicfile.WriteTo(path, 0o644, func(w io.Writer) error {
			tw := tar.NewWriter(w)
			err := each(func(r *Record) error {
				if r.Within != shard || len(r.Captions) == 0 {
					return nil
				}
				return addSample(tw, r, keys)
			})
			if err != nil {
				return err
			}
			return tw.Close()
		})
		if err != nil {
			return files, err
		}
		files = append(files, path)
	}
	return files, nil
}

func isTar(name string) bool { return tarStem(name) != name }

// tarStem removes the extension of a tar file.
func tarStem(name string) string {
	for _, ext := range []string{".tar.gz", ".tgz", ".tar"} {
		if n := len(name) - len(ext); n > 0 && strings.EqualFold(name[n:], ext) {
			return name[:n]
		}
	}
	return name
}

func addSample(tw *tar.Writer, r *Record, keys []string) error {
	stem := strings.TrimSuffix(r.Member, filepath.Ext(r.Member))
	record, err := json.Marshal(r)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		ext  string
		data []byte
	}{{".txt", []byte(Text(r.Captions, keys))}, {".json", record}} {
		h := &tar.Header{Name: stem + m.ext, Mode: 0o644, Size: int64(len(m.data)), ModTime: r.Meta.Created.Truncate(time.Second), Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(m.data); err != nil {
			return err
		}
	}
	return nil
}
