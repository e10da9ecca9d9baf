//go:build nocuda

package cuda

import "embed"

// binaries is empty: this build has no CUDA support.
var binaries embed.FS
