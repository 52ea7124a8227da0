package fakenet

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// Tool is a marketing tool that submits mail to a smarthost. Its zero value
// speaks in clear and does not log in.
type Tool struct {
	Addr     string
	TLS      *tls.Config // STARTTLS with it; nil stays in clear
	Login    string      // AUTH PLAIN, "" for none
	Password string
}

// Answer is what a smarthost said about one message: a whole reply for each
// recipient, and one for the message, "" if no recipient was left.
type Answer struct {
	Recipients []string
	Message    string
}

// Final is the reply that decided for the n-th recipient.
func (a Answer) Final(n int) string {
	if !strings.HasPrefix(a.Recipients[n], "250") {
		return a.Recipients[n]
	}
	return a.Message
}

// ErrRefused is returned when the smarthost refuses the tool itself, at
// greeting, TLS, login or MAIL FROM.
var ErrRefused = errors.New("fakenet: the smarthost refuses the tool")

// Submit sends one message over a connection of its own. data has CRLF line ends.
func (t Tool) Submit(ctx context.Context, from string, to []string, data []byte) (Answer, error) {
	line, err := t.Dial(ctx)
	if err != nil {
		return Answer{}, err
	}
	defer line.Close()
	return line.Send(from, to, data)
}

// Line is a tool's open connection.
type Line struct {
	conn net.Conn
	text *textproto.Conn
	stop func() bool
}

// Dial connects, greets, negotiates TLS and logs in.
func (t Tool) Dial(ctx context.Context) (*Line, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, err
	}
	l := &Line{conn: conn, text: textproto.NewConn(conn), stop: context.AfterFunc(ctx, func() { conn.Close() })}
	if err := l.begin(t); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Line) begin(t Tool) error {
	if _, err := l.reply(220); err != nil {
		return err
	}
	if err := l.must(250, "EHLO tool.example"); err != nil {
		return err
	}
	if t.TLS != nil {
		if err := l.must(220, "STARTTLS"); err != nil {
			return err
		}
		l.conn = tls.Client(l.conn, t.TLS)
		l.text = textproto.NewConn(l.conn)
		if err := l.must(250, "EHLO tool.example"); err != nil {
			return err
		}
	}
	if t.Login == "" {
		return nil
	}
	return l.must(235, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+t.Login+"\x00"+t.Password)))
}

// Send submits one message. It returns the replies, also those that refuse.
func (l *Line) Send(from string, to []string, data []byte) (Answer, error) {
	if err := l.must(250, "MAIL FROM:<"+from+">"); err != nil {
		return Answer{}, err
	}
	var a Answer
	taken := 0
	for _, rcpt := range to {
		said, err := l.ask("RCPT TO:<" + rcpt + ">")
		if err != nil {
			return a, err
		}
		if strings.HasPrefix(said, "250") {
			taken++
		}
		a.Recipients = append(a.Recipients, said)
	}
	if taken == 0 {
		_, err := l.ask("RSET")
		return a, err
	}
	if err := l.must(354, "DATA"); err != nil {
		return a, err
	}
	if err := l.body(data); err != nil {
		return a, err
	}
	var err error
	a.Message, err = l.reply(0)
	return a, err
}

// body writes a message with transparency (RFC 5321 §4.5.2).
func (l *Line) body(data []byte) error {
	text := "\r\n" + strings.TrimSuffix(string(data), "\r\n")
	text = strings.ReplaceAll(text, "\r\n.", "\r\n..")[2:]
	_, err := l.conn.Write([]byte(text + "\r\n.\r\n"))
	return err
}

// ask sends a command and returns the reply, whatever it is.
func (l *Line) ask(command string) (string, error) {
	if err := l.text.PrintfLine("%s", command); err != nil {
		return "", err
	}
	return l.reply(0)
}

func (l *Line) must(code int, command string) error {
	if err := l.text.PrintfLine("%s", command); err != nil {
		return err
	}
	_, err := l.reply(code)
	return err
}

// reply reads a reply; want 0 takes any.
func (l *Line) reply(want int) (string, error) {
	code, text, err := l.text.ReadResponse(want)
	var refused *textproto.Error
	if errors.As(err, &refused) && want != 0 {
		return "", fmt.Errorf("%w: %d %s", ErrRefused, refused.Code, refused.Msg)
	}
	if err != nil && !errors.As(err, &refused) {
		return "", err
	}
	return fmt.Sprintf("%d %s", code, text), nil
}

// Close says QUIT and hangs up.
func (l *Line) Close() error {
	l.conn.SetDeadline(time.Now().Add(time.Second))
	l.text.PrintfLine("QUIT")
	l.stop()
	return l.conn.Close()
}
