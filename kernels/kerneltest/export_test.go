package kerneltest

import "metacap/kernels"

// ReportSome is Report on every third exact case of each operation, or on the
// invariance cases alone.
func ReportSome(open func() (kernels.Backend, error), exact bool) ([]Result, error) {
	s, err := newSuite(open)
	if err != nil {
		return nil, err
	}
	defer s.close()
	count := map[string]int{}
	var some []Result
	for _, c := range cases() {
		if c.exact != exact {
			continue
		}
		if count[c.op]++; !exact || count[c.op]%3 == 1 {
			some = append(some, s.one(c))
		}
	}
	return some, nil
}

// Names lists the cases as Op/case.
func Names() []string {
	var names []string
	for _, c := range cases() {
		names = append(names, c.op+"/"+c.name)
	}
	return names
}
