//go:build !s3

package main

import "metacap/captioner"

// openStore of a build without S3: its client and what that needs would add 3.4 MB.
func openStore(*app) (captioner.Remote, error) { return nil, nil }
