// Package docs holds no code: its tests keep the pages in docs/ true. They stand
// above everything, since they build the command and ask every reader of files.
//
// A page is a story in a folder of its own. Its fenced blocks are used in order:
//
//	console             each line "$ command" is run; it must exit 0, or N if it
//	                    ends in "# exits N", and print the lines below it, in
//	                    which "…" stands for anything
//	csv NAME, eml NAME  written to that file
//	yaml NAME           entries of gateway.yaml or policy.yaml; put in the place
//	                    of those of the shipped file, they must load
//	sh                  not run, but its gateway commands and flags must exist
//
// Commands run in the page's own folder, which is /etc/gateway to them.
package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/configs"
	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/policy"
)

var update = flag.Bool("update", false, "write the generated tables")

const root = "../.."

// today is the day on which the examples are read.
var today = time.Now()

// bin is the folder of the built command.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := withCommand(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func withCommand(run func() int) (status int, err error) {
	if bin, err = os.MkdirTemp("", "docs"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(bin)
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "gateway"), root+"/cmd/gateway")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	return run(), nil
}

// page is one Markdown file.
type page struct{ name, text string }

func pages(t *testing.T) []page {
	t.Helper()
	names, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(names) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	var out []page
	for _, name := range append(names, root+"/README.md") {
		out = append(out, page{strings.TrimPrefix(name, root+"/"), read(t, name)})
	}
	return out
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// block is a fenced block: what its info string says, and where it stands.
type block struct {
	kind, name, text string
	line             int
}

func (p page) blocks() []block {
	var out []block
	var open *block
	for i, line := range strings.Split(p.text, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && open == nil:
			kind, name, _ := strings.Cut(strings.TrimSpace(info), " ")
			open = &block{kind: kind, name: name, line: i + 1}
		case fence:
			out, open = append(out, *open), nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	return out
}

// fenced lists the numbers of the lines in blocks.
func (p page) fenced() map[int]bool {
	out := map[int]bool{}
	for _, b := range p.blocks() {
		for i := range strings.Count(b.text, "\n") {
			out[b.line+1+i] = true
		}
	}
	return out
}

func TestExamplesRun(t *testing.T) {
	for _, p := range pages(t) {
		t.Run(filepath.Base(p.name), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, b := range p.blocks() {
				where := fmt.Sprintf("%s:%d", p.name, b.line)
				switch b.kind {
				case "console":
					b.run(t, where, dir)
				case "csv", "eml":
					if err := os.WriteFile(filepath.Join(dir, b.name), []byte(b.text), 0o600); err != nil {
						t.Fatal(err)
					}
					if !strings.Contains(strings.ReplaceAll(p.text, "```"+b.kind+" "+b.name, ""), b.name) {
						t.Errorf("%s: no command reads %s", where, b.name)
					}
				case "yaml":
					b.load(t, where)
				case "sh", "text", "zone", "":
				default:
					t.Errorf("%s: a block of kind %q is not checked", where, b.kind)
				}
			}
		})
	}
}

var exits = regexp.MustCompile(`# exits (\d)$`)

// run carries out the commands of a console block.
func (b block) run(t *testing.T, where, dir string) {
	for _, part := range strings.Split("\n"+b.text, "\n$ ")[1:] {
		line, want, _ := strings.Cut(part, "\n")
		for strings.HasSuffix(line, `\`) {
			next, rest, _ := strings.Cut(want, "\n")
			line, want = line+"\n"+next, rest
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, "sh", "-c", strings.ReplaceAll(line, "/etc/gateway", dir))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		cancel()
		status, expected := 0, 0
		if e := (*exec.ExitError)(nil); errors.As(err, &e) {
			status = e.ExitCode()
		}
		if m := exits.FindStringSubmatch(line); m != nil {
			expected, _ = strconv.Atoi(m[1])
		}
		got := strings.ReplaceAll(string(out), dir, "/etc/gateway")
		if status != expected {
			t.Errorf("%s: %s\nexits %d, not %d:\n%s", where, line, status, expected, got)
		}
		if missing := notIn(got, want); missing != "" {
			t.Errorf("%s: %s\ndoes not print %q:\n%s", where, line, missing, got)
		}
	}
}

// notIn returns the first line of want that got does not have, in that order.
func notIn(got, want string) string {
	lines := strings.Split(got, "\n")
	for _, w := range strings.Split(strings.TrimSpace(want), "\n") {
		form := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(w)), "…", ".*")
		like := regexp.MustCompile("^" + strings.ReplaceAll(form, " ", " +") + "$")
		i := slices.IndexFunc(lines, func(l string) bool { return like.MatchString(strings.TrimSpace(l)) })
		if i < 0 && strings.Trim(w, "… ") != "" {
			return w
		}
		lines = lines[i+1:]
	}
	return ""
}

// load puts the entries of a YAML block into the shipped file and reads it.
func (b block) load(t *testing.T, where string) {
	switch b.name {
	case "gateway.yaml":
		if _, err := gateway.ParseConfig(b.name, []byte(replaceEntries(string(configs.Gateway), b.text))); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	case "policy.yaml":
		p, problems := policy.Parse(b.name, []byte(replaceEntries(string(configs.Policy), b.text)), today)
		if err := problems.Err(); err != nil {
			t.Errorf("%s: %v", where, err)
			return
		}
		if leak, err := p.Leaks(t.Context(), nil); err != nil || leak != nil {
			t.Errorf("%s: %v %v", where, err, leak)
		}
	default:
		t.Errorf("%s: nothing reads %q", where, b.name)
	}
}

var entry = regexp.MustCompile(`(?m)^([a-z_]+):`)

// replaceEntries replaces the top-level entries of a YAML file by those of text.
func replaceEntries(file, text string) string {
	at := entry.FindAllStringSubmatchIndex(file, -1)
	for i, m := range slices.Backward(at) {
		end := len(file)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		if strings.Contains("\n"+text, "\n"+file[m[2]:m[3]]+":") {
			file = file[:m[0]] + file[end:] // what stands before keeps its place
		}
	}
	return file + "\n" + text
}

// manual lists every command with its flags, as the manual pages say.
func manual(t *testing.T) map[string][]string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command(filepath.Join(bin, "gateway"), "man", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files, err := filepath.Glob(dir + "/*.1")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d manual pages: %v", len(files), err)
	}
	flags := regexp.MustCompile(`\\fB(--?[a-z-]+)\\fP`)
	out := map[string][]string{"gateway man": nil}
	for _, f := range files {
		command := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(f), ".1"), "-", " ")
		out[command] = []string{"-h", "--help", "--version"}
		for _, m := range flags.FindAllStringSubmatch(read(t, f), -1) {
			out[command] = append(out[command], m[1])
		}
	}
	return out
}

// named finds the gateway commands a page names, in blocks and in code spans.
var named = regexp.MustCompile("(?m)(?:^\\$ |^ {4}|`|[|;&] |-u gateway )gateway ((?:[a-z0-9]|--?[a-z])[^`\n|;&]*)")

// commandText is the page with the lines of its sh blocks marked as commands.
func (p page) commandText() string {
	text := p.text
	for _, b := range p.blocks() {
		if b.kind == "sh" {
			text += "\n$ " + strings.ReplaceAll(b.text, "\n", "\n$ ")
		}
	}
	return text
}

func TestCommandsExist(t *testing.T) {
	commands := manual(t)
	seen := map[string]bool{}
	for _, p := range pages(t) {
		if p.name == "docs/codes.md" { // the catalogue's words, for which policy answers
			continue
		}
		for _, m := range named.FindAllStringSubmatch(p.commandText(), -1) {
			words := strings.Fields(m[1])
			command := "gateway"
			for _, w := range words {
				if _, ok := commands[command+" "+w]; !ok {
					break
				}
				command += " " + w
				seen[command] = true
			}
			if command == "gateway" && !strings.HasPrefix(words[0], "-") {
				t.Errorf("%s: there is no command gateway %s", p.name, m[1])
			}
			for _, w := range words {
				name, _, _ := strings.Cut(strings.TrimRight(w, ".,:)"), "=")
				if strings.HasPrefix(name, "-") && len(name) > 1 && !slices.Contains(commands[command], name) {
					t.Errorf("%s: %s has no flag %s", p.name, command, name)
				}
			}
		}
	}
	for command := range commands {
		if command != "gateway" && !seen[command] && !strings.HasPrefix(command, "gateway completion") {
			t.Errorf("no page names %s", command)
		}
	}
}

// A generated part of a page stands between two comments.
func generated(t *testing.T, file, name, text string) {
	t.Helper()
	path := filepath.Join(root, "docs", file)
	page := read(t, path)
	begin, end := "<!-- begin "+name+", generated -->\n", "<!-- end "+name+" -->"
	head, rest, ok1 := strings.Cut(page, begin)
	old, tail, ok2 := strings.Cut(rest, end)
	switch {
	case !ok1 || !ok2:
		t.Errorf("docs/%s: no place for %s", file, name)
	case old != text && !*update:
		t.Errorf("docs/%s: %s is out of date; run go test ./internal/docs -update", file, name)
	case old != text:
		if err := os.WriteFile(path, []byte(head+begin+text+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// schema is what the tables need of a JSON Schema.
type schema struct {
	Description string
	Properties  map[string]schema
	Items       *schema
	Required    []string
	Enum        []string
	OneOf       []schema
}

// rows lists the keys below a path, each with its values and meaning.
func (s schema) rows(path string, row func(path string, required bool, s schema)) {
	for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
		below, at := s.Properties[key], path+key
		row(at, slices.Contains(s.Required, key), below)
		if below.Items != nil {
			below, at = *below.Items, at+"[]"
		}
		below.rows(at+".", row)
	}
}

func keyTable(t *testing.T, text []byte, err error) string {
	t.Helper()
	var s schema
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| key | meaning |\n|---|---|\n")
	s.rows("", func(path string, required bool, s schema) {
		if strings.HasPrefix(path, "rules[].when.") { // docs/compliance.md tells of the facts
			return
		}
		meaning := strings.TrimSuffix(s.Description, ".")
		if len(s.Enum) > 0 && !strings.Contains(meaning, strings.Join(s.Enum[:1], "")+",") {
			meaning += ": `" + strings.Join(s.Enum, "`, `") + "`"
		}
		if required {
			meaning += " (required)"
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", path, strings.ReplaceAll(meaning, "|", `\|`))
	})
	return b.String()
}

func TestEveryKeyIsExplained(t *testing.T) {
	text, err := gateway.Schema()
	generated(t, "admin.md", "gateway.yaml", keyTable(t, text, err))
	text, err = policy.FileSchema()
	generated(t, "admin.md", "policy.yaml", keyTable(t, text, err))
}

func TestEveryFactIsExplained(t *testing.T) {
	text, err := policy.FileSchema()
	var s schema
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	page := read(t, root+"/docs/compliance.md")
	facts := s.Properties["rules"].Items.Properties["when"].Properties
	if len(facts) < 15 {
		t.Fatalf("%d facts", len(facts))
	}
	for name, fact := range facts {
		values := "`" + strings.Join(fact.OneOf[0].Items.Enum, "`, `") + "`"
		if !strings.Contains(page, "| `"+name+"` | "+values+" |") {
			t.Errorf("docs/compliance.md: no row | `%s` | %s |", name, values)
		}
	}
}

func TestEveryCodeIsExplained(t *testing.T) {
	var b strings.Builder
	for _, e := range policy.Catalogue() {
		law := e.Law
		if law == "" {
			law = "–"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s | %s |\n", e.Code, e.Reply(), e.Reason, law, e.NextSender, e.NextStaff)
	}
	generated(t, "codes.md", "codes",
		"| code | reply | reason | law | next step of the sender | next step of compliance |\n|---|---|---|---|---|---|\n"+b.String())
}

// said lists what a pattern finds in the sources below some folders.
func said(t *testing.T, pattern string, folders ...string) []string {
	t.Helper()
	like := regexp.MustCompile(pattern)
	var out []string
	for _, dir := range folders {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no sources: %v", dir, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			for _, m := range like.FindAllStringSubmatch(read(t, f), -1) {
				out = append(out, m[1])
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestEveryAlarmIsExplained(t *testing.T) {
	page := read(t, root+"/docs/runbook.md")
	metrics := append(said(t, `(?:counter|vec)\("(\w+)"`, "gateway"), said(t, `(?:Name: |NewDesc\()"(?:gateway_)?(\w+)"`, "gateway")...)
	if len(metrics) < 10 {
		t.Fatalf("%d metrics", len(metrics))
	}
	for _, m := range metrics {
		if !strings.Contains(page, "`gateway_"+m+"`") {
			t.Errorf("docs/runbook.md: nothing about gateway_%s", m)
		}
	}
	statuses := said(t, `exit[A-Z]\w+ += (\d)`, "cmd/gateway")
	if len(statuses) != 4 {
		t.Fatalf("exit statuses %v", statuses)
	}
	for _, s := range statuses {
		if !strings.Contains(page, "| exit "+s+" |") {
			t.Errorf("docs/runbook.md: nothing about exit %s", s)
		}
	}
	messages := said(t, `og\.(?:Error|Warn|ErrorContext)\((?:ctx, )?"([^"]+)"`,
		"gateway", "queue", "tlscheck", "internal/audit", "internal/portal", "internal/store/bolt")
	if len(messages) < 20 {
		t.Fatalf("%d messages", len(messages))
	}
	for _, m := range messages {
		if !strings.Contains(page, "`"+m+"`") {
			t.Errorf("docs/runbook.md: nothing about the log message %q", m)
		}
	}
	_, rows, _ := strings.Cut(page, "## Log messages")
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(rows, -1) {
		if !slices.Contains(messages, m[1]) {
			t.Errorf("docs/runbook.md: nothing logs %q", m[1])
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	span    = regexp.MustCompile("`([a-zA-Z0-9_./-]+)`")
	machine = regexp.MustCompile(`(^|[\s"'(=])/(work|root|home|tmp|mnt|Users)/`)
)

func TestPagesStandAlone(t *testing.T) {
	for _, p := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(p.text, -1) {
			file, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(m[1], "://") {
				continue
			}
			path := filepath.Join(root, filepath.Dir(p.name), file)
			if file == "" {
				path = filepath.Join(root, p.name)
			}
			text, err := os.ReadFile(path)
			if err != nil && !isFolder(path) || anchor != "" && !hasHeading(string(text), anchor) {
				t.Errorf("%s: link to nothing: %s", p.name, m[1])
			}
		}
		for _, m := range span.FindAllStringSubmatch(p.text, -1) {
			if s := m[1]; strings.Contains(s, "/") && strings.HasSuffix(s, ".go") {
				if _, err := os.Stat(filepath.Join(root, s)); err != nil {
					t.Errorf("%s: names a source that is not there: %s", p.name, s)
				}
			}
		}
		fenced := p.fenced()
		for i, line := range strings.Split(p.text, "\n") {
			if machine.MatchString(line) {
				t.Errorf("%s:%d: names a place on somebody's machine", p.name, i+1)
			}
			if len([]rune(line)) > 110 && !fenced[i+1] && !strings.HasPrefix(line, "|") {
				t.Errorf("%s:%d: longer than 110 columns", p.name, i+1)
			}
		}
	}
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func hasHeading(text, anchor string) bool {
	for _, line := range strings.Split(text, "\n") {
		title := strings.TrimLeft(line, "#")
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', 'a' <= r && r <= 'z', '0' <= r && r <= '9':
				return r
			}
			return -1
		}, strings.ToLower(strings.TrimSpace(title)))
		if title != line && slug == anchor {
			return true
		}
	}
	return false
}

// A test that looks for words finds none in an empty file, and would pass.
func TestPagesAreThere(t *testing.T) {
	for _, name := range []string{"admin", "codes", "compliance", "decisions", "flow", "format", "runbook"} {
		if text := read(t, root+"/docs/"+name+".md"); bytes.Count([]byte(text), []byte("\n")) < 40 {
			t.Errorf("docs/%s.md is empty", name)
		}
	}
}
