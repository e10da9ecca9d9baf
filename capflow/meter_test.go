package capflow_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/engine"
)

// TestMeter: what captions in work together took adds up to what the machine worked.
func TestMeter(t *testing.T) {
	m, _ := open(t)
	var now atomic.Int64
	f, err := capflow.New(m, capflow.Options{Mode: capflow.Single, Meter: capflow.Meter{
		Read: func() time.Duration { return time.Duration(now.Add(int64(time.Millisecond))) }, Unit: "cpu", Lanes: 2, PricePerHour: 7.2,
	}})
	require.NoError(t, err)
	var wg sync.WaitGroup
	recs := make([]*capflow.Record, 5)
	for i := range recs {
		wg.Go(func() {
			recs[i], _ = f.Caption(context.Background(), capflow.Input{ID: string(rune('a' + i)), Images: []engine.Image{{Data: []byte("picture")}}})
		})
	}
	wg.Wait()
	sum := 0.0
	for _, r := range recs {
		require.Positive(t, r.Usage.Seconds)
		require.InDelta(t, r.Usage.Seconds*0.001, r.Usage.MachineDollars, 1e-9)
		sum += r.Usage.Seconds
	}
	require.LessOrEqual(t, sum, time.Duration(now.Load()).Seconds())
}
