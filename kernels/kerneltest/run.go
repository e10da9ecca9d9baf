package kerneltest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"sync"
	"testing"

	"metacap/kernels"
	"metacap/kernels/ref"
)

// testCase is one entry of the suite. exact cases compare with ref; the others
// judge by themselves.
type testCase struct {
	op, name string
	run      func(*world)
	exact    bool
}

// Result is the verdict of one case.
type Result struct {
	Op   string `json:"op"`
	Case string `json:"case"`
	// Measured is the largest ratio of error to bound over all elements; Allowed is 1.
	// Both are 0 for cases that compare bits or expect a refusal.
	Measured float64 `json:"measured"`
	Allowed  float64 `json:"allowed"`
	Skipped  string  `json:"skipped,omitempty"` // the backend's ErrUnsupported
	Error    string  `json:"error,omitempty"`   // empty: passed
}

// Run runs every case of the suite as a subtest named Op/case on a backend that
// open makes, once for all cases. An ErrUnsupported of the backend skips a case.
func Run(t *testing.T, open func() (kernels.Backend, error)) { RunSome(t, open, 1) }

// RunSome is Run for every n-th case of each operation, the first among them: for
// tools under which a case takes many times longer.
func RunSome(t *testing.T, open func() (kernels.Backend, error), every int) {
	s, err := newSuite(open)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	byOp := map[string][]testCase{}
	var order []string
	for _, c := range cases() {
		if byOp[c.op] == nil {
			order = append(order, c.op)
		}
		byOp[c.op] = append(byOp[c.op], c)
	}
	for _, op := range order {
		t.Run(op, func(t *testing.T) {
			for i, c := range byOp[op] {
				if i%every != 0 {
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					r := s.one(c)
					switch {
					case r.Skipped != "":
						t.Skip(r.Skipped)
					case r.Error != "":
						t.Errorf("seed %d: %s", c.seed(), r.Error)
					case r.Allowed > 0:
						t.Logf("measured/allowed %.3f", r.Measured/r.Allowed)
					}
				})
			}
		})
	}
}

// Report runs every case and returns all verdicts; the error is that of open.
func Report(open func() (kernels.Backend, error)) ([]Result, error) {
	s, err := newSuite(open)
	if err != nil {
		return nil, err
	}
	defer s.close()
	var all []Result
	for _, c := range cases() {
		all = append(all, s.one(c))
	}
	return all, nil
}

// suite holds the three backends.
type suite struct {
	subject, exact, naive kernels.Backend
}

func newSuite(open func() (kernels.Backend, error)) (*suite, error) {
	subject, err := open()
	if err != nil {
		return nil, err
	}
	exact, err := ref.Open(ref.Options{})
	if err != nil {
		return nil, err
	}
	naive, err := ref.Open(ref.Options{Naive: true})
	if err != nil {
		return nil, err
	}
	return &suite{subject: subject, exact: exact, naive: naive}, nil
}

func (s *suite) close() {
	for _, b := range []kernels.Backend{s.subject, s.exact, s.naive} {
		b.Close()
	}
}

// seed depends on the case's name alone, so that a case can be run by itself.
func (c testCase) seed() uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, c.op, "/", c.name)
	return h.Sum64()
}

// play runs a case in one world.
func (c testCase) play(b kernels.Backend) *world {
	w := newWorld(b, c.seed())
	c.run(w)
	w.finish()
	return w
}

// references keeps the worlds of ref by case: they are the same for every backend
// under test, and several are tested in one process.
var references sync.Map

func (s *suite) reference(c testCase) (exact, naive *world) {
	type pair struct{ exact, naive *world }
	key := c.op + "/" + c.name
	if p, ok := references.Load(key); ok {
		return p.(pair).exact, p.(pair).naive
	}
	p := pair{c.play(s.exact), c.play(s.naive)}
	for _, w := range []*world{p.exact, p.naive} {
		for _, o := range w.operands {
			o.before, o.t.Buf = nil, nil
			if !o.out {
				o.after = nil
			}
		}
		w.Backend, w.weights, w.caches = nil, nil, nil
	}
	references.Store(key, p)
	return p.exact, p.naive
}

// one runs a case and judges it.
func (s *suite) one(c testCase) Result {
	r := Result{Op: c.op, Case: c.name}
	got := c.play(s.subject)
	if errors.Is(got.err, kernels.ErrUnsupported) {
		r.Skipped = got.err.Error()
		return r
	}
	if got.err != nil {
		r.Error = got.err.Error()
		return r
	}
	if !c.exact {
		return r
	}
	exact, naive := s.reference(c)
	for _, w := range []*world{exact, naive} {
		if w.err != nil {
			r.Error = "on the reference: " + w.err.Error()
			return r
		}
	}
	worst, err := compare(got, exact, naive)
	if err != nil {
		r.Error = err.Error()
	}
	r.Measured, r.Allowed = worst, 1
	if math.IsNaN(worst) || math.IsInf(worst, 0) {
		r.Measured = math.MaxFloat64 // JSON has no NaN
	}
	return r
}
