package bench

// Summary are the figures of a distribution.
type Summary struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
}

func summarise(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	return Summary{mean(values), Quantile(values, 0.5), Quantile(values, 0.9), Quantile(values, 0.99)}
}

// Objective is what a request must keep to for goodput, in seconds; 0 = no limit.
type Objective struct {
	First    float64 `json:"first_token_seconds"`
	PerToken float64 `json:"per_token_seconds"`
	Total    float64 `json:"total_seconds"`
}

// met reports whether an answered request kept to it.
func (o Objective) met(s *Served) bool {
	per, ok := s.PerToken()
	within := func(v, limit float64) bool { return limit == 0 || v <= limit }
	return within(s.First, o.First) && (!ok || within(per, o.PerToken)) && within(s.Total, o.Total)
}

// Report are the figures of a simulation, as serving benchmarks give them.
type Report struct {
	Completed    int            `json:"completed"`
	Failed       int            `json:"failed"`
	Errors       map[string]int `json:"errors,omitempty"` // text to count
	Seconds      float64        `json:"duration_seconds"`
	Peak         int            `json:"peak_concurrency"`
	Prompt       int            `json:"prompt_tokens"`
	Cached       int            `json:"cached_tokens"`
	Output       int            `json:"output_tokens"`
	TilesEncoded int            `json:"tiles_encoded"`
	Requests     float64        `json:"requests_per_second"`
	OutputRate   float64        `json:"output_tokens_per_second"`
	TotalRate    float64        `json:"total_tokens_per_second"`
	Objective    Objective      `json:"objective"`
	Good         int            `json:"good"` // completed within the objective
	Goodput      float64        `json:"goodput_requests_per_second"`
	First        Summary        `json:"ttft_ms"`
	PerToken     Summary        `json:"tpot_ms"`
	Gap          Summary        `json:"itl_ms"`
	Latency      Summary        `json:"e2el_ms"`
}

// Report sums a simulation up.
func (s *Simulation) Report(o Objective) *Report {
	r := &Report{Seconds: s.Seconds, Peak: s.Peak, Objective: o}
	var first, per, gaps, total []float64
	for i := range s.Served {
		q := &s.Served[i]
		if q.Error != "" {
			if r.Failed++; r.Errors == nil {
				r.Errors = map[string]int{}
			}
			r.Errors[q.Error]++
			continue
		}
		r.Completed++
		r.Prompt, r.Cached, r.Output, r.TilesEncoded = r.Prompt+q.Prompt, r.Cached+q.Cached, r.Output+q.Output, r.TilesEncoded+q.TilesEncoded
		if o.met(q) {
			r.Good++
		}
		first, total = append(first, 1e3*q.First), append(total, 1e3*q.Total)
		if v, ok := q.PerToken(); ok {
			per = append(per, 1e3*v)
		}
		for _, g := range q.Gaps {
			gaps = append(gaps, 1e3*g)
		}
	}
	r.Requests, r.OutputRate = float64(r.Completed)/s.Seconds, float64(r.Output)/s.Seconds
	r.TotalRate, r.Goodput = float64(r.Prompt+r.Output)/s.Seconds, float64(r.Good)/s.Seconds
	r.First, r.PerToken, r.Gap, r.Latency = summarise(first), summarise(per), summarise(gaps), summarise(total)
	return r
}
