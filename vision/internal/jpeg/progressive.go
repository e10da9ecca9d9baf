package jpeg

// progressiveScan decodes one scan of a progressive frame into kept coefficients.
// Source: T.81 annex G.
func (e *entropy) progressiveScan(s scan) error {
	if s.ss == 0 {
		return e.dcScan(s)
	}
	c := s.comps[0]
	t := &e.p.acTables[c.ac]
	if s.ah == 0 {
		return e.single(c, func(b *[64]int16) error { return e.acFirst(t, s, b) })
	}
	return e.single(c, func(b *[64]int16) error { return e.acRefine(t, s, b) })
}

// dcScan decodes the DC coefficients, or one more bit of them.
func (e *entropy) dcScan(s scan) error {
	one := func(c *component, b *[64]int16) error {
		if s.ah != 0 {
			if e.bits(1) != 0 {
				b[0] |= 1 << s.al
			}
			return nil
		}
		size, ok := e.symbol(&e.p.dcTables[c.dc])
		if !ok || size > 15 {
			return errData
		}
		c.pred += extend(e.bits(uint(size)), uint32(size))
		b[0] = int16(c.pred << s.al)
		return nil
	}
	if len(s.comps) == 1 {
		c := s.comps[0]
		return e.single(c, func(b *[64]int16) error { return one(c, b) })
	}
	for y := range e.p.mcusY {
		for x := range e.p.mcusX {
			if err := e.mcu(); err != nil {
				return err
			}
			for _, c := range s.comps {
				for v := range c.v {
					at := (y*c.v+v)*c.coefficientRow + 64*c.h*x
					for range c.h {
						if err := one(c, (*[64]int16)(c.coeffs[at:at+64])); err != nil {
							return err
						}
						at += 64
					}
				}
			}
		}
		if e.overrun() {
			return errTruncated(e.p)
		}
	}
	return nil
}

// acFirst decodes the first bits of coefficients ss…se of a block. Source: T.81 G.1.2.2.
func (e *entropy) acFirst(t *huffman, s scan, b *[64]int16) error {
	if e.eob > 0 {
		e.eob--
		return nil
	}
	for k := s.ss; k <= s.se; k++ {
		symbol, ok := e.symbol(t)
		if !ok {
			return errData
		}
		run, size := int(symbol>>4), uint(symbol&15)
		if size == 0 {
			if run < 15 {
				e.eob = 1<<run - 1 + int(e.bits(uint(run)))
				return nil
			}
			k += 15
			continue
		}
		k += run
		v := extend(e.bits(size), uint32(size))
		if k > 63 {
			return errData
		}
		b[zigzag[k]] = int16(v << s.al)
	}
	return nil
}

// acRefine decodes one more bit of coefficients ss…se: a correction bit for each that
// is not zero yet, and newly nonzero ones at the places that runs of zeros lead to.
// Source: T.81 G.1.2.3.
func (e *entropy) acRefine(t *huffman, s scan, b *[64]int16) error {
	bit := int16(1) << s.al
	k := s.ss
	if e.eob == 0 {
		for ; k <= s.se; k++ {
			symbol, ok := e.symbol(t)
			if !ok {
				return errData
			}
			run, size := int(symbol>>4), symbol&15
			value := int16(0)
			if size != 0 { // size 1 is the only legal one
				value = -bit
				if e.bits(1) != 0 {
					value = bit
				}
			} else if run < 15 {
				e.eob = 1<<run + int(e.bits(uint(run)))
				break
			}
			k = e.refine(b, k, s.se, run, bit)
			if value != 0 {
				if k > 63 {
					return errData
				}
				b[zigzag[k]] = value
			}
		}
	}
	if e.eob > 0 {
		e.refine(b, k, s.se, 64, bit)
		e.eob--
	}
	return nil
}

// refine reads correction bits from coefficient k on until run zeros have been passed
// and another zero is found, or the band ends; it returns that position.
func (e *entropy) refine(b *[64]int16, k, se, run int, bit int16) int {
	for ; k <= se; k++ {
		c := &b[zigzag[k]]
		if *c == 0 {
			if run == 0 {
				break
			}
			run--
			continue
		}
		if e.bits(1) != 0 && *c&bit == 0 {
			if *c >= 0 {
				*c += bit
			} else {
				*c -= bit
			}
		}
	}
	return k
}
