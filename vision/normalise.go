package vision

// Mean and std of ImageNet, RGB: what every InternVL checkpoint uses. A checkpoint's
// preprocessor_config.json decides; its class default is CLIP's.
var (
	ImageNetMean = [3]float64{0.485, 0.456, 0.406}
	ImageNetStd  = [3]float64{0.229, 0.224, 0.225}
)

// NormTable is a lookup table [3,256]: channel, 8-bit value → network input.
type NormTable [3][256]float32

// NewNormTable computes (v/255 - mean)/std for every channel and value, each step
// rounded to float32 as the reference's tensor operations are.
func NewNormTable(mean, std [3]float64) *NormTable {
	t := new(NormTable)
	for c := range t {
		m, s := float32(mean[c]), float32(std[c])
		for v := range t[c] {
			x := float32(v) / 255
			x = float32(x - m)
			t[c][v] = float32(x / s)
		}
	}
	return t
}

// Apply writes one tile [S,S,3] as planes [3,S,S]. len(dst) must be len(tile).
func (t *NormTable) Apply(dst []float32, tile []uint8) {
	n := len(tile) / 3
	r, g, b := dst[:n], dst[n:2*n], dst[2*n:3*n]
	for i := range n {
		p := tile[3*i : 3*i+3 : 3*i+3]
		r[i], g[i], b[i] = t[0][p[0]], t[1][p[1]], t[2][p[2]]
	}
}
