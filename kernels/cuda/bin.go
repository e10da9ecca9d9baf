//go:build !nocuda

package cuda

import "embed"

// binaries are the compiled kernels (see cmd/cu2go).
//
//go:embed bin/*.gz bin/MANIFEST.json
var binaries embed.FS
