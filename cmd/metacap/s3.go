//go:build s3

package main

import (
	"metacap/captioner"
	"metacap/captioner/s3"
)

// openStore opens the object store that the usual variables of S3 tools name.
// Credentials are read when they are first needed.
func openStore(a *app) (captioner.Remote, error) {
	first := func(names ...string) string {
		for _, n := range names {
			if v, ok := a.env(n); ok && v != "" {
				return v
			}
		}
		return ""
	}
	return s3.New(s3.Options{
		Endpoint: first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
		Region:   first("AWS_REGION", "AWS_DEFAULT_REGION"),
		Profile:  first("AWS_PROFILE"),
	})
}
