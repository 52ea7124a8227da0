// Package floors holds the plan of the house: which package stands on which
// floor, and which of them may open which door to the outside.
//
// DO NOT CHANGE THIS DATA TO FIX BUILDS. A package that does not fit its row is
// in the wrong place, or does two things.
package floors

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/phigate/phigate/"

// room is a row of the plan. A package imports lower floors only.
type room struct {
	floor float64
	path  string
	why   string   // what it says, and why it stands here
	doors []string // third-party modules or packages that it may import
	only  []string // who may import it; empty is everyone above
}

var plan = []room{
	{-1, "internal/yamlfile", "YAML with positions: below the words, because the words are read with it",
		[]string{"github.com/goccy/go-yaml", "github.com/invopop/jsonschema", "github.com/santhosh-tekuri/jsonschema"}, nil},
	{-1, "configs", "the shipped files, embedded: data, no code", nil, []string{"gateway", "cmd/gateway"}},
	{-1, "testdata/campaign", "the sample campaign, embedded: data, read by the demo alone", nil, []string{"cmd/gateway"}},
	{-1, "internal/fakenet", "a little internet for demo, tests and benchmarks: knows nothing of the product, so that it cannot share its mistakes",
		[]string{"github.com/miekg/dns"}, []string{"cmd/gateway"}},

	{0, "policy", "the words and the pure decision", nil, nil},

	{1, "internal/mail", "messages: the one reader and writer of MIME, the one signer",
		[]string{"github.com/emersion/go-message", "github.com/emersion/go-msgauth"}, nil},
	{1, "internal/keys", "the key ring: standard library only, so that a FIPS build covers all of it", nil, nil},
	{1, "internal/store", "the records and the one storage contract: no engine's type crosses it", nil, nil},
	{1.5, "internal/store/bolt", "the embedded engine: the one place that knows bbolt",
		[]string{"go.etcd.io/bbolt", "github.com/klauspost/compress/zstd", "golang.org/x/sys/unix"}, []string{"gateway", "cmd/gateway"}},
	{1.5, "internal/store/storetest", "the contract as tests, for every engine", []string{"pgregory.net/rapid"}, []string{"none but tests"}},
	{1, "tlscheck", "the only way to open a connection that may carry PHI",
		[]string{"github.com/miekg/dns", "github.com/mjl-/mox", "github.com/mjl-/adns"}, nil},

	{1.8, "internal/phi/extract", "text out of MIME and attachments: the readers of foreign formats stay in here",
		[]string{"github.com/ledongthuc/pdf", "golang.org/x/net/html", "golang.org/x/text", "github.com/klauspost/compress", "github.com/ulikunitz/xz"},
		[]string{"internal/phi"}},
	{1.8, "internal/phi/lexicon", "the word lists, compressed", []string{"github.com/klauspost/compress/zstd"}, []string{"internal/phi"}},
	{2, "internal/phi", "what is health information, and about whom", []string{"golang.org/x/text"}, nil},
	{2, "internal/audit", "what happened, provably", []string{"golang.org/x/mod/sumdb"}, nil},
	{2, "internal/delivery", "one SMTP conversation over a proved connection: the one SMTP client", []string{"github.com/emersion/go-smtp"}, nil},

	{3, "internal/registry", "senders, partners, consents, suppressions, people", nil, nil},
	{3, "queue", "what must still be sent, and when; servers of one operator share a limit, and the suffix list tells who is one",
		[]string{"golang.org/x/net/publicsuffix"}, nil},
	{2.5, "queue/bounce", "what a refusal is about, its rules as data: pure, so that delivery and reports ask the same judge", nil, []string{"gateway"}},
	{2.5, "internal/portal/sanitize", "mail HTML made safe to show: the one place that trusts an HTML policy",
		[]string{"github.com/microcosm-cc/bluemonday", "golang.org/x/net/html"}, []string{"internal/portal"}},
	{3, "internal/portal", "the recipient's pickup site", []string{"github.com/nicksnyder/go-i18n"}, nil},
	{4, "internal/console", "the compliance and operator site", []string{"github.com/coreos/go-oidc", "github.com/go-webauthn/webauthn"}, nil},

	{5, "gateway", "the house put together: front door, path, Run",
		[]string{"github.com/emersion/go-smtp", "github.com/emersion/go-sasl", "github.com/prometheus/client_golang"}, nil},
	{6, "cmd/gateway", "commands, flags, exit codes", []string{"github.com/spf13/cobra", "github.com/coreos/go-systemd"}, []string{"nobody"}},
}

// shared are third-party packages without a door: small, kept by the Go team,
// and about nothing that belongs to one room.
var shared = []string{"golang.org/x/sync/", "golang.org/x/time/rate", "golang.org/x/net/idna", "golang.org/x/text/language"}

// banned are packages of the standard library that no product code imports.
var banned = map[string]string{
	"net/smtp":  "SMTP connections come from tlscheck, or PHI could travel unproved",
	"math/rand": "nothing here may be guessed; math/rand/v2 for jitter, crypto/rand for secrets",
	"unsafe":    "no promise of the product survives it",
	"plugin":    "what runs is what was built",
}

// pure may not be imported by policy: a decision does no I/O.
var pure = []string{"os", "net", "net/http", "io/fs", "database/sql", "crypto/rand", "math/rand/v2", "log", "log/slog"}

func rooms() map[string]room {
	m := map[string]room{}
	for _, r := range plan {
		m[r.path] = r
	}
	return m
}

// source is a parsed file that is not a test.
type source struct {
	pkg  string // below the module
	file string
	ast  *ast.File
	fset *token.FileSet
}

func (s source) imports() []string {
	var paths []string
	for _, spec := range s.ast.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

// sources parses the whole module, whatever the build tags.
func sources(t *testing.T) []source {
	t.Helper()
	root := os.DirFS("../..")
	var all []source
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(filepath.Dir(path)), path, file, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no source found")
	}
	return all
}

func TestEveryPackageHasItsFloor(t *testing.T) {
	known := rooms()
	for _, s := range sources(t) {
		if _, ok := known[s.pkg]; !ok {
			t.Errorf("%s: package %s is not in the plan", s.file, s.pkg)
		}
	}
}

func TestImportsGoDown(t *testing.T) {
	known := rooms()
	for _, s := range sources(t) {
		from := known[s.pkg]
		for _, imp := range s.imports() {
			path, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			to, ok := known[path]
			switch {
			case !ok:
				t.Errorf("%s: imports %s, which is not in the plan", s.file, path)
			case to.floor >= from.floor:
				t.Errorf("%s: floor %v imports %s on floor %v", s.file, from.floor, path, to.floor)
			case len(to.only) > 0 && !slices.Contains(to.only, s.pkg):
				t.Errorf("%s: %s is for %v only: %s", s.file, path, to.only, to.why)
			}
		}
	}
}

func TestOneDoorForEachLibrary(t *testing.T) {
	known := rooms()
	for _, s := range sources(t) {
		for _, imp := range s.imports() {
			first, _, _ := strings.Cut(imp, "/")
			switch {
			case !strings.Contains(first, "."): // standard library
				if why := banned[imp]; why != "" {
					t.Errorf("%s: imports %s: %s", s.file, imp, why)
				}
			case strings.HasPrefix(imp, module), within(imp, shared), within(imp, known[s.pkg].doors):
			default:
				t.Errorf("%s: %s has no door in %s", s.file, imp, s.pkg)
			}
		}
	}
}

// within reports whether a package is one of the listed or lies below one.
func within(imp string, list []string) bool {
	return slices.ContainsFunc(list, func(door string) bool {
		door = strings.TrimSuffix(door, "/")
		return imp == door || strings.HasPrefix(imp, door+"/")
	})
}

// A decision can be repeated only if nothing but its facts went into it.
func TestPolicyIsPure(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg != "policy" {
			continue
		}
		for _, imp := range s.imports() {
			if slices.Contains(pure, imp) {
				t.Errorf("%s: imports %s", s.file, imp)
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "Tick", "Sleep"}, sel.Sel.Name) {
					t.Errorf("%v: reads the clock", s.fset.Position(sel.Pos()))
				}
			}
			return true
		})
	}
}

// An init function has side effects at import, which no caller asked for.
func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%v: init function", s.fset.Position(f.Pos()))
			}
		}
	}
}
