package driver

import "unsafe"

// Symbol is an entry point that Open looks up.
type Symbol struct {
	Name, Export string
	Version      int
	Optional     bool
}

// Symbols lists the entry points.
func Symbols() []Symbol {
	var all []Symbol
	for _, s := range symbolTable {
		all = append(all, Symbol{s.name, s.export(), s.version, s.optional})
	}
	return all
}

// LaunchLayout is the layout of the structures that cuLaunchKernelEx reads, in
// the order of the simulator's sim_layout.
func LaunchLayout() []uintptr {
	var c launchConfig
	var a launchAttr
	return []uintptr{
		unsafe.Sizeof(c), unsafe.Offsetof(c.gridX), unsafe.Offsetof(c.gridY), unsafe.Offsetof(c.gridZ), unsafe.Offsetof(c.blockX),
		unsafe.Offsetof(c.blockY), unsafe.Offsetof(c.blockZ), unsafe.Offsetof(c.sharedBytes), unsafe.Offsetof(c.stream),
		unsafe.Offsetof(c.attrs), unsafe.Offsetof(c.numAttrs),
		unsafe.Sizeof(a), unsafe.Offsetof(a.id), unsafe.Offsetof(a.value), unsafe.Sizeof(a.value),
	}
}
