package capflow

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"metacap/capflow/internal/prose"
	"metacap/capflow/pack"
	"metacap/engine"
)

// windowOverlap is the share of a window that the next one sees, too.
const windowOverlap = 4

// windows asks perception about stretches of a long video, each with the frames
// that it shows: what is short is lost among many frames. Frames that an answer
// names are counted in the whole video.
func (r *run) windows(ctx context.Context) (note string, err error) {
	rec := r.agentRecord("windows")
	var old AgentRecord
	if r.loadStage(rec.ID, &old) && old.ID == rec.ID {
		rec.restore(old)
		return "from the journal", nil
	}
	size, total := r.pack.Thresholds.WindowFrames, len(r.in.Images)
	if total <= size {
		return rec.Skipped, nil
	}
	m := r.flow.roleModel(RoleAgent)
	var parts []string
	step := size - size/windowOverlap
	for lo := 0; ; lo += step {
		hi := min(lo+size, total)
		name := fmt.Sprintf("window %d-%d", lo+1, hi)
		pre := r.prefix(m, SeesImage)
		pre.Images = pre.Images[lo:hi]
		if p := r.openAs(ctx, m, name, pre); p.err != nil {
			return "", p.err
		}
		for _, id := range AgentSet(r.pack, r.flow.mode, r.domains) {
			a, _ := r.pack.Agent(id)
			if a.Type != "perception" || r.off(id) {
				continue
			}
			res, err := r.generate(ctx, RoleAgent, name, r.wording(a.Prompt), a.MaxTokens, engine.Request{})
			if err != nil {
				return "", err
			}
			if text := strings.TrimSpace(res.Text); text != "" && !slices.Contains(a.Sentinels, text) {
				parts = append(parts, fmt.Sprintf("Frames %d to %d:\n%s", lo+1, hi, r.shift(text, lo)))
			}
		}
		if hi == total {
			break
		}
	}
	rec.Text, rec.Finish, rec.Skipped = strings.Join(parts, "\n"), string(engine.FinishStop), ""
	if rec.Text == "" {
		rec.Skipped = "nothing to say"
	}
	return fmt.Sprintf("%d windows with something to say", len(parts)), r.save(rec.ID, rec)
}

// shift counts the frames that a text names from the start of the whole video.
func (r *run) shift(text string, by int) string {
	if r.dated == nil {
		return text
	}
	return r.dated.ReplaceAllStringFunc(text, func(m string) string {
		at := r.dated.FindStringSubmatchIndex(m)
		n, err := strconv.Atoi(m[at[2]:at[3]])
		if err != nil {
			return m
		}
		return m[:at[2]] + strconv.Itoa(n+by) + m[at[3]:]
	})
}

// When something happens in a video.
//
// A model that is shown all frames sees what happens and often guesses when: its
// readings then agree on the event and not, or not rightly, on the frame. But
// it can tell whether the event is among the frames that it is shown. So the
// plain caption is asked of openings, the first k frames, and the frame of an
// event is the least k whose opening tells of it. It is found by bisection: a
// video of n frames takes at most log2(n) openings, and each is a prefix of the
// whole video's prompt, so that little of it is computed.
//
// Readings then vote on events; the frame is that of the openings. A sentence with
// another frame is refuted.

// maxEvents bounds the events that are looked for in openings.
const maxEvents = 16

// datesIn finds mentions of a frame; "frame {n}" of the pack.
func datesIn(p *pack.Pack) *regexp.Regexp {
	if p.VideoDate == "" {
		return nil
	}
	return regexp.MustCompile(`(?i)` + strings.Replace(regexp.QuoteMeta(p.VideoDate), `\{n\}`, `(\d+)`, 1) + `\b`)
}

// event takes a sentence apart that names one frame: what happens, and where
// its number stands. ok is false for any other sentence.
func (r *run) event(sentence string) (what string, frame int, at [2]int, ok bool) {
	if !r.in.Video || r.dated == nil {
		return "", 0, at, false
	}
	m := r.dated.FindAllStringSubmatchIndex(sentence, 2)
	if len(m) != 1 {
		return "", 0, at, false
	}
	lo, hi := m[0][2], m[0][3]
	frame, err := strconv.Atoi(sentence[lo:hi])
	return prose.Key(sentence[:lo] + sentence[hi:]), frame, [2]int{lo, hi}, err == nil
}

// redate returns a sentence with the frame that openings gave its event.
func (r *run) redate(sentence string) string {
	what, frame, at, ok := r.event(sentence)
	if found := r.events[what]; ok && found > 0 && found != frame {
		return sentence[:at[0]] + strconv.Itoa(found) + sentence[at[1]:]
	}
	return sentence
}

// dates finds the frame of every event that a reading tells of.
func (r *run) dates(ctx context.Context) (note string, err error) {
	r.split()
	var sentences []string
	for _, c := range r.claims {
		sentences = append(sentences, c.Text)
	}
	looks, agents := r.readings()
	for _, x := range append(looks, agents...) {
		sentences = append(sentences, x.sentences...)
	}
	var order []string
	first := map[string]bool{} // events that a reading puts into the first frame
	for _, s := range sentences {
		what, frame, _, ok := r.event(s)
		if !ok || r.events[what] > 0 {
			continue
		}
		if !slices.Contains(order, what) {
			order = append(order, what)
		}
		first[what] = first[what] || frame <= 1
	}
	if len(order) > maxEvents {
		r.without(fmt.Sprintf("dates: more than %d events, the others keep their frames", maxEvents))
		order = order[:maxEvents]
	}
	for _, what := range order {
		least := 1
		if first[what] {
			least = 0
		}
		frame, err := r.locate(ctx, what, least)
		if err != nil {
			return "", err
		}
		if frame > 0 {
			r.events[what] = frame
		}
	}
	return fmt.Sprintf("%d of %d events found, %d openings read", len(r.events), len(order), len(r.openings)), nil
}

// locate returns the least number of frames, more than least, whose opening
// tells of an event; 0 if not even the whole video does.
func (r *run) locate(ctx context.Context, what string, least int) (int, error) {
	lo, hi := least, len(r.in.Images)
	if told, err := r.tells(ctx, hi, what); err != nil || !told {
		return 0, err
	}
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		told, err := r.tells(ctx, mid, what)
		if err != nil {
			return 0, err
		}
		if told {
			hi = mid
		} else {
			lo = mid
		}
	}
	return hi, nil
}

// tells reports whether the plain caption of the first n frames tells of an event.
func (r *run) tells(ctx context.Context, n int, what string) (bool, error) {
	text, err := r.opening(ctx, n)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(prose.Sentences(text), func(s string) bool {
		w, _, _, ok := r.event(s)
		return ok && w == what
	}), nil
}

// opening is the plain caption of the first n frames; that of all is a look.
func (r *run) opening(ctx context.Context, n int) (string, error) {
	if n == len(r.in.Images) && len(r.looks) > 0 {
		return r.looks[0].text, nil
	}
	if text, ok := r.openings[n]; ok {
		return text, nil
	}
	step := fmt.Sprintf("opening %d", n)
	var text string
	if !r.loadStage(step, &text) {
		m := r.flow.roleModel(RoleAgent)
		pre := r.prefix(m, SeesImage)
		pre.Images = pre.Images[:n]
		r.openAs(ctx, m, step, pre)
		res, err := r.generate(ctx, RoleAgent, step, r.wording(r.pack.Tasks.Caption), r.pack.Thresholds.Tokens, engine.Request{})
		if err != nil {
			return "", err
		}
		text = strings.TrimSpace(res.Text)
		if err := r.save(step, text); err != nil {
			return "", err
		}
	}
	r.openings[n] = text
	return text, nil
}

// refute marks the sentences of the base that put an event into another frame
// than openings do, and lets the sentence with their frame stand for the slot.
func (r *run) refute() {
	for _, c := range r.baseClaims() {
		s := r.redate(c.Text)
		if s == c.Text {
			continue
		}
		c.refuted = true
		c.Reasons = append(c.Reasons, fmt.Sprintf("by the openings of the video: %q", s))
		if !r.given && len(r.claims) < maxClaims {
			r.claims = append(r.claims, &claim{
				ClaimRecord: ClaimRecord{Text: s, From: "openings", Action: actionLeave, PTrue: 0.5},
				slot:        c.slot, after: -1, at: c.at, candidate: true,
			})
		}
	}
}
