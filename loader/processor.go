package loader

import (
	"errors"
	"fmt"
	"math"

	"metacap/loader/internal/format"
)

const (
	generationName = "generation_config.json"
	processorName  = "preprocessor_config.json"
)

// Generation is generation_config.json: what the publisher recommends. Nil
// pointers are keys that are not there. Nothing here is applied by the loader.
type Generation struct {
	EOS               []int
	BOS, Pad          []int // at most one; empty if not given
	DoSample          *bool
	Temperature       *float64
	TopP              *float64
	MinP              *float64
	RepetitionPenalty *float64
	TopK              *int
	MaxNewTokens      *int
}

// ParseGeneration reads generation_config.json; empty data is a file that is not there.
func ParseGeneration(data []byte) (Generation, error) {
	var g Generation
	if len(data) == 0 {
		return g, nil
	}
	o, err := format.ParseObject(generationName, data)
	if err != nil {
		return g, err
	}
	float := func(key string, lo, hi float64) *float64 {
		if !o.Has(key) {
			return nil
		}
		f := o.Float(key, 0, lo, hi)
		return &f
	}
	integer := func(key string, lo, hi int) *int {
		if !o.Has(key) {
			return nil
		}
		n := o.Int(key, 0, lo, hi)
		return &n
	}
	g.EOS = o.Ints("eos_token_id", 0, maxTokenID, 64)
	g.BOS = o.Ints("bos_token_id", 0, maxTokenID, 1)
	g.Pad = o.Ints("pad_token_id", 0, maxTokenID, 1)
	if o.Has("do_sample") {
		b := o.Bool("do_sample", false)
		g.DoSample = &b
	}
	g.Temperature = float("temperature", 0, 100)
	g.TopP = float("top_p", 0, 1)
	g.MinP = float("min_p", 0, 1)
	g.RepetitionPenalty = float("repetition_penalty", 1e-3, 100)
	g.TopK = integer("top_k", 0, maxTokenID)
	g.MaxNewTokens = integer("max_new_tokens", 0, maxPositionCap)
	return g, errors.Join(o.Errs()...)
}

// Processor is how pixels become ViT input: (px/255 - Mean)/Std on square tiles
// of Size pixels, resized with the bicubic filter.
type Processor struct {
	Size      int
	Mean, Std [3]float32 // R, G, B
}

var (
	imagenetMean = [3]float64{0.485, 0.456, 0.406}
	imagenetStd  = [3]float64{0.229, 0.224, 0.225}
	clipMean     = [3]float64{0.48145466, 0.4578275, 0.40821073}
	clipStd      = [3]float64{0.26862954, 0.26130258, 0.27577711}
)

// ParseProcessor reads preprocessor_config.json for a model; empty data is a file
// that is not there, and then the family's ImageNet constants hold. In the HF
// layout the file also sets the tiling limits of c, and its class default for
// mean and std is CLIP's (GotOcr2ImageProcessor); the remote code has ImageNet's.
func ParseProcessor(data []byte, c *Config) (Processor, error) {
	p := Processor{Size: c.ImageSize}
	o := format.Empty(processorName)
	mean, std := imagenetMean, imagenetStd
	if len(data) > 0 {
		var err error
		if o, err = format.ParseObject(processorName, data); err != nil {
			return p, err
		}
		if c.Layout == LayoutHF {
			mean, std = clipMean, clipStd
		}
	}
	triple(o, "image_mean", &mean, -16, 16)
	triple(o, "image_std", &std, 1e-6, 16)
	for i := range mean {
		p.Mean[i], p.Std[i] = float32(mean[i]), float32(std[i])
	}
	for _, key := range []string{"do_resize", "do_normalize", "do_rescale"} {
		if !o.Bool(key, true) {
			o.Add(&UnsupportedError{File: processorName, Family: c.Arch, Feature: key, Value: "false", Have: "true"})
		}
	}
	if n := o.Int("resample", 3, 0, 16); n != 3 {
		o.Add(&UnsupportedError{File: processorName, Family: c.Arch, Feature: "resample", Value: fmt.Sprint(n), Have: "3, bicubic"})
	}
	if f := o.Float("rescale_factor", 1./255, 0, 1e3); !(math.Abs(f*255-1) <= 1e-6) {
		o.Add(&UnsupportedError{File: processorName, Family: c.Arch, Feature: "rescale_factor", Value: fmt.Sprint(f), Have: "1/255"})
	}
	if n := processorSize(o); n != 0 && n != c.ImageSize {
		o.Fail("size", "differs from the model's image size", fmt.Sprint(n), fmt.Sprint(c.ImageSize))
	}
	if c.Layout == LayoutHF {
		c.MinTiles = o.Int("min_patches", c.MinTiles, 1, 1024)
		c.MaxTiles = o.Int("max_patches", c.MaxTiles, 1, 1024)
		if c.MinTiles > c.MaxTiles {
			o.Fail("min_patches", "exceeds max_patches", fmt.Sprint(c.MinTiles), fmt.Sprint(c.MaxTiles))
		}
	}
	return p, errors.Join(o.Errs()...)
}

func triple(o *format.Object, key string, dst *[3]float64, lo, hi float64) {
	if !o.Has(key) {
		return
	}
	switch v := o.Floats(key, lo, hi, 3); {
	case len(v) == 3:
		copy(dst[:], v)
	case v != nil:
		o.Fail(key, "not three numbers", fmt.Sprint(v), "3")
	}
}

// processorSize reads size as a number, {height,width} or {shortest_edge}; 0 if not given.
func processorSize(o *format.Object) int {
	const hi = 1 << 14
	if !o.IsObject("size") {
		return o.Int("size", 0, 1, hi)
	}
	s, _ := o.Object("size")
	edge := s.Int("shortest_edge", 0, 1, hi)
	h, w := s.Int("height", edge, 1, hi), s.Int("width", edge, 1, hi)
	if h != w {
		o.Fail("size", "not square", fmt.Sprintf("%d×%d", w, h), "")
	}
	return h
}
