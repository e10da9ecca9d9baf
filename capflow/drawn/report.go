package drawn

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Markdown renders a report. command is what reproduces it.
func (r *Report) Markdown(command string) string {
	var b strings.Builder
	total := 0
	for _, n := range r.Pictures {
		total += n
	}
	fmt.Fprintf(&b, "# Flows on drawn pictures\n\nMade by `%s` on %s.\n\n", command, r.Date)
	fmt.Fprintf(&b, "Model %s (weights `%.12s`, config `%.12s`), %s, %s; pack `%.40s`; %d pictures of %d domains, seeds %d to %d.\n\n",
		r.Model.Name, r.Model.Weights, r.Model.Config, r.Model.Backend, r.Model.DType, r.Pack, total, len(r.Pictures), r.Seeds[0], r.Seeds[1])
	b.WriteString("Nothing here is judged by a model: a sentence is right if it is among those that are true of the picture, word by word.\n" +
		"Intervals are 95 %: bootstrap over pictures, Wilson for router, filter and acceptance. Rates are over all captions, accepted or not, unless the column says so.\n\n")
	b.WriteString("| flow | wrong sentences | of accepted | facts found | numbers found | wrong numbers | text found | accepted | failed | leaks |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, x := range r.Results {
		fmt.Fprintf(&b, "| %s | %v | %v | %v | %v | %v | %v | %v | %d | %d |\n", x.Name, x.Wrong, x.WrongAccepted, x.Recall, x.NumberRecall, x.NumberWrong, x.TextRecall, x.Accepted, x.Failed, x.Leaks)
	}
	r.cost(&b)
	r.domains(&b)
	r.differences(&b)
	if r.Router != nil && r.Router.Right.N > 0 {
		r.Router.markdown(&b)
	}
	if f := r.Filter; f != nil {
		fmt.Fprintf(&b, "\n## Filter\n\nEach true caption is judged as it is, and again with one fact replaced by a false one.\n\n- planted errors rejected: %v of %d\n- true captions rejected: %v of %d\n", f.Caught, f.Caught.N, f.FalseReject, f.FalseReject.N)
		for _, k := range slices.Sorted(maps.Keys(f.Reasons)) {
			fmt.Fprintf(&b, "  - %s: %d\n", k, f.Reasons[k])
		}
		if len(f.Missed) > 0 {
			b.WriteString("- planted errors missed:")
			for _, k := range slices.Sorted(maps.Keys(f.Missed)) {
				fmt.Fprintf(&b, " %s %d;", k, f.Missed[k])
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// cost is the table of what a caption takes.
func (r *Report) cost(b *strings.Builder) {
	b.WriteString("\n| flow | prompt tokens computed | taken from shared prefixes | written | machine seconds | neighbouring events in the wrong order |\n|---|---|---|---|---|---|\n")
	for _, x := range r.Results {
		machine := "–"
		if x.Unit != "" {
			machine = fmt.Sprintf("%.2f %s", x.Machine, x.Unit)
		}
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.0f | %s | %v |\n", x.Name, x.Prefill, x.Cached, x.Decode, machine, x.OrderWrong)
	}
}

// domains is the table of wrong sentences and facts found in each domain, of the modes.
func (r *Report) domains(b *strings.Builder) {
	var modes []*Result
	head, rule := "| domain |", "|---|"
	for i := range r.Results {
		if x := &r.Results[i]; !strings.Contains(x.Name, minus) {
			modes = append(modes, x)
			head += " " + x.Name + " |"
			rule += "---|"
		}
	}
	fmt.Fprintf(b, "\n## By domain\n\nWrong sentences / facts found, per cent.\n\n%s\n%s\n", head, rule)
	for _, id := range slices.Sorted(maps.Keys(r.Pictures)) {
		fmt.Fprintf(b, "| %s |", id)
		for _, x := range modes {
			fmt.Fprintf(b, " %.1f / %.1f |", 100*x.Domains[id].Wrong.Value, 100*x.Domains[id].Recall.Value)
		}
		b.WriteString("\n")
	}
}

// differences is the table against verified, in the same pictures.
func (r *Report) differences(b *strings.Builder) {
	if !slices.ContainsFunc(r.Results, func(x Result) bool { return x.MoreWrong != nil }) {
		return
	}
	b.WriteString("\n## Against verified\n\nPercentage points more than verified, in the same pictures: intervals of the difference, bootstrap over pictures.\n\n" +
		"| flow | wrong sentences | facts found |\n|---|---|---|\n")
	for _, x := range r.Results {
		if x.MoreWrong != nil {
			fmt.Fprintf(b, "| %s | %s | %s |\n", x.Name, x.MoreWrong.Points(), x.MoreRecall.Points())
		}
	}
}

func (r *Router) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "\n## Router\n\nRight: %v of %d stills. Expected calibration error: %.3f.\n\n", r.Right, r.Right.N, r.Calibration)
	columns := map[string]bool{}
	for _, row := range r.Confusion {
		for id := range row {
			columns[id] = true
		}
	}
	cols := slices.Sorted(maps.Keys(columns))
	fmt.Fprintf(b, "| true \\ answered | %s |\n|---|%s\n", strings.Join(cols, " | "), strings.Repeat("---|", len(cols)))
	for _, id := range slices.Sorted(maps.Keys(r.Confusion)) {
		fmt.Fprintf(b, "| %s |", id)
		for _, c := range cols {
			fmt.Fprintf(b, " %d |", r.Confusion[id][c])
		}
		b.WriteString("\n")
	}
}
