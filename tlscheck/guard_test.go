package tlscheck

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sockets are the names that open connections, by import path. Naming one is
// enough: a method value or a struct of net.Dialer opens sockets too.
var sockets = map[string][]string{
	"net":                         {"Dial", "DialTimeout", "DialTCP", "DialUDP", "DialIP", "DialUnix", "Dialer"},
	"crypto/tls":                  {"Dial", "DialWithDialer", "Dialer"},
	"syscall":                     {"Connect", "Socket"},
	"golang.org/x/sys/unix":       {"Connect", "Socket"},
	"github.com/emersion/go-smtp": {"Dial", "DialTLS", "DialStartTLS", "NewClientStartTLS", "NewClientLMTP", "SendMail", "SendMailTLS"},
	"github.com/mjl-/mox/dane":    {"Dial"},
	"github.com/mjl-/mox/mtasts":  {"FetchPolicy", "Get"},
}

// forbidden packages speak SMTP on connections of their own.
var forbidden = []string{"net/smtp", "github.com/mjl-/mox/smtpclient", "github.com/wneessen/go-mail"}

// allowed are the places outside tlscheck that may open connections, and why
// none of these can carry mail to the world.
var allowed = map[string]string{
	"tlscheck/tlscheck.go": "the one dialer behind Options.Dial",
	"gateway/admin.go":     "the admin socket: a unix socket of this machine",
	"cmd/gateway":          "commands reach the running gateway by its admin socket, and the demo its own submission port",
	"internal/fakenet":     "the demo's pretended internet and pretended mailing tool: reaches loopback only, and no mail of the product passes its hands",
}

// newClient is where an SMTP client may be put on a connection.
const newClient = "internal/delivery"

// TestGuard walks the whole module: SMTP connections come from tlscheck alone,
// and SMTP clients sit on nothing else. Promise 2 hangs on it.
func TestGuard(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || strings.HasPrefix(name, ".") && name != "..") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		rel := filepath.ToSlash(strings.TrimPrefix(p, ".."+string(filepath.Separator)))
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, p, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil // does not compile either
		}
		files++
		for _, msg := range violations(set, rel, f) {
			t.Error(msg)
		}
		return nil
	})
	if err != nil || files < 10 {
		t.Fatalf("walked %d files: %v", files, err)
	}
}

// violations lists what a file does that only tlscheck or delivery may.
func violations(set *token.FileSet, rel string, f *ast.File) []string {
	var out []string
	names := map[string]string{} // local name → import path
	for _, im := range f.Imports {
		p, _ := strconv.Unquote(im.Path.Value)
		if slices.Contains(forbidden, p) {
			out = append(out, rel+" imports "+p)
		}
		local := path.Base(p)
		if im.Name != nil {
			local = im.Name.Name
		}
		if p == "github.com/emersion/go-smtp" && im.Name == nil {
			local = "smtp"
		}
		if local == "." && sockets[p] != nil {
			out = append(out, rel+" imports "+p+" without its name")
		}
		names[local] = p
	}
	clients := map[token.Pos]bool{} // uses of NewClient in functions that take a proved connection
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && path.Dir(rel) == newClient && takesConn(fn, names) {
			ast.Inspect(fn, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "NewClient" {
					clients[s.Pos()] = true
				}
				return true
			})
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := s.X.(*ast.Ident)
		if !ok || names[x.Name] == "" {
			return true
		}
		p, where := names[x.Name], set.Position(s.Pos()).String()
		if slices.Contains(sockets[p], s.Sel.Name) && !mayDial(rel) {
			out = append(out, where+" uses "+p+"."+s.Sel.Name+": connections come from tlscheck.Dial")
		}
		if p == "github.com/emersion/go-smtp" && s.Sel.Name == "NewClient" && !clients[s.Pos()] {
			out = append(out, where+" puts an SMTP client on a connection that tlscheck did not prove")
		}
		return true
	})
	return out
}

func mayDial(rel string) bool {
	_, file := allowed[rel]
	_, dir := allowed[path.Dir(rel)]
	return file || dir
}

// takesConn reports whether a function's parameters hold a connection that
// tlscheck made, and no other.
func takesConn(fn *ast.FuncDecl, names map[string]string) bool {
	found := false
	for _, p := range fn.Type.Params.List {
		star, ok := p.Type.(*ast.StarExpr)
		if !ok {
			continue
		}
		if s, ok := star.X.(*ast.SelectorExpr); ok {
			x, ok := s.X.(*ast.Ident)
			found = found || ok && names[x.Name] == "github.com/phigate/phigate/tlscheck" && (s.Sel.Name == "Conn" || s.Sel.Name == "OpenConn")
		}
	}
	return found
}

// The guard must see what it is there to see.
func TestGuardBites(t *testing.T) {
	for src, bad := range map[string]bool{
		`import "net"; func f() { net.Dial("tcp", "x:25") }`:         true,
		`import n "net"; func f() { _ = (&n.Dialer{}).DialContext }`: true,
		`import . "net"`:                        true,
		`import "crypto/tls"; var d tls.Dialer`: true,
		`import "net/smtp"`:                     true,
		`import "github.com/emersion/go-smtp"; func f() { smtp.SendMail("", nil, "", nil, nil) }`:                                               true,
		`import "github.com/emersion/go-smtp"; var f = smtp.DialStartTLS`:                                                                       true,
		`import "github.com/emersion/go-smtp"; func f() { smtp.NewClient(nil) }`:                                                                true,
		`import s "github.com/emersion/go-smtp"; import "github.com/phigate/phigate/tlscheck"; func f(c *tlscheck.Conn) { s.NewClient(c) }`:     false,
		`import s "github.com/emersion/go-smtp"; import "github.com/phigate/phigate/tlscheck"; func f(c *tlscheck.OpenConn) { s.NewClient(c) }`: false,
		`import s "github.com/emersion/go-smtp"; import "net"; func f(c *net.Conn) { s.NewClient(nil) }`:                                        true,
		`import "net"; func f() { net.Listen("tcp", "") }`:                                                                                      false,
		`import "net"; type T struct{ Dial func() }; func f(t T) { t.Dial() }`:                                                                  false,
	} {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, "x.go", "package p; "+src, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := violations(set, newClient+"/x.go", f); (len(got) > 0) != bad {
			t.Errorf("%s: %q", src, got)
		}
		if f, _ := parser.ParseFile(set, "y.go", "package p; "+src, 0); strings.Contains(src, "NewClient") && len(violations(set, "queue/y.go", f)) == 0 {
			t.Errorf("%s: allowed outside delivery", src)
		}
	}
}
