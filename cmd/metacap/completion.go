package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// completionCmd is metacap completion.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (*completionCmd) examples() string {
	return `
  source <(metacap completion bash)                in ~/.bashrc
  metacap completion zsh > "${fpath[1]}/_metacap"
  metacap completion fish > ~/.config/fish/completions/metacap.fish
`
}

// Run is called by kong.
func (c *completionCmd) Run(a *app) error {
	commands := leaves(a.kong.Model.Node, nil)
	switch c.Shell {
	case "bash":
		bashCompletion(a.stdout, commands)
	case "zsh":
		zshCompletion(a.stdout, commands)
	case "fish":
		fishCompletion(a.stdout, commands)
	}
	return nil
}

// leaf is a command with its flags and the fixed values of its first argument.
type leaf struct {
	words  []string // "model", "info"
	help   string
	flags  []*kong.Flag
	values []string
}

func (l leaf) path() string { return strings.Join(l.words, " ") }

// leaves lists a node's commands in depth order; inner nodes come before their children.
func leaves(n *kong.Node, words []string) []leaf {
	var out []leaf
	for _, child := range n.Children {
		if child.Hidden || child.Type != kong.CommandNode {
			continue
		}
		l := leaf{words: append(slices.Clone(words), child.Name), help: child.Help}
		for _, group := range child.AllFlags(true) {
			l.flags = append(l.flags, group...)
		}
		for _, sub := range child.Children {
			l.values = append(l.values, sub.Name)
		}
		for _, arg := range child.Positional {
			l.values = append(l.values, arg.EnumSlice()...)
		}
		out = append(out, l)
		out = append(out, leaves(child, l.words)...)
	}
	return out
}

// flagWords are the long names of a command's flags.
func (l leaf) flagWords() []string {
	words := []string{}
	for _, f := range l.flags {
		words = append(words, "--"+f.Name)
	}
	return words
}

// topNames are the names of the first level.
func topNames(commands []leaf) []string {
	names := []string{"help"}
	for _, l := range commands {
		if len(l.words) == 1 {
			names = append(names, l.words[0])
		}
	}
	return names
}

func bashCompletion(w io.Writer, commands []leaf) {
	fmt.Fprint(w, `# bash completion for metacap
_metacap() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd="" i words=""
  for ((i = 1; i < COMP_CWORD; i++)); do
    [[ ${COMP_WORDS[i]} == -* ]] && continue
    case "${cmd:+$cmd }${COMP_WORDS[i]}" in
`)
	for _, l := range commands {
		fmt.Fprintf(w, "      %q) cmd=%q ;;\n", l.path(), l.path())
	}
	fmt.Fprint(w, "    esac\n  done\n  case \"$prev\" in\n")
	seen := map[string]bool{}
	for _, l := range commands {
		for _, f := range l.flags {
			if values := f.EnumSlice(); len(values) > 1 && !seen[f.Name] {
				seen[f.Name] = true
				fmt.Fprintf(w, "    --%s) COMPREPLY=($(compgen -W %q -- \"$cur\")); return ;;\n", f.Name, strings.Join(values, " "))
			}
		}
	}
	fmt.Fprint(w, "  esac\n  case \"$cmd\" in\n")
	for _, l := range commands {
		fmt.Fprintf(w, "    %q) words=%q; [[ $cur == -* ]] && words=%q ;;\n", l.path(), strings.Join(l.values, " "), strings.Join(l.flagWords(), " "))
	}
	fmt.Fprintf(w, `    "") words=%q ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [[ $cur == -* ]] || COMPREPLY+=($(compgen -f -- "$cur"))
}
complete -o filenames -F _metacap metacap
`, strings.Join(topNames(commands), " "))
}

func zshCompletion(w io.Writer, commands []leaf) {
	fmt.Fprint(w, "#compdef metacap\n_metacap() {\n  local cmd=\"\" i\n  for ((i = 2; i < CURRENT; i++)); do\n    [[ ${words[i]} == -* ]] && continue\n    case \"${cmd:+$cmd }${words[i]}\" in\n")
	for _, l := range commands {
		fmt.Fprintf(w, "      %q) cmd=%q ;;\n", l.path(), l.path())
	}
	fmt.Fprint(w, "    esac\n  done\n  local -a list\n  case \"$cmd\" in\n")
	for _, l := range commands {
		fmt.Fprintf(w, "    %q)\n      list=(", l.path())
		for _, f := range l.flags {
			fmt.Fprintf(w, " %s", zshItem("--"+f.Name, f.Help))
		}
		fmt.Fprint(w, " )\n      [[ ${words[CURRENT]} == -* ]] && { _describe flag list; return }\n")
		if len(l.values) > 0 {
			fmt.Fprintf(w, "      compadd %s\n", strings.Join(l.values, " "))
		}
		fmt.Fprint(w, "      ;;\n")
	}
	fmt.Fprint(w, "    \"\")\n      list=(")
	for _, l := range commands {
		if len(l.words) == 1 {
			fmt.Fprintf(w, " %s", zshItem(l.words[0], l.help))
		}
	}
	fmt.Fprint(w, " )\n      _describe command list ;;\n  esac\n  _files\n}\nif [[ $zsh_eval_context[-1] == loadautofunc ]]; then _metacap \"$@\"; else compdef _metacap metacap; fi\n")
}

// zshItem is a 'word:description' of _describe, quoted.
func zshItem(word, help string) string {
	text := strings.NewReplacer("'", "’", ":", "\\:").Replace(help)
	return "'" + word + ":" + text + "'"
}

func fishCompletion(w io.Writer, commands []leaf) {
	fmt.Fprintln(w, "# fish completion for metacap")
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "\\'") + "'" }
	for _, l := range commands {
		condition := "__fish_use_subcommand"
		if len(l.words) > 1 {
			condition = "__fish_seen_subcommand_from " + l.words[len(l.words)-2]
		}
		fmt.Fprintf(w, "complete -c metacap -n %s -a %s -d %s\n", quote(condition), l.words[len(l.words)-1], quote(l.help))
		seen := quote("__fish_seen_subcommand_from " + l.words[len(l.words)-1])
		for _, f := range l.flags {
			line := fmt.Sprintf("complete -c metacap -n %s -l %s -d %s", seen, f.Name, quote(f.Help))
			if f.Short != 0 {
				line += " -s " + string(f.Short)
			}
			if values := f.EnumSlice(); len(values) > 1 {
				line += " -x -a " + quote(strings.Join(values, " "))
			} else if !f.IsBool() && !f.IsCounter() {
				line += " -r"
			}
			fmt.Fprintln(w, line)
		}
	}
	fmt.Fprintln(w, "complete -c metacap -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'")
}
