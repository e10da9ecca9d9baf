package engine_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/engine"
)

// TestPlanMemory checks that the plan is what Open then keeps to.
func TestPlanMemory(t *testing.T) {
	dir := "../testdata/models/internvl35-56-remote-bf16"
	// Panels of 32 outputs pad these tiny matrices; pure Go holds bf16 decoded to float32,
	// twice the bytes, which a plan made without opening does not know.
	most := 1.35
	if !fast {
		most *= 2
	}
	for _, c := range []engine.Config{{}, {Device: "ref", DType: "f32", ContextTokens: 2048}, {MaxSequences: 3, KVBlocks: 100}} {
		plan, err := engine.PlanMemory(dir, c)
		require.NoError(t, err)
		e, err := engine.Open(t.Context(), dir, c)
		require.NoError(t, err)
		got := e.Info().Budget
		require.NoError(t, e.Close())
		require.LessOrEqual(t, float64(got.Weights), most*float64(plan.Weights))
		// ref keeps bf16 where the plan has float32.
		require.GreaterOrEqual(t, float64(got.Weights), 0.5*float64(plan.Weights))
		got.Weights, got.Limit = plan.Weights, plan.Limit // what is free at the time
		require.Equal(t, plan, got)
	}
	_, err := engine.PlanMemory(dir, engine.Config{MemoryBytes: 1 << 20})
	require.ErrorIs(t, err, engine.ErrOutOfMemory)
	require.ErrorContains(t, err, "exceed the limit of 1 MiB")
	_, err = engine.PlanMemory(t.TempDir(), engine.Config{})
	require.ErrorContains(t, err, "no config.json")
}
