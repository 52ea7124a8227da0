package delivery

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/phigate/phigate/tlscheck"
)

// told is a connection to a peer that has said everything already.
type told struct {
	io.Reader
	heard *bytes.Buffer
}

func (c told) Write(p []byte) (int, error)    { return c.heard.Write(p) }
func (told) Close() error                     { return nil }
func (told) LocalAddr() net.Addr              { return nil }
func (told) RemoteAddr() net.Addr             { return nil }
func (told) SetDeadline(time.Time) error      { return nil }
func (told) SetReadDeadline(time.Time) error  { return nil }
func (told) SetWriteDeadline(time.Time) error { return nil }

func fuzzSession(said string) (*session, *bytes.Buffer) {
	heard := &bytes.Buffer{}
	g := &guarded{Conn: told{strings.NewReader("220 ready\r\n" + said), heard}}
	return &session{conn: g, client: smtp.NewClient(g), hello: "gw.test", quit: time.Second}, heard
}

// FuzzReplies feeds a session whatever a peer may say behind TLS.
func FuzzReplies(f *testing.F) {
	f.Add("250-x\r\n250 SIZE\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 ok\r\n")
	f.Add("250 x\r\n250 ok\r\n550-5.1.1 a\r\n550 5.1.1 b\r\n250 ok\r\n354 go\r\n")
	f.Add("250 x\r\n250 ok\r\n250 ok\r\n250 ok\r\n354\r\n999 x\r\n")
	f.Fuzz(func(t *testing.T, said string) {
		s, _ := fuzzSession(said)
		if err := s.greet(); err != nil {
			return
		}
		replies, err := s.send(t.Context(), mail("x\r\n", "a@a.test", "b@a.test"))
		switch tlscheck.ClassOf(err) {
		case tlscheck.Permanent, tlscheck.Transport, tlscheck.Indeterminate:
			for _, r := range replies {
				if r.Accepted() {
					t.Errorf("accepted %v beside %v", r, err)
				}
			}
		default:
			if err != nil || len(replies) != 2 {
				t.Errorf("%v, %v", replies, err)
			}
		}
		s.Close()
	})
}

// FuzzData sends whatever is canonical and reads it back as a server would.
func FuzzData(f *testing.F) {
	f.Add([]byte("a\r\n.\r\n..b\r\n"))
	f.Add([]byte("\r\n\r\n"))
	f.Add([]byte("a\r\n.\nb\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, heard := fuzzSession("250 mx\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
		if err := s.greet(); err != nil {
			t.Fatal(err)
		}
		m := mail("")
		m.Data = data
		_, err := s.send(t.Context(), m)
		if !canonical(data) {
			if err == nil || strings.Contains(heard.String(), "MAIL") {
				t.Errorf("%q was sent", data)
			}
			return
		}
		_, raw, _ := strings.Cut(heard.String(), "DATA\r\n")
		body, ok := strings.CutSuffix(raw, "\r\n.\r\n")
		if err != nil || !ok || strings.Contains("\r\n"+body, "\r\n.\r\n") {
			t.Fatalf("%q went out as %q, %v", data, raw, err)
		}
		if got := unstuff([]byte(body + "\r\n")); !bytes.Equal(got, data) {
			t.Errorf("%q arrives as %q", data, got)
		}
	})
}
