//go:build !cgo || !amd64

package resample

// accelerated reports whether the job was done by vector code; this build has none.
func accelerated(*job) bool { return false }
