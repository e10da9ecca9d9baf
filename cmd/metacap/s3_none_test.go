//go:build !s3

package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/captioner"
	"metacap/engine/fake"
)

// TestNoStore: a build without S3 says how to make one with it.
func TestNoStore(t *testing.T) {
	store, err := openStore(nil)
	require.NoError(t, err)
	e, err := fake.Open(fake.Options{})
	require.NoError(t, err)
	defer e.Close()
	j := captioner.Job{
		Inputs: []string{"s3://bucket/photos/"}, Out: t.TempDir(), Model: "fake", Digest: "0123456789abcdef",
		Select: captioner.Select{Remote: store},
	}
	_, err = captioner.Run(t.Context(), []captioner.Engine{e}, j)
	require.ErrorContains(t, err, "s3://bucket/photos/: this program was built without object stores (go build -tags s3)")
}
