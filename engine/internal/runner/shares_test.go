package runner

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/kernels"
)

func TestShares(t *testing.T) {
	r := new(Runner)
	tables := []int32{
		7, 3, 9, 1,
		7, 3, 9, 2, // three blocks of the first
		4, 5, 6, 8,
		7, 3, 9, 2, // of the second, but that one has a leader
		4, 5, 6, 0, // two of the third: its own third block is not full before this step
		0, 0, 0, 0, // padding
	}
	require.True(t, r.shares(tables, 4, []int32{128, 100, 127, 97, 96, 0}))
	require.Equal(t, []int32{0, 0, 0, 96, 2, 0, 0, 96, 2, 64, 5, 0}, r.shared)

	require.False(t, r.shares(tables[:8], 4, []int32{128, 40}), "32 of 168 keys are less than a third")
	require.Equal(t, []int32{0, 0, 0, 32}, r.shared)
	require.False(t, r.shares(tables[8:12], 4, []int32{128}), "nobody to share with")
	require.False(t, r.shares(nil, 0, nil))
	require.Zero(t, testing.AllocsPerRun(10, func() { r.shares(tables, 4, []int32{128, 100, 127, 97, 96, 0}) }))
}

// TestAddShared: a padded step is told who shares and that its padding shares nothing; another is told nothing.
func TestAddShared(t *testing.T) {
	r := new(Runner)
	require.True(t, r.shares([]int32{7, 3, 7, 3, 7, 3}, 2, []int32{64, 64, 33}))
	l := &lane{arrays: arrays{buf: struct{ kernels.Buffer }{}, host: make([]byte, 4*(arrayAlign+8))}}
	l.arrays.push(9) // something in front
	l.addShared(r, graphKey{batch: 4, shared: true})
	require.NotNil(t, l.step.Shared.Buf)
	require.Equal(t, []int{4, 2}, l.step.Shared.Shape)
	require.EqualValues(t, 4*arrayAlign, l.step.Shared.Offset)
	var got []int32
	for i := range 8 {
		got = append(got, int32(le32(l.arrays.host[l.step.Shared.Offset+int64(4*i):])))
	}
	require.Equal(t, []int32{0, 0, 0, 32, 0, 32, 3, 0}, got)
	before := l.arrays.n
	l.addShared(r, graphKey{batch: 4})
	require.Nil(t, l.step.Shared.Buf)
	require.Equal(t, before, l.arrays.n)
}
