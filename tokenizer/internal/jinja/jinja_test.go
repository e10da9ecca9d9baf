package jinja_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"metacap/tokenizer/internal/jinja"
)

func vars() map[string]any {
	return map[string]any{
		"messages": []any{
			map[string]any{"role": "user", "content": "Hi \"you\" <b>é"},
			map[string]any{"role": "assistant", "content": "<think>a</think>\n\nb"},
		},
		"add_generation_prompt": true, "tools": nil, "flag": true,
	}
}

// TestRender compares with what jinja2 gives for the same template (trim_blocks, lstrip_blocks).
func TestRender(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{"{{ messages[0].role }}|{{ messages[-1]['role'] }}", "user|assistant"},
		{"{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.role }}{% if not loop.last %},{% endif %}{% endfor %}", "0assistant,1user"},
		{"{% if tools %}T{% else %}F{% endif %}", "F"},
		{"{% if missing is defined %}T{% else %}F{% endif %}", "F"},
		{"{% if flag is true and not missing %}T{% endif %}", "T"},
		{"a\n{% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"},
		{"{{ messages[1].content.split('</think>')[-1].lstrip('\\n') }}", "b"},
		{"{{ messages[0] | tojson }}", `{"content": "Hi \"you\" <b>é", "role": "user"}`},
		{"{% set ns = namespace(x=1) %}{% for m in messages %}{% set ns.x = ns.x + loop.index %}{% endfor %}{{ ns.x }}", "4"},
		{"{% set a = 'x' if flag else 'y' %}{{ a }}", "x"},
		{"{% set b %}<{{ 1 }}>{% endset %}{{ b }}", "<1>"},
		{"{{ messages | length }} {{ 'a,b'.replace(',', ';') }} {{ ' x ' | trim }}", "2 a;b x"},
		{"{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02"},
		{"{{ ['a', 'b'] | join('-') }}", "a-b"},
		{"{{- 'x' -}}  \n y", "xy"},
	} {
		tmpl, err := jinja.Parse(c.template)
		require.NoError(t, err, c.template)
		got, err := tmpl.Render(vars())
		require.NoError(t, err, c.template)
		require.Equal(t, c.want, got, c.template)
	}
}

// TestHostile: what a template must not be able to do ends in an error, soon.
func TestHostile(t *testing.T) {
	loop := "{% for i in range(1000) %}"
	end := "{% endfor %}"
	for name, template := range map[string]string{
		"include":     "{% include '/etc/passwd' %}",
		"import":      "{% import '/etc/passwd' as x %}",
		"extends":     "{% extends '/etc/passwd' %}",
		"macro":       "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"repeat":      "{{ 'a' * 1000000000000 }}",
		"power":       "{{ 10 ** 10 ** 10 }}",
		"brackets":    "{{ " + strings.Repeat("(", 5000) + "1" + strings.Repeat(")", 5000) + " }}",
		"ifs":         strings.Repeat("{% if true %}", 2000) + strings.Repeat("{% endif %}", 2000) + "{{ 1 * 1 }}",
		"doubling":    "{% set ns = namespace(x='aaaaaaaa') %}" + loop + "{% set ns.x = ns.x + ns.x %}" + end,
		"lists":       "{% set ns = namespace(x=['a']) %}" + loop + "{% set ns.x = [ns.x, ns.x] %}" + end + "{{ ns.x }}",
		"replace":     "{% set ns = namespace(x='aaaaaaaa') %}" + loop + "{% set ns.x = ns.x.replace('a', ns.x) %}" + end,
		"loops":       loop + loop + loop + "{{ '' }}" + end + end + end,
		"empty loops": loop + loop + loop + end + end + end,
		"range":       "{% for i in range(1000000000) %}{{ i }}{% endfor %}",
		"cycle":       "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
		"cycle list":  "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}",
		"raise":       "{{ raise_exception('no') }}",
		"format":      "{{ '%1000000000d' | format(1) }}",
		"center":      "{{ 'a' | center(1000000000) }}",
		"ljust":       "{{ 'a'.ljust(1000000000) }}",
		"recursive":   "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
		"self":        "{{ self.x() }}",
		"zero":        "{{ 1 % 0 }}",
		"unclosed":    "{% if true %}",
		"huge":        strings.Repeat("a", jinja.MaxTemplateBytes+1),
		"output":      "{% set ns = namespace(x='" + strings.Repeat("a", 50000) + "') %}" + loop + loop + "{{ ns.x }}" + end + end,
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			tmpl, err := jinja.Parse(template)
			if err == nil {
				_, err = tmpl.Render(vars())
			}
			require.Error(t, err)
			require.Less(t, len(err.Error()), 500)
			require.Less(t, time.Since(start), 10*time.Second)
		})
	}
}
