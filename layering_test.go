package metacap_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The arrows of the module: a folder (by its longest listed prefix) may import
// itself and what is listed for it. A folder that is not listed is a violation,
// so that a new package is placed on purpose.
var arrows = map[string][]string{
	"internal":           {},
	"internal/parity":    {"engine", "loader", "vision", "tokenizer", "kernels", "internal"},
	"internal/compare":   {"engine"},
	"internal/bench":     {"engine", "loader", "vision", "tokenizer", "kernels", "internal", "internal/randmodel"},
	"internal/randmodel": {"loader", "internal"},
	"kernels":            {"internal"},
	"loader":             {"internal"},
	"vision":             {"internal"},
	"tokenizer":          {"internal"},
	"engine":             {"loader", "vision", "tokenizer", "kernels", "internal"},
	"capflow":            {"engine", "internal"},
	"captioner":          {"capflow", "engine", "vision", "internal"},
	"server":             {"capflow", "engine", "internal"},
	"cmd":                {"server", "captioner", "capflow", "engine", "loader", "vision", "tokenizer", "kernels", "internal", "internal/parity", "internal/bench", "internal/compare", "internal/randmodel"},
	"tools":              {"internal", "engine", "loader", "vision", "tokenizer", "kernels"},
}

// Fences narrow the arrows: an import path prefix may occur only in these
// folders (or, ending in .go, files). Imports of the module itself are written
// without its path. A fence with tests set also holds for test files.
var fences = []struct {
	pkg   string
	only  []string
	tests bool
}{
	{pkg: "github.com/ebitengine/purego", only: []string{"kernels/cuda/driver", "cmd/cu2go"}, tests: true},
	{pkg: "github.com/disintegration/imaging", only: []string{"vision", "captioner/review"}},
	{pkg: "github.com/x448/float16", only: []string{"internal/dtype"}},
	{pkg: "github.com/stretchr/testify", only: []string{}},
	{pkg: "gorgonia.org/cu", only: []string{}, tests: true},
	{pkg: "net/http", only: []string{"server", "captioner", "capflow/endpoint", "cmd/metacap", "cmd/cu2go"}},
	{pkg: "kernels/ref", only: []string{"kernels", "engine/backends.go", "cmd/metacap"}},
	{pkg: "kernels/cpu", only: []string{"kernels", "engine/backends.go", "cmd/metacap"}},
	{pkg: "kernels/cuda", only: []string{"kernels", "engine/backends.go", "cmd"}},
}

// Blinds are imports that a folder must not have although its arrows allow them.
var blinds = map[string][]string{
	"engine/internal/sched":   {"kernels"},
	"engine/internal/kvcache": {"kernels"},
	"kernels":                 {"internal/demo"},
	"engine":                  {"internal/demo"},
}

// TestLayering checks the imports of every Go file, whatever its build tags.
func TestLayering(t *testing.T) {
	violations, err := checkImports(os.DirFS("."))
	require.NoError(t, err)
	require.Empty(t, violations, strings.Join(violations, "\n"))
}

// TestLayeringFindsViolations plants one violation at a time.
func TestLayeringFindsViolations(t *testing.T) {
	for _, c := range []struct{ file, src, want string }{
		{"kernels/ref/a.go", `package ref; import _ "metacap/engine"`, "kernels must not import engine"},
		{"loader/a.go", `package loader; import _ "metacap/vision"`, "loader must not import vision"},
		{"server/a.go", `package server; import _ "metacap/loader"`, "server must not import loader"},
		{"internal/dtype/a.go", `package dtype; import _ "metacap/kernels"`, "internal must not import kernels"},
		{"engine/x.go", `package engine; import _ "metacap/kernels/cpu"`, "kernels/cpu only in"},
		{"engine/internal/sched/x.go", `package sched; import _ "metacap/kernels"`, "engine/internal/sched must not import kernels"},
		{"engine/x.go", `package engine; import _ "metacap/internal/parity"`, "engine must not import internal/parity"},
		{"vision/x.go", `package vision; import _ "github.com/x448/float16"`, "float16 only in"},
		{"vision/x.go", `package vision; import _ "github.com/stretchr/testify/require"`, "testify only in"},
		{"vision/x_test.go", `package vision; import _ "github.com/stretchr/testify/assert"`, "use testify/require"},
		{"kernels/cuda/x.go", "//go:build never\n\npackage cuda\n" + `import _ "github.com/ebitengine/purego"`, "purego only in"},
		{"engine/x.go", `package engine; import "os"; var X = os.Getenv("A")`, "reads the environment"},
		{"novel/x.go", `package novel`, "not placed"},
	} {
		dir := t.TempDir()
		write(t, dir, c.file, c.src)
		violations, err := checkImports(os.DirFS(dir))
		require.NoError(t, err)
		require.Len(t, violations, 1, c.src)
		require.Contains(t, violations[0], c.want)
	}
	dir := t.TempDir()
	write(t, dir, "engine/backends.go", `package engine; import _ "metacap/kernels/cpu"`)
	write(t, dir, "engine/a_test.go", `package engine; import _ "github.com/stretchr/testify/require"`)
	write(t, dir, "third_party/x/go.mod", "module x")
	write(t, dir, "third_party/x/x.go", `package x; import _ "gorgonia.org/cu"`)
	violations, err := checkImports(os.DirFS(dir))
	require.NoError(t, err)
	require.Empty(t, violations)
}

// checkImports returns a line for each import, in the tree at root, that breaks
// the tables above.
func checkImports(root fs.FS) ([]string, error) {
	var out []string
	err := walk(root, func(name string) error {
		if path.Ext(name) != ".go" {
			return nil
		}
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, data, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		test := strings.HasSuffix(name, "_test.go") || strings.HasSuffix(path.Dir(name), "test")
		group, ok := groupOf(path.Dir(name))
		if !ok {
			out = append(out, fmt.Sprintf("%s: folder not placed in the table of arrows", name))
		}
		for _, spec := range file.Imports {
			imp := strings.Trim(spec.Path.Value, `"`)
			if msg := badImport(name, group, imp, test); msg != "" {
				out = append(out, name+": "+msg)
			}
		}
		if !test && group != "cmd" && group != "tools" && readsEnvironment(file) {
			out = append(out, name+": reads the environment; only cmd may")
		}
		return nil
	})
	return out, err
}

// badImport says why name, of a group, must not import imp; "" if it may.
func badImport(name, group, imp string, test bool) string {
	own, internal := strings.CutPrefix(imp, "metacap/")
	if test && under(imp, "github.com/stretchr/testify") {
		if path.Base(imp) != "require" {
			return "imports " + imp + "; use testify/require"
		}
		return ""
	}
	if internal && !test {
		target, _ := groupOf(own)
		if target != group && !slices.Contains(arrows[group], target) {
			return fmt.Sprintf("%s must not import %s", group, target)
		}
		for folder, blind := range blinds {
			for _, b := range blind {
				if under(path.Dir(name), folder) && under(own, b) {
					return fmt.Sprintf("%s must not import %s", folder, b)
				}
			}
		}
	}
	for _, f := range fences {
		if test && !f.tests || !under(strings.TrimPrefix(imp, "metacap/"), f.pkg) {
			continue
		}
		if !slices.ContainsFunc(f.only, func(o string) bool { return name == o || under(path.Dir(name), o) }) {
			return fmt.Sprintf("imports %s only in %v", f.pkg, f.only)
		}
	}
	return ""
}

// groupOf is the longest key of arrows that dir lies under. The root counts as cmd.
func groupOf(dir string) (group string, ok bool) {
	if dir == "." {
		return "cmd", true
	}
	for key := range arrows {
		if under(dir, key) && len(key) > len(group) {
			group = key
		}
	}
	return group, group != ""
}

// under reports whether p is dir or lies in it.
func under(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// readsEnvironment reports whether a file calls os.Getenv, LookupEnv or Environ.
func readsEnvironment(file *ast.File) (found bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "os" {
				found = found || slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}, sel.Sel.Name)
			}
		}
		return true
	})
	return found
}

// walk calls visit for every file of the module's own source: hidden folders,
// build outputs, test data and nested modules are left out.
func walk(root fs.FS, visit func(name string) error) error {
	return fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return visit(name)
		}
		if name == "." {
			return nil
		}
		if slices.Contains([]string{"testdata", "bin", "build", "out"}, d.Name()) || strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if _, err := fs.Stat(root, path.Join(name, "go.mod")); err == nil && name != "tools" {
			return fs.SkipDir
		}
		return nil
	})
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	full := filepath.Join(dir, filepath.FromSlash(name))
	require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
	require.NoError(t, os.WriteFile(full, []byte(text), 0o644))
}
