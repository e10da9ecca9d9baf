//go:build linux && (amd64 || arm64)

package main

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// compiler is a loaded NVRTC library.
type compiler struct {
	createProgram  func(prog *uintptr, src, name string, numHeaders int32, headers, includeNames **byte) int32
	destroyProgram func(prog *uintptr) int32
	compileProgram func(prog uintptr, numOptions int32, options **byte) int32
	logSize        func(prog uintptr, size *uint64) int32
	log            func(prog uintptr, out *byte) int32
	cubinSize      func(prog uintptr, size *uint64) int32
	cubin          func(prog uintptr, out *byte) int32
	ptxSize        func(prog uintptr, size *uint64) int32
	ptx            func(prog uintptr, out *byte) int32
	errorString    func(code int32) string
	version        func(major, minor *int32) int32
}

// loadCompiler opens libnvrtc in a folder.
func loadCompiler(dir string) (*compiler, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// The builtins library is found by soname; it lies in the same folder.
	builtins, _ := filepath.Glob(filepath.Join(dir, "libnvrtc-builtins.so.12*")) // the pattern is valid
	for _, b := range builtins {
		if _, err := purego.Dlopen(b, purego.RTLD_NOW|purego.RTLD_GLOBAL); err != nil {
			return nil, err
		}
	}
	lib, err := purego.Dlopen(filepath.Join(dir, "libnvrtc.so.12"), purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("%w (run `make generate`, which fetches the compiler into build/nvrtc)", err)
	}
	c := &compiler{}
	for name, fn := range map[string]any{
		// nvrtcResult nvrtcCreateProgram(nvrtcProgram *prog, const char *src, const char *name, int numHeaders, const char *const *headers, const char *const *includeNames)
		"nvrtcCreateProgram": &c.createProgram,
		// nvrtcResult nvrtcDestroyProgram(nvrtcProgram *prog)
		"nvrtcDestroyProgram": &c.destroyProgram,
		// nvrtcResult nvrtcCompileProgram(nvrtcProgram prog, int numOptions, const char *const *options)
		"nvrtcCompileProgram": &c.compileProgram,
		// nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram prog, size_t *logSizeRet), and so on
		"nvrtcGetProgramLogSize": &c.logSize,
		"nvrtcGetProgramLog":     &c.log,
		"nvrtcGetCUBINSize":      &c.cubinSize,
		"nvrtcGetCUBIN":          &c.cubin,
		"nvrtcGetPTXSize":        &c.ptxSize,
		"nvrtcGetPTX":            &c.ptx,
		// const char *nvrtcGetErrorString(nvrtcResult result)
		"nvrtcGetErrorString": &c.errorString,
		// nvrtcResult nvrtcVersion(int *major, int *minor)
		"nvrtcVersion": &c.version,
	} {
		addr, err := purego.Dlsym(lib, name)
		if err != nil {
			return nil, err
		}
		purego.RegisterFunc(fn, addr)
	}
	var major, minor int32
	if r := c.version(&major, &minor); r != 0 || major != 12 || minor != 9 {
		return nil, fmt.Errorf("compiler is NVRTC %d.%d, want 12.9", major, minor)
	}
	return c, nil
}

// strings as C has them, alive as long as the result.
func cStrings(list []string) []*byte {
	out := make([]*byte, len(list)+1)
	for i, s := range list {
		b := append([]byte(s), 0)
		out[i] = &b[0]
	}
	return out
}

// compile compiles a source for an architecture ("sm_90a", "compute_80") and
// returns the cubin or PTX and the compiler's log.
func (c *compiler) compile(name, source string, headers map[string]string, arch string, options []string) (code []byte, log string, err error) {
	var texts, names []string
	for n, t := range headers {
		names = append(names, n)
		texts = append(texts, t)
	}
	ctexts, cnames := cStrings(texts), cStrings(names)
	options = append(options, "--ptxas-options=-v")
	coptions := cStrings(options)
	var prog uintptr
	if r := c.createProgram(&prog, source, name, int32(len(names)), &ctexts[0], &cnames[0]); r != 0 {
		return nil, "", fmt.Errorf("%s: create program: %s", name, c.errorString(r))
	}
	defer c.destroyProgram(&prog)
	result := c.compileProgram(prog, int32(len(options)), &coptions[0])
	runtime.KeepAlive([]any{ctexts, cnames, coptions})
	text, err := c.read(prog, c.logSize, c.log)
	log = strings.TrimRight(string(text), "\x00\n")
	if result != 0 {
		return nil, log, fmt.Errorf("%s for %s: %s\n%s", name, arch, c.errorString(result), log)
	}
	if err != nil {
		return nil, "", err
	}
	if strings.HasPrefix(arch, "compute_") {
		code, err = c.read(prog, c.ptxSize, c.ptx)
	} else {
		code, err = c.read(prog, c.cubinSize, c.cubin)
	}
	return code, log, err
}

func (c *compiler) read(prog uintptr, size func(uintptr, *uint64) int32, get func(uintptr, *byte) int32) ([]byte, error) {
	var n uint64
	if r := size(prog, &n); r != 0 || n == 0 {
		return nil, fmt.Errorf("compiler output: %s", c.errorString(r))
	}
	out := make([]byte, n)
	if r := get(prog, unsafe.SliceData(out)); r != 0 {
		return nil, fmt.Errorf("compiler output: %s", c.errorString(r))
	}
	return out, nil
}
