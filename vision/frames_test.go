package vision_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/vision"
)

// chunks takes a PNG file apart.
func chunks(data []byte) (out [][2][]byte) {
	for data = data[8:]; len(data) >= 12; {
		n := binary.BigEndian.Uint32(data)
		out = append(out, [2][]byte{data[4:8], data[8 : 8+n]})
		data = data[12+n:]
	}
	return out
}

func putChunk(out []byte, id string, body []byte) []byte {
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	at := len(out)
	out = append(append(out, id...), body...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[at:]))
}

// idat encodes a single-colour NRGBA picture and returns its header and data.
func idat(t testing.TB, w, h int, c color.NRGBA) (head, data []byte) {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := 0; i < len(img.Pix); i += 4 {
		copy(img.Pix[i:], []uint8{c.R, c.G, c.B, c.A})
	}
	img.Pix[3] &= 0xfe // not opaque, so that the encoder writes RGBA
	var buf bytes.Buffer
	require.NoError(t, png.Encode(&buf, img))
	for _, c := range chunks(buf.Bytes()) {
		switch string(c[0]) {
		case "IHDR":
			head = c[1]
		case "IDAT":
			data = append(data, c[1]...)
		}
	}
	return head, data
}

// animatedPNG has three frames on 4×4 pixels: red all over; a green 2×2 square at (1,1)
// that is taken back; a half transparent blue row at the bottom.
func animatedPNG(t testing.TB) []byte {
	control := func(seq, w, h, x, y int, dispose, blend byte) []byte {
		b := make([]byte, 26)
		for i, v := range []int{seq, w, h, x, y} {
			binary.BigEndian.PutUint32(b[4*i:], uint32(v))
		}
		binary.BigEndian.PutUint16(b[20:], 1)
		binary.BigEndian.PutUint16(b[22:], 25)
		b[24], b[25] = dispose, blend
		return b
	}
	head, red := idat(t, 4, 4, color.NRGBA{255, 0, 0, 255})
	_, green := idat(t, 2, 2, color.NRGBA{0, 255, 0, 255})
	_, blue := idat(t, 4, 1, color.NRGBA{0, 0, 255, 128})
	out := []byte("\x89PNG\r\n\x1a\n")
	out = putChunk(out, "IHDR", head)
	out = putChunk(out, "acTL", []byte{0, 0, 0, 3, 0, 0, 0, 0})
	out = putChunk(out, "fcTL", control(0, 4, 4, 0, 0, 0, 0))
	out = putChunk(out, "IDAT", red)
	out = putChunk(out, "fcTL", control(1, 2, 2, 1, 1, 2, 0))
	out = putChunk(out, "fdAT", append([]byte{0, 0, 0, 2}, green...))
	out = putChunk(out, "fcTL", control(3, 4, 1, 0, 3, 0, 1))
	out = putChunk(out, "fdAT", append([]byte{0, 0, 0, 4}, blue...))
	return putChunk(out, "IEND", nil)
}

func at(f vision.Frame, x, y int) [3]uint8 { return [3]uint8(f.Pix[3*(y*f.Width+x):]) }

func TestDecodeFrames(t *testing.T) {
	t.Run("apng_composes_and_disposes", func(t *testing.T) {
		frames, err := vision.DecodeFrames(animatedPNG(t), nil, vision.Options{})
		require.NoError(t, err)
		require.Len(t, frames, 3)
		red, green := [3]uint8{255, 0, 0}, [3]uint8{0, 255, 0}
		require.Equal(t, red, at(frames[0], 1, 2))
		require.Equal(t, green, at(frames[1], 1, 2))
		require.Equal(t, red, at(frames[1], 3, 0))
		require.Equal(t, red, at(frames[2], 1, 2), "the square is taken back")
		require.InDelta(t, 127, int(at(frames[2], 2, 3)[0]), 1)
		require.InDelta(t, 128, int(at(frames[2], 2, 3)[2]), 1)
		require.Equal(t, 40*time.Millisecond, frames[1].Delay)
	})
	t.Run("apng_still_is_its_first_frame", func(t *testing.T) {
		p, err := vision.Decode(animatedPNG(t), vision.Options{})
		require.NoError(t, err)
		require.Equal(t, 3, p.Frames)
		require.Contains(t, p.Notes, "first of 3 frames")
	})
	t.Run("gif_equals_the_standard_decoder", func(t *testing.T) {
		data := readFile(t, "files/animated.gif")
		frames, err := vision.DecodeFrames(data, nil, vision.Options{})
		require.NoError(t, err)
		std, err := gif.DecodeAll(bytes.NewReader(data))
		require.NoError(t, err)
		require.Len(t, frames, len(std.Image))
		canvas := image.NewNRGBA(image.Rect(0, 0, std.Config.Width, std.Config.Height))
		for i, m := range std.Image { // disposal "keep" throughout in this file
			require.LessOrEqual(t, std.Disposal[i], byte(gif.DisposalNone))
			for y := m.Rect.Min.Y; y < m.Rect.Max.Y; y++ {
				for x := m.Rect.Min.X; x < m.Rect.Max.X; x++ {
					if _, _, _, a := m.At(x, y).RGBA(); a != 0 {
						canvas.Set(x, y, m.At(x, y))
					}
				}
			}
			want, err := vision.FromImage(canvas, vision.Options{})
			require.NoError(t, err)
			require.Equal(t, want.Pix, frames[i].Pix, "frame %d", i)
			require.Equal(t, time.Duration(std.Delay[i])*10*time.Millisecond, frames[i].Delay)
		}
	})
	t.Run("gif_interlaced", func(t *testing.T) {
		// The same picture with its rows in interlaced order must decode to the same pixels.
		const w, h = 5, 19
		plain := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.Black, color.White, color.RGBA{200, 0, 0, 255}})
		for i := range plain.Pix {
			plain.Pix[i] = uint8(i * i % 3)
		}
		woven := image.NewPaletted(plain.Rect, plain.Palette)
		row := 0
		for _, pass := range [][2]int{{0, 8}, {4, 8}, {2, 4}, {1, 2}} {
			for y := pass[0]; y < h; y += pass[1] {
				copy(woven.Pix[row*w:(row+1)*w], plain.Pix[y*w:])
				row++
			}
		}
		var a, b bytes.Buffer
		require.NoError(t, gif.Encode(&a, plain, nil))
		require.NoError(t, gif.Encode(&b, woven, nil))
		data := b.Bytes()
		i := bytes.Index(data, []byte{0x2c, 0, 0, 0, 0, w, 0, h, 0})
		require.Positive(t, i)
		data[i+9] |= 0x40
		want, err := vision.Decode(a.Bytes(), vision.Options{})
		require.NoError(t, err)
		got, err := vision.Decode(data, vision.Options{})
		require.NoError(t, err)
		require.Equal(t, want.Pix, got.Pix)
	})
	t.Run("webp", func(t *testing.T) {
		frames, err := vision.DecodeFrames(readFile(t, "files/animated.webp"), []int{0, 2, 2}, vision.Options{Exact: true})
		require.NoError(t, err)
		require.Len(t, frames, 3)
		require.Equal(t, []int{0, 2, 2}, []int{frames[0].Index, frames[1].Index, frames[2].Index})
		require.NotEqual(t, frames[0].Pix, frames[1].Pix)
	})
	t.Run("a_still_is_one_frame", func(t *testing.T) {
		frames, err := vision.DecodeFrames(readFile(t, "files/photo_422.jpg"), nil, vision.Options{})
		require.NoError(t, err)
		require.Len(t, frames, 1)
	})
	t.Run("budget", func(t *testing.T) {
		data := readFile(t, "files/animated.gif")
		var e *vision.ImageError
		_, err := vision.DecodeFrames(data, nil, vision.Options{Limits: vision.Limits{Frames: 3}, Name: "a.gif"})
		require.ErrorAs(t, err, &e)
		require.Equal(t, "vision: decode a.gif: gif: frames 4 exceeds the limit of 3", e.Error())
		_, err = vision.DecodeFrames(data, nil, vision.Options{Limits: vision.Limits{FrameBytes: 100_000}})
		require.ErrorAs(t, err, &e)
		require.Equal(t, "frame bytes", e.Quantity)
		_, err = vision.DecodeFrames(data, []int{4}, vision.Options{})
		require.Error(t, err)
	})
}

func TestFrameIndices(t *testing.T) {
	// Computed with NumPy from the reference's formula.
	for _, c := range []struct {
		total int
		fps   float64
		span  vision.Span
		count int
		want  []int
	}{
		{100, 25, vision.Span{}, 8, []int{6, 18, 31, 43, 56, 68, 80, 93}},
		{16, 8, vision.Span{}, 8, []int{0, 2, 4, 6, 8, 9, 11, 13}},
		{3, 1, vision.Span{}, 4, []int{0, 0, 1, 2}},
		{300, 29.97, vision.Span{Start: 2, End: 4.5}, 4, []int{69, 88, 107, 125}},
	} {
		got, err := vision.FrameIndices(c.total, c.fps, c.span, c.count)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%+v", c)
	}
	got, err := vision.FrameIndicesHF(10, 4, true)
	require.NoError(t, err)
	require.Equal(t, []int{1, 3, 6, 8}, got)
	got, err = vision.FrameIndicesHF(10, 4, false)
	require.NoError(t, err)
	require.Equal(t, []int{0, 2, 5, 7}, got)
	_, err = vision.FrameIndicesHF(3, 4, true)
	require.ErrorIs(t, err, vision.ErrRecipe)
	_, err = vision.FrameIndices(10, 0, vision.Span{}, 2)
	require.ErrorIs(t, err, vision.ErrRecipe)
	_, err = vision.FrameIndices(10, 1, vision.Span{Start: 60}, 2)
	require.ErrorIs(t, err, vision.ErrRecipe)
}
