package runner

import (
	"testing"

	"github.com/stretchr/testify/require"
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
