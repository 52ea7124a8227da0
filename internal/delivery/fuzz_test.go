package delivery

import (
	"io"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

// told is a connection to a peer that has said everything already.
type told struct{ io.Reader }

func (told) Write(p []byte) (int, error)      { return len(p), nil }
func (told) Close() error                     { return nil }
func (told) LocalAddr() net.Addr              { return nil }
func (told) RemoteAddr() net.Addr             { return nil }
func (told) SetDeadline(time.Time) error      { return nil }
func (told) SetReadDeadline(time.Time) error  { return nil }
func (told) SetWriteDeadline(time.Time) error { return nil }

func fuzzSession(said string) *session {
	g := &guarded{Conn: told{strings.NewReader("220 ready\r\n" + said)}}
	return &session{conn: g, client: smtp.NewClient(g), hello: "gw.test"}
}
