package engine

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"metacap/kernels"
	"metacap/kernels/cpu"
	"metacap/kernels/cuda"
	"metacap/kernels/ref"
)

// backend is a way to open a device. This file alone names the backends.
type backend struct {
	name string
	// open opens the device that which names: what follows the colon of Config.Device, "" for the first or best.
	open func(which string, threads int) (kernels.Backend, error)
	auto bool // tried by Device "auto", in this order
}

var backends = []backend{
	{name: "cuda", auto: true, open: func(which string, _ int) (kernels.Backend, error) {
		ordinal, err := strconv.Atoi(cmp.Or(which, "0"))
		if err != nil || ordinal < 0 {
			return nil, fmt.Errorf("cuda:%s is no number of a device: %w", which, kernels.ErrUnavailable)
		}
		b, err := cuda.Open(cuda.Options{Device: ordinal})
		if err != nil {
			return nil, err // not a nil *cuda.Backend in an interface
		}
		return b, nil
	}},
	{name: "cpu", auto: true, open: func(which string, threads int) (kernels.Backend, error) {
		return cpu.Open(cpu.Options{Threads: threads, ISA: which})
	}},
	{name: "ref", open: func(which string, threads int) (kernels.Backend, error) {
		if which != "" {
			return nil, fmt.Errorf("there is one ref, no ref:%s: %w", which, kernels.ErrUnavailable)
		}
		return ref.Open(ref.Options{Threads: threads})
	}},
}

// Device is what Devices found out about a backend.
type Device struct {
	Name string
	Info kernels.Info
	Err  error // why it cannot be used; nil if it can
}

// Devices tries every backend of this build.
func Devices() []Device {
	var list []Device
	for _, b := range backends {
		d := Device{Name: b.name}
		be, err := b.open("", 0)
		if err != nil {
			d.Err = err
		} else {
			d.Info = be.Info()
			d.Err = be.Close()
		}
		list = append(list, d)
	}
	return list
}

// OpenBackend opens the device named by Config.Device with threads CPU threads,
// 0 = all. The error is ErrNoDevice for an unknown or absent device and says why.
func OpenBackend(device string, threads int) (kernels.Backend, error) {
	name, which, named := strings.Cut(device, ":")
	auto := name == "" || name == "auto"
	if named && (auto || which == "") {
		return nil, fmt.Errorf("engine: device %q: want cuda:N or cpu:SET with a device or an instruction set: %w", device, ErrNoDevice)
	}
	var why []error
	for _, b := range backends {
		if b.name != name && !(auto && b.auto) {
			continue
		}
		be, err := b.open(which, threads)
		if err == nil {
			return be, nil
		}
		why = append(why, fmt.Errorf("%s: %w", b.name, err))
		if !errors.Is(err, kernels.ErrUnavailable) {
			break // a device that is there but broken is not passed over
		}
	}
	if len(why) == 0 {
		var names []string
		for _, b := range backends {
			names = append(names, b.name)
		}
		return nil, fmt.Errorf("engine: device %q: this build has %s: %w", device, strings.Join(names, ", "), ErrNoDevice)
	}
	return nil, fmt.Errorf("engine: device %q: %w: %w", device, ErrNoDevice, errors.Join(why...))
}
