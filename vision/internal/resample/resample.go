package resample

import "fmt"

// Source is a rectangle of interleaved RGB.
type Source struct {
	Pix           []uint8 // [H,Stride] bytes; pixel (x,y) at y*Stride+3*x
	Stride        int     // bytes a row, ≥ 3*Width
	Width, Height int     // ≥ 1
}

// Grid is the layout of the result: Cols×Rows squares of Size pixels, each stored
// as its own [Size,Size,3] block, row by row of the grid. One square (1×1) is an
// ordinary picture. For a result that is not made of squares use [Resizer.Resize].
type Grid struct {
	Cols, Rows, Size int
}

// Bytes is the length of the result in bytes.
func (g Grid) Bytes() int { return g.Cols * g.Rows * g.Size * g.Size * 3 }

// Resizer scales pictures. It keeps the weights of recent size pairs and its row
// buffers, so that a stream of pictures of few sizes allocates nothing. The zero
// value is ready. One goroutine at a time.
type Resizer struct {
	axes [8]*axis // most recent first
	ring []uint8
	last []uint8 // padded copy of the last source row
	// plain switches the C code off; tests compare both.
	plain bool
}

// Tiles scales src to (Cols·Size)×(Rows·Size) and writes it to dst as tiles.
// dst must hold g.Bytes() bytes and must not overlap src. Panics if it is shorter.
func (r *Resizer) Tiles(dst []uint8, src Source, g Grid) {
	r.resize(dst, src, g.Cols*g.Size, g.Rows*g.Size, g.Size, g.Size)
}

// Resize scales src to width×height (each ≥ 1) and writes it to dst as [height,width,3].
func (r *Resizer) Resize(dst []uint8, src Source, width, height int) {
	r.resize(dst, src, width, height, width, height)
}

// job is one resize: the passes and where the result goes.
type job struct {
	src          Source
	dst          []uint8
	hor, ver     *axis
	outW, outH   int // pixels of the whole result
	tileW, tileH int // pixels of a tile; outW, outH are multiples of them
	ring         []uint8
	ringRows     int // rows the ring holds
	ringStride   int // bytes a ring row, with room for vector stores
	last         []uint8
}

// slack is the number of bytes after a row of the ring that vector code may overwrite.
const slack = 64

func (r *Resizer) resize(dst []uint8, src Source, outW, outH, tileW, tileH int) {
	if len(dst) < outW*outH*3 {
		panic(fmt.Sprintf("resample: destination of %d bytes, want %d", len(dst), outW*outH*3))
	}
	if src.Width < 1 || src.Height < 1 || src.Stride < 3*src.Width ||
		len(src.Pix) < (src.Height-1)*src.Stride+3*src.Width {
		panic(fmt.Sprintf("resample: source %dx%d stride %d in %d bytes", src.Width, src.Height, src.Stride, len(src.Pix)))
	}
	j := &job{src: src, dst: dst[:outW*outH*3], outW: outW, outH: outH, tileW: tileW, tileH: tileH}
	if outW != src.Width {
		j.hor = r.axis(src.Width, outW)
	}
	if outH != src.Height {
		j.ver = r.axis(src.Height, outH)
	}
	j.ringRows, j.ringStride = 2, 3*outW+slack
	if j.ver != nil {
		j.ringRows = j.ver.taps + 2
	}
	if n := j.ringRows * j.ringStride; cap(r.ring) < n {
		r.ring = make([]uint8, n)
	}
	j.ring, j.last = r.ring[:j.ringRows*j.ringStride], r.last
	defer func() { r.last = j.last }()
	if r.plain || !accelerated(j) {
		j.run()
	}
}

// axis returns the weights of a size pair, from the recent ones if there.
func (r *Resizer) axis(in, out int) *axis {
	for i, a := range r.axes {
		if a != nil && a.in == in && a.out == out {
			copy(r.axes[1:i+1], r.axes[:i])
			r.axes[0] = a
			return a
		}
	}
	copy(r.axes[1:], r.axes[:])
	r.axes[0] = newAxis(in, out)
	return r.axes[0]
}

// run is the resize in Go.
func (j *job) run() {
	if j.ver == nil {
		row := j.ring[:3*j.outW]
		for y := range j.outH {
			j.scatter(y, j.row(y, row))
		}
		return
	}
	v := j.ver
	next := 0 // source rows [0,next) have been through the horizontal pass, unless skipped
	rows := make([][]uint8, v.taps)
	out := make([]uint8, 3*j.outW)
	for y := range j.outH {
		lo, n := int(v.first[y]), int(v.count[y])
		for next = max(next, lo); next < lo+n; next++ {
			slot := next % j.ringRows
			row := j.ring[slot*j.ringStride:][:3*j.outW]
			if s := j.row(next, row); &s[0] != &row[0] {
				copy(row, s)
			}
		}
		for k := range n {
			rows[k] = j.ring[(lo+k)%j.ringRows*j.ringStride:][:3*j.outW]
		}
		vertical(out, rows[:n], v.weights[y*v.taps:][:n])
		j.scatter(y, out)
	}
}

// row gives source row y after the horizontal pass: in buf, or the source itself when the width stays.
func (j *job) row(y int, buf []uint8) []uint8 {
	src := j.src.Pix[y*j.src.Stride:][:3*j.src.Width]
	if j.hor == nil {
		return src
	}
	horizontal(buf[:3*j.outW], src, j.hor)
	return buf
}

// scatter copies result row y to its tiles.
func (j *job) scatter(y int, row []uint8) {
	cols, n := j.outW/j.tileW, 3*j.tileW
	for c := range cols {
		tile := (y/j.tileH)*cols + c
		copy(j.dst[(tile*j.tileH+y%j.tileH)*n:][:n], row[c*n:][:n])
	}
}

func horizontal(dst, src []uint8, a *axis) {
	for x := range a.out {
		n := int(a.count[x])
		w := a.weights[x*a.taps:][:n]
		s := src[3*int(a.first[x]):][:3*n]
		r, g, b := int32(1<<(precision-1)), int32(1<<(precision-1)), int32(1<<(precision-1))
		for k, w := range w {
			p := s[3*k : 3*k+3 : 3*k+3]
			r += int32(p[0]) * w
			g += int32(p[1]) * w
			b += int32(p[2]) * w
		}
		d := dst[3*x : 3*x+3 : 3*x+3]
		d[0], d[1], d[2] = clip(r), clip(g), clip(b)
	}
}

func vertical(dst []uint8, rows [][]uint8, weights []int32) {
	if len(rows) == 4 { // enlarging: the common case
		r0, r1, r2, r3 := rows[0][:len(dst)], rows[1][:len(dst)], rows[2][:len(dst)], rows[3][:len(dst)]
		w0, w1, w2, w3 := weights[0], weights[1], weights[2], weights[3]
		for i := range dst {
			dst[i] = clip(1<<(precision-1) + int32(r0[i])*w0 + int32(r1[i])*w1 + int32(r2[i])*w2 + int32(r3[i])*w3)
		}
		return
	}
	for i := range dst {
		sum := int32(1 << (precision - 1))
		for k, w := range weights {
			sum += int32(rows[k][i]) * w
		}
		dst[i] = clip(sum)
	}
}

// clip drops the fractional bits and limits to a byte. Sums fit in int32: the
// weights of a pixel add up to 2^22 and their absolute values to less than 1.5·2^22.
func clip(sum int32) uint8 {
	return uint8(min(max(sum>>precision, 0), 255))
}
