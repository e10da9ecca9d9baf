//go:build !s3

package main

import (
	"errors"

	"metacap/captioner"
)

// openStore of a build without S3: its client and what that needs would add 3.4 MB.
func openStore(*app) (captioner.Remote, error) {
	return nil, errors.New("this metacap was built without S3; go build -tags s3 ./cmd/metacap makes one that reads s3://")
}
