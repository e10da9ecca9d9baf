package vision_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/vision"
)

// jobs makes n jobs of three files, every seventh broken; Tag is the index.
func jobs(t *testing.T, n int) []vision.Job {
	files := []string{"files/photo_422.jpg", "files/rgba.png", "files/exif6.jpg"}
	var out []vision.Job
	for i := range n {
		name := files[i%3]
		if i%7 == 6 {
			name = "broken/cut.jpg"
		}
		out = append(out, vision.Job{Name: name, Data: readFile(t, name), Tag: i})
	}
	return out
}

func TestPool(t *testing.T) {
	t.Run("keeps_order_and_errors", func(t *testing.T) {
		p := vision.NewPool(vision.PoolConfig{Workers: 3, Bytes: 3 << 20}) // less than two pictures fit
		n := 0
		for out := range p.Map(t.Context(), slices.Values(jobs(t, 40))) {
			require.Equal(t, n, out.Job.Tag)
			if n%7 == 6 {
				require.ErrorIs(t, out.Err, vision.ErrCorrupt)
			} else {
				require.NoError(t, out.Err)
				pic, err := vision.Decode(out.Job.Data, vision.Options{Name: out.Job.Name})
				require.NoError(t, err)
				want, err := vision.Tile(pic, vision.Recipe{})
				require.NoError(t, err)
				require.Equal(t, want, out.Tiles)
				require.Equal(t, pic.Notes, out.Picture.Notes)
				p.Recycle(out.Tiles)
			}
			n++
		}
		require.Equal(t, 40, n)
	})
	t.Run("stops_when_the_consumer_does", func(t *testing.T) {
		before := runtime.NumGoroutine()
		p := vision.NewPool(vision.PoolConfig{Workers: 2})
		for range p.Map(t.Context(), slices.Values(jobs(t, 30))) {
			break
		}
		for range 1000 { // Map has waited for them; the last instructions may still run
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("got %d goroutines, want %d", runtime.NumGoroutine(), before)
	})
	t.Run("stops_with_its_context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := vision.NewPool(vision.PoolConfig{Workers: 2})
		n := 0
		endless := func(yield func(vision.Job) bool) {
			for yield(vision.Job{Data: readFile(t, "files/rgba.png")}) {
			}
		}
		for range p.Map(ctx, endless) {
			if n++; n == 5 {
				cancel()
			}
		}
		require.GreaterOrEqual(t, n, 5)
		require.ErrorIs(t, p.Prepare(ctx, vision.Job{Data: []byte("x")}).Err, context.Canceled)
	})
	t.Run("bounds_the_workers", func(t *testing.T) {
		var now, most atomic.Int32
		load := func(context.Context) ([]byte, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			time.Sleep(time.Millisecond)
			return nil, errors.New("no such file")
		}
		p := vision.NewPool(vision.PoolConfig{Workers: 2})
		for out := range p.Map(t.Context(), slices.Values(slices.Repeat([]vision.Job{{Load: load}}, 20))) {
			require.EqualError(t, out.Err, "no such file")
		}
		require.LessOrEqual(t, most.Load(), int32(2))
	})
	t.Run("names_the_file_of_a_bad_recipe", func(t *testing.T) {
		p := vision.NewPool(vision.PoolConfig{})
		out := p.Prepare(t.Context(), vision.Job{Name: "a.png", Data: readFile(t, "files/rgba.png"), Recipe: &vision.Recipe{MinTiles: 13}})
		require.ErrorIs(t, out.Err, vision.ErrRecipe)
		require.ErrorContains(t, out.Err, "13 to 12 tiles")
		require.ErrorContains(t, out.Err, "a.png")
	})
}
