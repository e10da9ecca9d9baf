package vision_test

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"metacap/vision"
)

// TestAlphaOnWhite compares the default recipe with Pillow's alpha_composite on white.
func TestAlphaOnWhite(t *testing.T) {
	for _, c := range []struct{ file, rgb string }{
		{"rgba.png", "5422935b2e22c31f4ca356f8c28cf5a1d93004381087ac287f4e374b326aca96"},
		{"la.png", "42eac0c08e8a45087eb3714311e04a0ee0373fd6464c5f1f242b303ca0f40a67"},
		{"palette_trns.png", "1e79a60e5bfb8e5d1a644894c07be1e507511b1a6ee7290f608061fc6bd20514"},
		{"rgba16_interlaced.png", "05d2891bf3d7a71aaa43ec44e523d65a9498191f9099a990dc71d88780977e21"},
		{"alpha.webp", "ae8a7a44f38abaddea09df2c23898f636c4f8af1765ee779e34f1b75c05e4552"},
		{"transparent.gif", "f43c0d0098ad733b66339f042c20767f3f2e03fffb3e4db12dd5401c6b146f2a"},
	} {
		p, err := vision.Decode(readFile(t, "files/"+c.file), vision.Options{})
		require.NoError(t, err)
		require.Equal(t, c.rgb, sum(p.Pix), c.file)
		require.Contains(t, p.Notes, "transparency composited on white", c.file)
		p, err = vision.Decode(readFile(t, "files/"+c.file), vision.Options{Exact: true})
		require.NoError(t, err)
		require.Contains(t, p.Notes, "transparency dropped", c.file)
	}
}

// TestMoreFormats decodes files of kinds that the samples lack; hashes by Pillow 11.3,
// except 16-bit grey, of which the high byte counts.
func TestMoreFormats(t *testing.T) {
	for _, c := range []struct {
		file, rgb string
		size      [2]int
	}{
		{"deflate.tif", "4b81efbd205e7fb4e42bc0d72d9d7413642298735289d35a74c1755883bcc45c", [2]int{60, 50}},
		{"palette.tif", "27cc3ba3d28f7fb795d5375079966b26a3d03fb19510d998249cf277fd3f3252", [2]int{60, 50}},
		{"orient6.tif", "0c3b70cbf6a4c35ac7fa10afcef511e2a064903b82611faf2294ebfa88f988af", [2]int{50, 60}},
		{"fax_black0.tif", "0871a21710e88d773c7dfb4f36db035e1c4b3bb0864ea24b4c7e9dd86487bdf8", [2]int{60, 50}},
		{"fax_white0.tif", "0bb83fe93cb21d1df2920353b55085190bf67dac60089246a954ab9030834ee6", [2]int{60, 50}},
		{"palette4.bmp", "74f94709627326a5938c83ad0c413daf99375a19f5c76ebedc7beb8054d60a6e", [2]int{60, 50}},
		{"exif8.webp", "4b81efbd205e7fb4e42bc0d72d9d7413642298735289d35a74c1755883bcc45c", [2]int{60, 50}},
	} {
		data, err := os.ReadFile(filepath.Join("testdata", c.file))
		require.NoError(t, err)
		p, err := vision.Decode(data, vision.Options{Exact: true, Name: c.file})
		require.NoError(t, err)
		require.Equal(t, c.size, [2]int{p.Width, p.Height}, c.file)
		require.Equal(t, c.rgb, sum(p.Pix), c.file)
	}
	data, err := os.ReadFile("testdata/gray16.tif")
	require.NoError(t, err)
	p, err := vision.Decode(data, vision.Options{})
	require.NoError(t, err)
	for i := range 3000 {
		require.Equal(t, uint8(uint16(i*21)>>8), p.Pix[3*i])
	}
	data, err = os.ReadFile("testdata/exif8.webp")
	require.NoError(t, err)
	p, err = vision.Decode(data, vision.Options{})
	require.NoError(t, err)
	require.Equal(t, [2]int{50, 60}, [2]int{p.Width, p.Height})
}

func TestSniff(t *testing.T) {
	pad := func(s string) []byte { return append([]byte(s), make([]byte, 32)...) }
	for _, c := range []struct {
		data   []byte
		format string
	}{
		{pad("\xff\xd8\xff\xe0"), "jpeg"},
		{pad("\x89PNG\r\n\x1a\n"), "png"},
		{pad("GIF89a"), "gif"},
		{pad("RIFF\x00\x00\x00\x00WEBPVP8 "), "webp"},
		{pad("II*\x00"), "tiff"},
		{pad("\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avif"), "avif"},
		{pad("\x00\x00\x00\x18ftypheic"), "heic"},
		{pad("\xff\x0a"), "jxl"},
		{pad("BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00"), "bmp"},
		{pad("BM is how this text begins"), ""},
		{pad("RIFF\x00\x00\x00\x00WAVE"), ""},
		{[]byte("\xff\xd8"), ""},
		{nil, ""},
	} {
		format, ok := vision.Sniff(c.data)
		require.Equal(t, c.format, format)
		require.Equal(t, c.format != "", ok)
	}
}

func TestErrors(t *testing.T) {
	photo := readFile(t, "files/photo_422.jpg") // 333×331
	for _, c := range []struct {
		name   string
		data   []byte
		limits vision.Limits
		kind   error
		text   string
	}{
		{"a.png", nil, vision.Limits{}, vision.ErrNotImage, "the file is empty"},
		{"a.png", []byte("<!DOCTYPE html><p>404"), vision.Limits{}, vision.ErrNotImage, "it is an HTML page"},
		{"a.svg", []byte(`<?xml version="1.0"?><svg/>`), vision.Limits{}, vision.ErrNotImage, "SVG"},
		{"a.avif", []byte("\x00\x00\x00\x1cftypavif\x00\x00\x00\x00"), vision.Limits{}, vision.ErrUnsupported, "no avif decoder"},
		{"a.jpg", photo, vision.Limits{Bytes: 100}, vision.ErrLimit, "vision: decode a.jpg: bytes 13021 exceeds the limit of 100"},
		{"a.jpg", photo, vision.Limits{Pixels: 110_222}, vision.ErrLimit, "vision: decode a.jpg: jpeg: pixels 110223 exceeds the limit of 110222"},
		{"a.jpg", photo, vision.Limits{Side: 332}, vision.ErrLimit, "width 333 exceeds the limit of 332"},
		{"a.jpg", photo, vision.Limits{Aspect: 1.001}, vision.ErrLimit, "aspect ratio 1.006"},
		{"a.jpg", photo[:5000], vision.Limits{}, vision.ErrCorrupt, "truncated"},
	} {
		for _, f := range []func() error{
			func() error {
				_, err := vision.Decode(c.data, vision.Options{Name: c.name, Limits: c.limits})
				return err
			},
			func() error {
				_, err := vision.DecodeFrames(c.data, nil, vision.Options{Name: c.name, Limits: c.limits})
				return err
			},
		} {
			err := f()
			var e *vision.ImageError
			require.ErrorAs(t, err, &e)
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.text)
			require.Equal(t, c.name, e.Name)
		}
	}
	_, err := vision.Decode(photo, vision.Options{Limits: vision.Limits{Pixels: 110_223, Side: 333, Aspect: 1.01, Bytes: 13021}})
	require.NoError(t, err)
}

// TestShortFilesClaimingMuch: headers of 178 megapixels with nothing behind them fail
// before memory for pixels is taken.
func TestShortFilesClaimingMuch(t *testing.T) {
	const w, h = 13000, 13700
	png := []byte("\x89PNG\r\n\x1a\n")
	head := binary.BigEndian.AppendUint32(nil, w)
	head = binary.BigEndian.AppendUint32(head, h)
	png = putChunk(png, "IHDR", append(head, 16, 6, 0, 0, 0))
	png = putChunk(png, "IDAT", make([]byte, 40))
	bmp := append([]byte("BM"), make([]byte, 100)...)
	binary.LittleEndian.PutUint32(bmp[10:], 54)
	binary.LittleEndian.PutUint32(bmp[14:], 40)
	binary.LittleEndian.PutUint32(bmp[18:], w)
	binary.LittleEndian.PutUint32(bmp[22:], h)
	copy(bmp[26:], []byte{1, 0, 24, 0})
	gif := append([]byte("GIF89a\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"), 0x2c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0x4c, 1, 0, 0x3b)
	binary.LittleEndian.PutUint16(gif[6:], w)
	binary.LittleEndian.PutUint16(gif[8:], h)
	copy(gif[24:], gif[6:10])
	jpeg := readFile(t, "files/gray.jpg")
	sof := bytes.Index(jpeg, []byte{0xff, 0xc0})
	require.Positive(t, sof)
	jpeg = bytes.Clone(jpeg[:sof+200])
	binary.BigEndian.PutUint16(jpeg[sof+5:], h)
	binary.BigEndian.PutUint16(jpeg[sof+7:], w)
	for name, data := range map[string][]byte{"png": png, "bmp": bmp, "gif": gif, "jpeg": jpeg} {
		bytesPerRun := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				_, err := vision.Decode(data, vision.Options{})
				require.ErrorIs(b, err, vision.ErrCorrupt, name)
			}
		}).AllocedBytesPerOp()
		require.Less(t, bytesPerRun, int64(1<<20), name)
	}
}

func TestNotes(t *testing.T) {
	p, err := vision.Decode(readFile(t, "files/exif6.jpg"), vision.Options{Name: "x.PNG"})
	require.NoError(t, err)
	require.Equal(t, []string{"named .png but holds jpeg", "EXIF orientation 6 applied"}, p.Notes)
	p, err = vision.Decode(readFile(t, "files/exif6.jpg"), vision.Options{Name: "x.jpeg", Exact: true})
	require.NoError(t, err)
	require.Equal(t, []string{"EXIF orientation 6 ignored"}, p.Notes)
	p, err = vision.Decode(readFile(t, "files/animated.gif"), vision.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"first of 4 frames"}, p.Notes)
}

func TestProbe(t *testing.T) {
	for _, g := range readGoldens(t) {
		info, err := vision.Probe(readFile(t, g.File), vision.Options{})
		require.NoError(t, err, g.Name)
		require.Equal(t, g.Size, [2]int{info.Width, info.Height}, g.Name)
		require.Equal(t, g.Frames, info.Frames, g.Name)
		require.Equal(t, g.Orientation, info.Orientation, g.Name)
	}
}

func TestFromImage(t *testing.T) {
	img := image.NewRGBA64(image.Rect(5, 5, 9, 8))
	img.SetRGBA64(6, 6, color.RGBA64{0x8000, 0x4000, 0, 0x8000})
	p, err := vision.FromImage(img.SubImage(image.Rect(6, 6, 8, 8)), vision.Options{Exact: true})
	require.NoError(t, err)
	require.Equal(t, [2]int{2, 2}, [2]int{p.Width, p.Height})
	require.Equal(t, []uint8{255, 127, 0}, p.Pix[:3])
	p, err = vision.FromImage(image.NewGray(image.Rect(0, 0, 3, 3)), vision.Options{})
	require.NoError(t, err)
	require.Empty(t, p.Notes)
	_, err = vision.FromImage(image.NewGray(image.Rect(0, 0, 0, 3)), vision.Options{})
	require.ErrorIs(t, err, vision.ErrCorrupt)
}
