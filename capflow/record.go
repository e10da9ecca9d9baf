package capflow

import "metacap/engine"

// RecordSchema is the format of a record.
const RecordSchema = "capflow/1"

// Status is how a caption ended.
type Status string

// The statuses. A rejected caption is kept with its reasons.
const (
	Accepted Status = "accepted"
	Rejected Status = "rejected"
	Failed   Status = "error"
)

// Record is everything about one caption: a line of the output.
type Record struct {
	Schema   string          `json:"schema"`
	ID       string          `json:"id"`
	Key      string          `json:"key"` // of content, place and flow; resuming goes by it
	Status   Status          `json:"status"`
	Mode     Mode            `json:"mode"`
	Source   Source          `json:"source"`
	Domain   *DomainRecord   `json:"domain,omitempty"`
	Captions *Captions       `json:"captions,omitempty"`
	Literals []LiteralRecord `json:"literals,omitempty"`
	Table    *Table          `json:"table,omitempty"`
	Agents   []AgentRecord   `json:"agents,omitempty"`
	Summary  *SummaryRecord  `json:"summary,omitempty"`
	Checks   *Checks         `json:"checks,omitempty"`
	Steps    []StepRecord    `json:"steps,omitempty"`
	Usage    Cost            `json:"usage"`
	Prov     *Provenance     `json:"prov,omitempty"`
	Error    *string         `json:"error"`
}

// Source says what was captioned.
type Source struct {
	URI      string   `json:"uri"`
	Frames   []string `json:"frames,omitempty"`
	SHA256   string   `json:"sha256,omitempty"`
	Width    int      `json:"w,omitempty"`
	Height   int      `json:"h,omitempty"`
	Modality string   `json:"modality"` // image or video
	Tiles    int      `json:"tiles,omitempty"`
	Notes    []string `json:"notes,omitempty"` // what decoding did to the picture
}

// DomainRecord is the router's answer.
type DomainRecord struct {
	Label      string             `json:"label"`            // most probable, or given
	Labels     []string           `json:"labels,omitempty"` // all whose agents ran, if more than one
	Source     string             `json:"source"`           // router, given, video or fallback
	Probs      map[string]float64 `json:"probs,omitempty"`
	Confidence int                `json:"confidence"` // 1 to 3, as published
	Probes     map[string]float64 `json:"probes,omitempty"`
}

// Captions are the caption and what was rendered from it.
type Captions struct {
	Long   string            `json:"long"`
	Medium string            `json:"medium,omitempty"`
	Short  string            `json:"short,omitempty"`
	Tags   []string          `json:"tags,omitempty"`
	Other  map[string]string `json:"other,omitempty"` // renderings asked for: alt, words, a language
}

// LiteralRecord is a number or quoted text of the evidence.
type LiteralRecord struct {
	Text string `json:"text"`
	Kind string `json:"kind"` // number or quote
	From string `json:"from"` // agent
	Kept bool   `json:"kept"` // in the caption
}

// Table is what the data_table agent read.
type Table struct {
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
}

// AgentRecord is one agent's answer and what it cost.
type AgentRecord struct {
	ID       string  `json:"id"`
	Type     string  `json:"type"`
	Text     string  `json:"text"`
	Finish   string  `json:"finish,omitempty"`
	Skipped  string  `json:"skipped,omitempty"` // why it did not run, or does not count
	In       int     `json:"in"`
	Cached   int     `json:"cached"`
	Out      int     `json:"out"`
	LogpMean float64 `json:"logp_mean"`
	Millis   int64   `json:"ms"`
	Seed     uint64  `json:"seed"`
	Limit    int     `json:"limit"`
	Error    string  `json:"error,omitempty"`
}

// SummaryRecord says how the caption was written.
type SummaryRecord struct {
	Mode      string   `json:"mode"`           // text, grounded, or single
	Base      string   `json:"base,omitempty"` // "caption" if the plain caption, not the summary, was verified
	Inputs    []string `json:"inputs,omitempty"`
	Draft     string   `json:"draft,omitempty"` // before verification, when it differs
	Revisions int      `json:"revisions"`
}

// ClaimRecord is one sentence and what speaks for it.
type ClaimRecord struct {
	Text    string   `json:"t"`
	From    string   `json:"from"`            // draft, revision, a look or an agent
	PTrue   float64  `json:"p_true"`          // all that follows taken together
	Claim   *float64 `json:"claim,omitempty"` // probability of Yes to the claim question; none if it could not decide
	Looks   int      `json:"looks"`           // wordings asked
	LogP    *float64 `json:"logp,omitempty"`  // log-probability of the sentence in its place, nats, mean of the looks
	Views   int      `json:"views"`           // looks that say the same
	Agents  int      `json:"agents"`          // other readings that do
	Gain    *float64 `json:"gain,omitempty"`  // of log-probability by the picture, nats
	Action  string   `json:"action"`          // keep, drop, add or leave
	Reasons []string `json:"reasons,omitempty"`
}

// Checks are the results of the filter.
type Checks struct {
	Claims        []ClaimRecord      `json:"claims,omitempty"`
	LeastTrue     *float64           `json:"least_true,omitempty"` // least P(true) of the caption's sentences
	LiteralRecall *float64           `json:"literal_recall,omitempty"`
	Judge         map[string]float64 `json:"judge,omitempty"` // expected scores, 1 to 3
	Marks         map[string]int     `json:"marks,omitempty"` // most probable scores
	Off           []string           `json:"off,omitempty"`   // checks not made, and why
	Reasons       []string           `json:"reasons"`
}

// StepRecord is the trace of one step of the graph.
type StepRecord struct {
	ID     string `json:"id"`
	Millis int64  `json:"ms"`
	Note   string `json:"note,omitempty"`
}

// Cost counts what a caption took. Prefill + Cached is what N independent calls
// would have computed.
type Cost struct {
	Prefill  int      `json:"prefill"` // prompt tokens computed
	Cached   int      `json:"cached"`  // prompt tokens taken from a shared prefix
	Decode   int      `json:"decode"`
	Tiles    int      `json:"vit_tiles"` // encoded
	Prefixes []Shared `json:"prefixes,omitempty"`
	Calls    int      `json:"calls"`
	Scores   int      `json:"scores"` // closed questions
	Millis   int64    `json:"ms"`
	Dollars  float64  `json:"dollars,omitempty"` // of endpoints with a price
	// Seconds is the caption's share of the machine's time, Unit of which: cpu
	// (processor seconds, all threads) or gpu (seconds of one GPU).
	Seconds        float64 `json:"machine_seconds,omitempty"`
	Unit           string  `json:"machine,omitempty"`
	PricePerHour   float64 `json:"usd_per_hour,omitempty"` // as stated by the user
	MachineDollars float64 `json:"machine_usd,omitempty"`  // at that price, with all processors busy
}

// Shared is a prefix of the caption: computed once, used by every question on it.
type Shared struct {
	Name     string `json:"name"` // image, thumbnail, text or a region
	Tokens   int    `json:"tokens"`
	Computed int    `json:"computed"` // tokens of it really computed
	Uses     int    `json:"uses"`
	Cached   int    `json:"cached"` // tokens its uses took from it
}

// Provenance says what made a record.
type Provenance struct {
	ModelInfo
	Roles    map[Role]ModelInfo `json:"roles,omitempty"` // models other than the first
	Prompts  string             `json:"prompts"`
	Flow     string             `json:"flow_sha256"`
	Sampling engine.Sampling    `json:"sampling"`
	Started  string             `json:"started"`
	Attempt  int                `json:"attempt"`
	External []string           `json:"external"` // names of the models behind endpoints
}
