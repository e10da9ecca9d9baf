package source

import (
	"context"
	"fmt"
	"io"
	"iter"
	"path"
	"strings"
)

// Remote reads a store of objects, as S3. Inputs that start with "s3://" need one.
type Remote interface {
	// List yields the objects of a bucket whose keys start with prefix, in the
	// order of keys.
	List(ctx context.Context, bucket, prefix string) iter.Seq2[Object, error]
	// Open reads length bytes of an object from offset; length < 0 = the rest.
	Open(ctx context.Context, bucket, key string, offset, length int64) (io.ReadCloser, error)
}

// Object is one object of a Remote.
type Object struct {
	Key   string
	Size  int64 // bytes
	MTime int64 // nanoseconds since 1970
}

const scheme = "s3://"

// IsRemote reports an input, or a key, that lies in a Remote.
func IsRemote(name string) bool { return strings.HasPrefix(name, scheme) }

// RemoteName is the bucket and key of a remote name, as a relative path.
func RemoteName(name string) string { return strings.TrimPrefix(name, scheme) }

// remote lists s3://bucket/prefix: a shard, one picture, or all pictures, videos
// and shards whose keys start with the prefix.
func remote(ctx context.Context, in string, opts Options) iter.Seq2[Item, error] {
	bucket, prefix, _ := strings.Cut(RemoteName(in), "/")
	switch {
	case opts.Remote == nil:
		return fail(fmt.Errorf("source: %s: this program was built without object stores (go build -tags s3)", in))
	case bucket == "":
		return fail(fmt.Errorf("source: %s: want s3://BUCKET/PREFIX", in))
	case hasMeta(prefix):
		return fail(fmt.Errorf("source: %s: patterns do not work in object stores; give a prefix, and --include", in))
	}
	return func(yield func(Item, error) bool) {
		found := false
		for o, err := range opts.Remote.List(ctx, bucket, prefix) {
			if err != nil {
				yield(Item{}, fmt.Errorf("source: %s: %w", in, err))
				return
			}
			exact := o.Key == prefix
			rest := strings.TrimPrefix(o.Key, prefix)
			if !exact && prefix != "" && !strings.HasSuffix(prefix, "/") && !strings.HasPrefix(rest, "/") && namesFile(prefix) {
				continue // a.jpg.bak beside the a.jpg that was named
			}
			if opts.NoRecurse && strings.Contains(strings.Trim(rest, "/"), "/") {
				continue
			}
			found = true
			for it, err := range object(ctx, bucket, o, exact, opts) {
				if !yield(it, err) || err != nil {
					return
				}
			}
		}
		if !found && namesFile(prefix) {
			yield(Item{}, fmt.Errorf("source: %s: no such object", in))
		}
	}
}

// namesFile reports a prefix that looks like a whole name, not like a folder.
func namesFile(prefix string) bool { return path.Ext(prefix) != "" && !strings.HasSuffix(prefix, "/") }

// object lists one object: the members of a shard, or itself. named says that it
// was given by its whole name.
func object(ctx context.Context, bucket string, o Object, named bool, opts Options) iter.Seq2[Item, error] {
	name := scheme + bucket + "/" + o.Key
	open := func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		return opts.Remote.Open(ctx, bucket, o.Key, offset, length)
	}
	return func(yield func(Item, error) bool) {
		if isShard(name) {
			for it, err := range shard(ctx, name, open, opts) {
				if !yield(it, err) || err != nil {
					return
				}
			}
			return
		}
		hidden := !opts.Hidden && strings.HasPrefix(path.Base(o.Key), ".")
		if !named && (hidden || strings.HasSuffix(o.Key, "/") || !wanted(o.Key, opts)) {
			return
		}
		kind, _ := kindOf(o.Key)
		it := Item{Key: name, Kind: kind, Within: scheme + bucket, Member: o.Key, Size: o.Size, MTime: o.MTime}
		it.read = func(ctx context.Context, limit int64) ([]byte, error) {
			r, err := open(ctx, 0, -1)
			if err != nil {
				return nil, fmt.Errorf("source: %s: %w", name, err)
			}
			defer r.Close()
			data, err := readAll(r, name, o.Size, limit)
			if err == nil && int64(len(data)) != o.Size {
				err = fmt.Errorf("source: %s: %d bytes read of %d", name, len(data), o.Size)
			}
			return data, err
		}
		yield(it, nil)
	}
}
