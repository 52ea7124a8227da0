package fakenet

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"
)

// session is one SMTP conversation, the server's side of it (RFC 5321). It is
// as strict as a hardened MX: CRLF only, commands in order, no relaying.
type session struct {
	h    *Host
	n    int // number of the connection
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	tls  *tls.ConnectionState

	helo     string
	extended bool // EHLO, not HELO
	mail     *Message
}

// errOver ends a session without another word.
var errOver = errors.New("conversation over")

func newSession(h *Host, conn net.Conn, n int) *session {
	s := &session{h: h, n: n, conn: conn}
	s.speak(tap{conn, h})
	return s
}

// speak makes conn the channel and forgets what was said on another one
// (RFC 3207 §4.2).
func (s *session) speak(conn net.Conn) {
	s.r, s.w = bufio.NewReaderSize(conn, 16<<10), bufio.NewWriterSize(conn, 4<<10)
	s.helo, s.extended, s.mail = "", false, nil
}

func (s *session) serve() {
	err := s.say(Connect, "220 "+s.h.Name+" ESMTP fakenet", nil)
	for err == nil {
		var line string
		if line, err = s.line(); err == nil {
			err = s.command(line)
		}
	}
	_ = s.w.Flush()
}

// line reads a command. What was said so far is flushed only when the client
// has nothing more on the way, so a pipelined batch gets one segment back.
func (s *session) line() (string, error) {
	if s.r.Buffered() == 0 {
		if err := s.w.Flush(); err != nil {
			return "", err
		}
	}
	raw, err := s.r.ReadSlice('\n')
	if err != nil {
		return "", err // also a line longer than any RFC allows
	}
	line, ok := bytes.CutSuffix(raw, []byte("\r\n"))
	if !ok || bytes.IndexByte(line, '\r') >= 0 {
		_ = s.put("500 5.5.2 Lines end in CR LF")
		return "", errOver
	}
	return string(line), nil
}

func (s *session) command(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	switch Stage(strings.ToUpper(verb)) {
	case EHLO:
		return s.hello(arg, true)
	case "HELO":
		return s.hello(arg, false)
	case STARTTLS:
		return s.startTLS()
	case MailFrom:
		return s.mailFrom(arg)
	case RcptTo:
		return s.rcptTo(arg)
	case Data:
		return s.data()
	case Reset:
		s.mail = nil
		return s.say(Reset, "250 2.0.0 OK", nil)
	case "NOOP":
		return s.put("250 2.0.0 OK")
	case Quit:
		_ = s.say(Quit, "221 2.0.0 Bye", nil)
		return errOver
	}
	return s.put("500 5.5.1 Unknown command")
}

// say gives the reply of a stage, or does what the faults have there. Unless
// they refuse, take is called first (nil for nothing to take).
func (s *session) say(at Stage, reply string, take func()) error {
	f := s.h.plan()
	if fault := s.h.scripted(at); fault != "" {
		reply = fault
	}
	if take != nil && reply[0] < '4' {
		take()
	}
	if f.Drop == at {
		return errOver
	}
	if f.Hang == at {
		return s.hang()
	}
	if err := s.put(reply); err != nil {
		return err
	}
	if f.DropAfter == at {
		return errOver
	}
	return nil
}

// hang says nothing more, but notices when the client goes.
func (s *session) hang() error {
	_ = s.w.Flush()
	for {
		if _, err := s.r.Discard(1); err != nil {
			return errOver
		}
	}
}

// put writes a reply of one or more lines and closes on 421.
func (s *session) put(reply string) error {
	if d := s.h.plan().Delay; d > 0 {
		time.Sleep(d)
	}
	for line := range strings.SplitSeq(reply, "\n") {
		s.w.WriteString(line)
		s.w.WriteString("\r\n")
	}
	if strings.HasPrefix(reply, "421") {
		return errOver
	}
	return nil // an error of the writer stays and shows at the next flush
}

func (s *session) hello(name string, extended bool) error {
	if name == "" {
		return s.put("501 5.5.4 Name yourself")
	}
	s.helo, s.extended, s.mail = name, extended, nil
	if !extended {
		return s.say(EHLO, "250 "+s.h.Name, nil)
	}
	words := append([]string{s.h.Name}, s.keywords()...)
	for i := range words {
		sep := "-"
		if i == len(words)-1 {
			sep = " "
		}
		words[i] = "250" + sep + words[i]
	}
	return s.say(EHLO, strings.Join(words, "\n"), nil)
}

// keywords are the extensions offered now.
func (s *session) keywords() []string {
	if s.h.d.EHLO != nil {
		return s.h.d.EHLO
	}
	words := []string{"PIPELINING", "SIZE " + strconv.Itoa(s.maxSize()), "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"}
	switch {
	case s.tls != nil:
		words = append(words, "REQUIRETLS")
	case s.h.tls != nil && !s.stripped():
		words = append(words, "STARTTLS")
	}
	return words
}

func (s *session) offers(keyword string) bool {
	for _, w := range s.keywords() {
		if w, _, _ := strings.Cut(w, " "); strings.EqualFold(w, keyword) {
			return true
		}
	}
	return false
}

func (s *session) stripped() bool {
	f := s.h.plan()
	return f.Strip && s.n > f.StripAfter
}

func (s *session) maxSize() int {
	if s.h.d.MaxSize > 0 {
		return s.h.d.MaxSize
	}
	return 50 << 20
}

func (s *session) startTLS() error {
	switch {
	case s.tls != nil:
		return s.put("503 5.5.1 TLS is on already")
	case s.h.tls == nil || s.stripped():
		return s.put("502 5.5.1 No STARTTLS here")
	}
	agreed := false
	err := s.say(STARTTLS, "220 2.0.0 Go ahead", func() { agreed = true })
	if err != nil || !agreed {
		return err
	}
	return s.handshake(s.h.plan())
}

func (s *session) handshake(f *Faults) error {
	s.w.WriteString(f.Inject)
	if err := s.w.Flush(); err != nil || f.Drop == Handshake || s.r.Buffered() > 0 {
		return errOver // commands sent before the handshake must not run after it
	}
	if f.Hang == Handshake {
		return s.hang()
	}
	conn := tls.Server(s.conn, s.h.tls)
	if err := conn.Handshake(); err != nil {
		return errOver
	}
	state := conn.ConnectionState()
	s.tls, s.conn = &state, conn
	s.speak(conn)
	return nil
}

func (s *session) mailFrom(arg string) error {
	switch {
	case s.helo == "":
		return s.put("503 5.5.1 EHLO first")
	case s.mail != nil:
		return s.put("503 5.5.1 One MAIL at a time")
	}
	path, args, ok := parsePath(arg, "FROM:")
	if !ok {
		return s.put("501 5.5.4 MAIL FROM:<address>")
	}
	if reply := s.refusesArgs(path, args); reply != "" {
		return s.put(reply)
	}
	return s.say(MailFrom, "250 2.1.0 OK", func() {
		s.mail = &Message{Host: s.h.Name, Connection: s.n, Helo: s.helo, From: path, FromArgs: args, TLS: s.tls}
	})
}

// refusesArgs checks the ESMTP parameters of MAIL; "" is good.
func (s *session) refusesArgs(path, args string) string {
	for arg := range strings.FieldsSeq(args) {
		key, value, _ := strings.Cut(strings.ToUpper(arg), "=")
		need := key
		switch key {
		case "SIZE":
			if n, err := strconv.Atoi(value); err != nil || n > s.maxSize() {
				return "552 5.3.4 Message too big"
			}
		case "BODY":
			need = "8BITMIME"
		case "RET", "ENVID":
			need = "DSN"
		case "SMTPUTF8", "REQUIRETLS":
		default:
			return "555 5.5.4 Unknown parameter"
		}
		if !s.extended || !s.offers(need) {
			return "555 5.5.4 Parameter was not offered"
		}
	}
	if !ascii(path) && !strings.Contains(strings.ToUpper(args), "SMTPUTF8") {
		return "553 5.6.7 SMTPUTF8 needed" // RFC 6531 §3.5
	}
	return ""
}

func (s *session) rcptTo(arg string) error {
	if s.mail == nil {
		return s.put("503 5.5.1 MAIL first")
	}
	path, args, ok := parsePath(arg, "TO:")
	if !ok || path == "" {
		return s.put("501 5.5.4 RCPT TO:<address>")
	}
	if !ascii(path) && !strings.Contains(strings.ToUpper(s.mail.FromArgs), "SMTPUTF8") {
		return s.put("553 5.6.7 SMTPUTF8 needed")
	}
	if reply := s.h.refusal(path); reply != "" {
		return s.put(reply)
	}
	return s.say(RcptTo, "250 2.1.5 OK", func() { s.mail.Rcpt = append(s.mail.Rcpt, Rcpt{path, args}) })
}

func (s *session) data() error {
	switch {
	case s.mail == nil:
		return s.put("503 5.5.1 MAIL first")
	case len(s.mail.Rcpt) == 0:
		return s.put("554 5.5.1 No valid recipients")
	}
	agreed := false
	if err := s.say(Data, "354 Go ahead", func() { agreed = true }); err != nil || !agreed {
		return err
	}
	if err := s.w.Flush(); err != nil {
		return err
	}
	m := s.mail
	s.mail = nil
	var err error
	m.Data, err = readData(s.r, s.maxSize(), !s.h.d.Discard)
	switch {
	case errors.Is(err, errTooBig):
		return s.put("552 5.3.4 Message too big")
	case errors.Is(err, errLineEnd):
		return s.put("550 5.5.2 Lines end in CR LF")
	case err != nil:
		return err
	}
	return s.say(EndOfData, "250 2.0.0 OK, taken", func() { s.h.keep(*m) })
}

// errTooBig and errLineEnd are returned by readData after the final dot: the
// conversation can go on.
var (
	errTooBig  = errors.New("message too big")
	errLineEnd = errors.New("bare CR or LF")
)

// readData reads a message up to CRLF.CRLF and takes the dots of transparency
// off (RFC 5321 §4.5.2). Only CRLF ends a line, so no peer can smuggle a second
// mail past it; if not keep, the text is thrown away.
func readData(r *bufio.Reader, limit int, keep bool) ([]byte, error) {
	var text []byte
	var bad error
	size, start, last := 0, true, byte('\n')
	for {
		chunk, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if start && string(chunk) == ".\r\n" {
			return text, bad
		}
		if start && chunk[0] == '.' {
			chunk = chunk[1:]
		}
		var ok bool
		if last, start, ok = lineEnds(chunk, last); !ok {
			bad = errLineEnd
		}
		if size += len(chunk); size > limit {
			bad, text, keep = errTooBig, nil, false
		}
		if keep {
			text = append(text, chunk...)
		}
	}
}

// lineEnds looks at a chunk that has LF at most as its last octet. It returns
// the chunk's last octet (before is that of the chunk before), whether a line
// ended with it, and false if there is a CR or LF that is not part of a CRLF.
func lineEnds(chunk []byte, before byte) (last byte, ended, ok bool) {
	if len(chunk) == 0 {
		return before, false, true
	}
	n := len(chunk)
	last = chunk[n-1]
	if last != '\n' {
		cr := bytes.IndexByte(chunk, '\r')
		return last, false, before != '\r' && (cr < 0 || cr == n-1)
	}
	if n > 1 {
		ended = chunk[n-2] == '\r'
		return last, ended, ended && before != '\r' && bytes.IndexByte(chunk, '\r') == n-2
	}
	ended = before == '\r'
	return last, ended, ended
}

// parsePath takes "FROM:<a@b.example> SIZE=1" apart.
func parsePath(arg, prefix string) (path, args string, ok bool) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(strings.TrimLeft(arg[len(prefix):], " "), "<")
	if !ok {
		return "", "", false
	}
	path, args, ok = strings.Cut(rest, ">")
	return path, strings.TrimSpace(args), ok
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 126 }) < 0
}
